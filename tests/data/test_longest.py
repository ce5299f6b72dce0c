"""The most that a row can show, and rows dealt out evenly."""

import json

import numpy as np
import pytest

from e5ft.data.collator import TrainingRows
from e5ft.data.longest import dealt_evenly
from e5ft.data.rows import Columns
from e5ft.data.store import load_rows, tokenize_rows
from tests.conftest import make_encoder, make_rows


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """60 rows of 1 to 3 documents and 0 to 3 negatives of different lengths."""
    folder = tmp_path_factory.mktemp("rows")
    rows = make_rows(60)
    for i, row in enumerate(rows):
        row["document"] = [row["document"] + f" w{i}" * n for n in range(i % 3 + 1)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = make_encoder()
    store = load_rows(str(folder / "rows.jsonl"), Columns(), folder / "cache")
    return store, tokenize_rows(store, encoder.tokenizer, encoder.spec.text, folder / "cache")


def shown(rows: TrainingRows, row: int, epoch: int) -> int:
    example = rows[row, epoch][1]
    return sum(map(len, [example.query, *example.positives, *example.negatives]))


@pytest.mark.parametrize("positives", ["sample", "all"])
@pytest.mark.parametrize("limit", [None, 0, 1, 2])
def test_no_epoch_shows_more_than_the_bound(stores, positives, limit):
    rows = TrainingRows(*stores, limit, positives=positives)
    bound = rows.most_tokens
    for row in range(len(rows)):
        tokens = rows.tokens[row]
        longest = [sorted(map(len, tokens[name]), reverse=True) for name in ("positives", "negatives")]
        by_hand = len(tokens["query"]) + sum(longest[0][: 1 if positives == "sample" else None]) + sum(longest[1][:limit])
        assert bound[row] == by_hand >= max(shown(rows, row, epoch) for epoch in range(6))
    if limit is None and positives == "all":
        np.testing.assert_array_equal(bound, rows.lengths)
    else:
        assert (bound < rows.lengths).any()


def test_rows_are_dealt_once_each_and_evenly():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 500, size=1000)
    for parts, size in ((1, 8), (2, 8), (8, 2), (8, 1), (4, 16), (3, 5)):
        rows = generator.permutation(1000)[: parts * size]
        dealt = dealt_evenly(rows, tokens, parts)
        assert dealt.shape == (parts, size) and sorted(dealt.ravel()) == sorted(rows)
        if parts > 1 and size > 2:
            sums, plain = tokens[dealt].sum(axis=1), tokens[rows.reshape(parts, size)].sum(axis=1)
            assert np.ptp(sums) < np.ptp(plain) and sums.max() < plain.max()


def test_longer_rows_make_a_larger_largest_part():
    """What `worst_step` rests on: rank by rank shorter rows never give a larger largest part."""
    generator = np.random.default_rng(1)
    for _ in range(200):
        parts, size = generator.integers(1, 6, size=2)
        tokens = generator.integers(1, 100, size=60)
        longest = np.argsort(-tokens, kind="stable")[: parts * size]
        some = generator.permutation(60)[: parts * size]
        largest = [tokens[dealt_evenly(rows, tokens, parts)].sum(axis=1).max() for rows in (longest, some)]
        assert largest[0] >= largest[1]
