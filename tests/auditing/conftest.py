"""Rows as an audit reads them."""

import pytest

from e5ft.auditing.rows import AuditedRows
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows


@pytest.fixture
def make_audited(write_rows, tmp_path):
    """Rows on disk, read."""

    def make(rows: list[dict]) -> AuditedRows:
        return AuditedRows(load_rows(write_rows(rows), Columns(), tmp_path / "cache", on_bad_row="skip"))

    return make


def row(query: str, document: str | list[str], negative: list[str] | None = None) -> dict:
    """A row of a file."""
    return {"query": query, "document": document, "hard_negative": negative or []}
