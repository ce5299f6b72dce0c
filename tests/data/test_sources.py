"""What a mix is: its shares, its rows end to end, its prefixes, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from e5ft.data.collator import TrainingRows
from e5ft.data.settings import Columns, Mix, Source
from e5ft.data.sources import join_rows
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.data.text import TextSpec, text_id
from tests.conftest import make_rows, make_tokenizer


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def make_mix(*weights: float, temperature: float = 1.0, one_source: bool = True, cap: int | None = None) -> Mix:
    sources = tuple(
        Source(name=f"s{i}", train_file="file", columns=Columns(), weight=weight, cap=cap) for i, weight in enumerate(weights)
    )
    return Mix(sources, temperature, one_source)


@pytest.mark.parametrize(
    ("weights", "temperature", "expected"),
    [
        ((1, 1), 1, (0.9, 0.1)),  # 900 : 100
        ((1, 3), 1, (0.75, 0.25)),  # 900 : 300
        ((1, 1), 2, (0.75, 0.25)),  # 30 : 10
        ((1, 3), 2, (0.5, 0.5)),  # 30 : 3 * 10; with the weight inside the root it would be 30 : 17.3
        ((1, 1), 1e9, (0.5, 0.5)),
        ((1, 1), 1e-3, (1, 0)),  # nothing overflows
    ],
)
def test_shares_worked_by_hand(weights, temperature, expected):
    np.testing.assert_allclose(make_mix(*weights, temperature=temperature).shares((900, 100)), expected, atol=1e-6)


def test_everything_that_changes_a_training_is_in_its_definition():
    """Files and caps are not: they are in the digest of the rows."""
    plain = make_mix(1, 1)
    own = dataclasses.replace(plain.sources[1], passage_prefix="")
    for other in (make_mix(1, 2), make_mix(1, 1, 1), make_mix(1, 1, temperature=2), make_mix(1, 1, one_source=False),
                  Mix((plain.sources[0], own))):  # fmt: skip
        assert other.definition() != plain.definition()
    assert make_mix(1, 1, cap=3).definition() == plain.definition()


# -- rows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def joined(make_store):
    """Two files with a query and a document in common; and each alone."""
    first = make_store([{"query": "q", "document": "w1"}, {"query": "r", "document": "w2"}], "first.jsonl")
    second = make_store([{"query": "q", "document": "w3"}, {"query": "s", "document": ["w2", "w4"]}], "second.jsonl")
    return join_rows(make_mix(1, 1), [first, second], 0), first, second


def test_joined_rows_know_their_source_and_their_place(joined, tmp_path):
    store, first, second = joined
    assert list(store) == [*first, *second]
    assert store.rows["source"][:] == [0, 0, 1, 1]
    assert [store.place(row) for row in range(4)] == [
        f"{tmp_path / name}:{line}" for name in ("first.jsonl", "second.jsonl") for line in (1, 2)
    ]
    chosen = store.select(np.array([0, 3]))
    assert [chosen.place(row) for row in (0, 1)] == [f"{tmp_path / 'first.jsonl'}:1", f"{tmp_path / 'second.jsonl'}:2"]
    assert (store.source, store.read, store.rejected) == ("s0 + s1", 4, 0)
    assert store.query_ids().tolist() == [*first.query_ids(), *second.query_ids()]
    assert store.positive_ids()[1].tolist() == [1, 1, 1, 2]
    assert store.digest not in (first.digest, join_rows(make_mix(1, 1), [second, first], 0).digest)
    assert store.digest == join_rows(make_mix(1, 1), [first, second], 0).digest


def test_faults_of_all_sources_are_counted(make_store, write_bytes, cache):
    good, bad = (b'{"query": "q", "document": "%s"}\n' % text for text in (b"d", b""))
    bad = load_rows(write_bytes(good + bad + good), Columns(), cache, on_bad_row="skip")
    store = join_rows(make_mix(1, 1), [bad, make_store(make_rows(5), "b.jsonl")], 0)
    assert (store.read, store.rejected, store.faults, len(store.rows)) == (8, 1, bad.faults, 7)
    assert store.place(1) == f"{bad.source}:3"


def test_known_positives_are_those_of_all_sources(joined, cache):
    store = joined[0]
    rows = TrainingRows(store, tokenize_rows(store, make_tokenizer(), TextSpec(), cache))
    assert sorted(rows.known(0)) == sorted(rows.known(2)) == sorted(map(text_id, ("w1", "w3")))
    assert rows.place(2) == store.place(2)
    assert rows.ids["source"][:] == [rows[row, 0][1].source for row in range(4)] == [0, 0, 1, 1]


def test_each_source_is_tokenised_under_its_own_prefixes(joined, cache):
    """In any order of the rows; the cache of one contract is not that of another."""
    store, tokenizer = joined[0].select(np.array([3, 0, 2, 1])), make_tokenizer()
    texts = [TextSpec(), TextSpec(query_prefix="w7 ", passage_prefix="")]
    tokens = tokenize_rows(store, tokenizer, texts, cache)
    for row, found, source in zip(store, tokens.tokens, (1, 0, 1, 0), strict=True):
        assert found["query"] == tokenizer(texts[source].query(row.query))["input_ids"]
        assert found["positives"] == [tokenizer(texts[source].passage(text))["input_ids"] for text in row.positives]
    assert tokens.tokens[0]["query"][1] == tokenizer("w7")["input_ids"][1]
    assert len({tuple(ids) for row in tokens.tokens for ids in row["positives"]}) == 5  # w2 of both sources is two
    assert tokens.lengths.tolist() == [len(r["query"]) + sum(map(len, r["positives"])) for r in tokens.tokens]
    tokenize_rows(store, tokenizer, [texts[0], texts[0]], cache)
    assert len([path for path in cache.glob("tokens-*") if path.is_dir()]) == 2


def test_a_cap_is_a_seeded_choice_of_its_source_alone(make_store):
    stores = [make_store(make_rows(50), "first.jsonl"), make_store(make_rows(20, seed=1), "second.jsonl")]
    mix = make_mix(1, 1, cap=30)
    first, again, other = (join_rows(mix, stores, seed) for seed in (1, 1, 2))
    assert first.rows["source"][:] == [0] * 30 + [1] * 20  # 30 is more than the second has
    lines = first.rows["line"][:]
    assert lines[:30] == sorted(set(lines[:30])) != list(range(1, 31))
    assert lines[30:] == list(range(1, 21))
    assert (lines, first.digest) == (again.rows["line"][:], again.digest)
    assert lines != other.rows["line"][:] and first.digest != other.digest


# -- prefixes ----------------------------------------------------------------------------------------------------------------


def test_a_source_changes_the_prefixes_that_it_names():
    model = TextSpec(query_max_length=24)
    assert Source(name="a", train_file="f", columns=Columns()).text(model) == model
    own = Source(name="a", train_file="f", columns=Columns(), query_prefix="", passage_prefix="law: ").text(model)
    assert (own.query("q"), own.passage("p"), own.query_max_length) == ("q", "law: p", 24)
