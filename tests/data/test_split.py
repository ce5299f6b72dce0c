"""A dev set that shares neither query nor document with the training part."""

import numpy as np
import pytest

from e5ft.data.split import split_rows
from e5ft.errors import DataError


def random_rows(seed: int, count: int = 60) -> list[dict]:
    """Rows with some queries and documents in common, and negatives that are other rows' documents."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        documents = [f"d{i}" for i in generator.integers(0, 2 * count, size=generator.integers(1, 3))]
        query = f"q{generator.integers(0, 2 * count)}"
        negatives = [f"d{i}" for i in generator.integers(0, 2 * count, size=3) if f"d{i}" not in documents]
        rows.append({"query": query, "document": documents, "hard_negative": [*negatives, f"own{number}"]})
    return rows


def singles(count: int) -> list[dict]:
    return [{"query": f"q{i}", "document": f"d{i}", "hard_negative": "the same everywhere"} for i in range(count)]


def texts(store) -> tuple[set[str], set[str]]:
    return {row.query for row in store}, {text for row in store for text in row.positives}


@pytest.mark.parametrize("seed", range(8))
def test_the_parts_share_no_query_and_no_document_and_lose_no_row(seed, make_store):
    store = make_store(random_rows(seed))
    training, dev = split_rows(store, 0.2, seed)
    for of_training, of_dev in zip(texts(training), texts(dev), strict=True):
        assert not of_training & of_dev
    assert training.rows["line"][:] == sorted(training.rows["line"][:])
    assert dev.rows["line"][:] == sorted(dev.rows["line"][:])
    assert sorted(training.rows["line"][:] + dev.rows["line"][:]) == store.rows["line"][:]
    assert 0 < len(dev.rows) <= 12


def test_rows_are_tied_through_other_rows(make_store):
    """q0 - d0 - q1 - d1 - ... is one chain of 20 rows, written in any order; 20 rows stand alone."""
    chain = [{"query": f"q{i // 2}", "document": f"d{(i + 1) // 2}"} for i in range(20)]
    alone = [{"query": f"single {i}", "document": f"passage {i}"} for i in range(20)]
    store = make_store([row for pair in zip(chain[::-1], alone, strict=True) for row in pair])
    for seed in range(5):
        _, dev = split_rows(store, 0.3, seed)
        assert len(dev.rows) == 12
        assert all(row.query.startswith("single") for row in dev)


def test_texts_that_differ_in_writing_alone_are_one(make_store):
    rows = [{"query": "a b", "document": "d0"}, {"query": " a  b", "document": "d1"}, {"query": "c", "document": "d2"}]
    _, dev = split_rows(make_store(rows), 0.4, 0)
    assert [row.query for row in dev] == ["c"]


@pytest.mark.parametrize("share, wanted", [(0.1, 10), (0.25, 25), (0.5, 50), (0.001, 1), (0.104, 10)])
def test_rows_that_stand_alone_are_split_at_the_share(share, wanted, make_store):
    training, dev = split_rows(make_store(singles(100)), share, 3)
    assert (len(training.rows), len(dev.rows)) == (100 - wanted, wanted)


def test_a_hard_negative_ties_nothing(make_store):
    """The rows of `singles` all have the same one."""
    _, dev = split_rows(make_store(singles(10)), 0.5, 0)
    assert len(dev.rows) == 5


def test_the_same_seed_gives_the_same_split_and_another_another(make_store):
    store = make_store(singles(100))
    lines = [split_rows(store, 0.1, seed)[1].rows["line"][:] for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]


def test_the_parts_have_their_own_digests(make_store):
    store = make_store(singles(20))
    digests = [part.digest for seed in (1, 2) for part in split_rows(store, 0.2, seed)]
    assert len({store.digest, *digests}) == 5


@pytest.mark.parametrize(
    "rows",
    [
        singles(1),
        [{"query": f"q{i}", "document": "d"} for i in range(30)],
        [{"query": "q", "document": f"d{i}"} for i in range(30)],
        [{"query": f"q{i // 2}", "document": f"d{(i + 1) // 2}"} for i in range(30)],
    ],
)
def test_rows_that_hang_together_cannot_be_split(rows, make_store):
    with pytest.raises(DataError) as caught:
        split_rows(make_store(rows), 0.5, 0)
    assert f"{len(rows)} rows form 1 groups" in str(caught.value)
    assert "data.dev_file" in str(caught.value)
