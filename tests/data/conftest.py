"""Files with faults in them, and the same hypothesis settings for all property tests: seeded, and nothing kept on disk."""

import pytest
from hypothesis import HealthCheck, settings

from e5ft.data.collator import TrainingRows
from e5ft.data.settings import Columns
from e5ft.data.store import RowStore, load_rows, tokenize_rows
from e5ft.data.text import TextSpec
from tests.conftest import make_tokenizer

# function_scoped_fixture: each example overwrites the one file in tmp_path.
PROPERTY = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def write_bytes(tmp_path):
    """Write a file byte by byte and return its path."""

    def write(content: bytes, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture
def make_store(write_rows, tmp_path):
    """Rows as a validated store."""

    def make(rows: list[dict], name: str = "rows.jsonl") -> RowStore:
        return load_rows(write_rows(rows, name), Columns(), tmp_path / "cache")

    return make


@pytest.fixture
def make_training_rows(make_store, tmp_path):
    """Rows, tokenised, as the trainer sees them."""

    def make(rows: list[dict], negatives_per_query: int | None = None) -> TrainingRows:
        store = make_store(rows)
        tokens = tokenize_rows(store, make_tokenizer(), TextSpec(), tmp_path / "cache")
        return TrainingRows(store, tokens, negatives_per_query)

    return make
