"""Noise in training queries: which query shows what in an epoch, and that identities and passages stay."""

import numpy as np
import pytest

from e5ft.data.augmentation import make_augmentation
from e5ft.data.collator import TrainingRows, collate
from e5ft.data.noise import noised
from e5ft.data.settings import Augment, Columns, Mix, Source
from e5ft.data.sources import join_rows
from e5ft.data.store import tokenize_rows
from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from tests.conftest import make_rows, make_tokenizer

ROWS = make_rows(60)


@pytest.fixture
def make(make_store, tmp_path):
    """Training rows with noise, and the noise."""

    def rows(share: float, kinds=("typos",), seed: int = 1, data=ROWS):
        store = make_store(data)
        how = store, make_tokenizer(), TextSpec(), tmp_path / "cache"
        augmentation = make_augmentation(*how, Augment(share, kinds), seed)
        return TrainingRows(store, tokenize_rows(*how), augmentation=augmentation), augmentation

    return rows


def tokens_of(text: str) -> list[int]:
    return make_tokenizer()(f"query: {text}")["input_ids"]


def test_a_query_shows_itself_or_its_noised_text_under_its_own_identity(make):
    plain, _ = make(0)
    rows, augmentation = make(0.5)
    shown = []
    for row, data in enumerate(ROWS):
        example, clean = rows[row, 0][1], plain[row, 0][1]
        assert (example.query_id, example.positives, example.negatives) == (clean.query_id, clean.positives, clean.negatives)
        assert list(example.query) in (tokens_of(data["query"]), tokens_of(noised(data["query"], "typos")))
        shown.append(list(example.query) != list(clean.query))
    assert 15 < sum(shown) < 45
    assert augmentation.words.startswith("in 50% of the queries of an epoch, typos: '")


def test_a_share_of_one_noises_every_query_and_none_makes_nothing(make, tmp_path):
    rows, _ = make(1)
    assert all(list(rows[i, 0][1].query) == tokens_of(noised(row["query"], "typos")) for i, row in enumerate(ROWS))
    _, nothing = make(0)
    assert nothing is None and sum(path.is_dir() for path in (tmp_path / "cache").glob("tokens-*")) == 2


def test_epochs_differ_and_an_epoch_is_always_the_same(make):
    rows, _ = make(0.5)
    again, _ = make(0.5)
    other, _ = make(0.5, seed=2)
    epochs = [[tuple(rows[row, epoch][1].query) for row in range(60)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1] != [tuple(other[row, 1][1].query) for row in range(60)]
    assert [tuple(again[row, 1][1].query) for row in reversed(range(60))] == epochs[1][::-1]


def test_rows_of_one_query_show_the_same_so_that_a_step_is_the_same_however_it_is_cut(make):
    data = [{"query": "w1 w2 w3", "document": f"w{10 + i}"} for i in range(8)]
    rows, _ = make(0.5, data=data)
    seen = set()
    for epoch in range(12):
        shown = {tuple(rows[row, epoch][1].query) for row in range(8)}
        assert len(shown) == 1
        assert len(collate([rows[row, epoch] for row in range(8)]).lengths) == 9
        seen |= shown
    assert len(seen) == 2


def test_every_kind_takes_part(make):
    data = [{"query": f"가 나 W{i} w{i}", "document": f"w{i}"} for i in range(40)]
    kinds = ("no_spaces", "typos", "lower_case")
    rows, _ = make(1, kinds, data=data)
    for kind in kinds:
        assert sum(list(rows[i, 0][1].query) == tokens_of(noised(row["query"], kind)) for i, row in enumerate(data)) > 5


def test_the_most_tokens_are_those_of_the_longest_variant(make):
    """Without its spaces a query is one unknown word; a typo splits nothing here, so that the clean one is longest."""
    data = [{"query": f"{'가 ' * i}w1", "document": "w2"} for i in range(1, 6)]
    rows, augmentation = make(0.5, ("no_spaces", "typos"), data=data)
    shown = [[len(rows[row, epoch][1].query) for epoch in range(20)] for row in range(5)]
    most = rows.most_tokens - len(make_tokenizer()("passage: w2")["input_ids"])
    assert most.tolist() == [max(lengths) for lengths in shown] == [3 + i for i in range(2, 7)]
    variants = [len(tokens_of(noised(row["query"], "typos"))) for row in data]
    assert augmentation.longest.tolist() == variants
    assert [len(augmentation.longest_query(row, [0] * 99)) for row in range(5)] == [99] * 5
    assert [len(augmentation.longest_query(row, [0])) for row in range(5)] == variants


def test_the_vocabulary_is_that_of_the_variants(make):
    rows, augmentation = make(1, ("lower_case",), data=[{"query": "W7 W8 W9", "document": "w1"}])
    assert set(rows[0, 0][1].query) <= set(augmentation.vocabulary().tolist())
    assert set(tokens_of("w7 w8 w9")) == set(augmentation.vocabulary().tolist())


def test_each_source_of_a_mix_keeps_its_prefix(make_store, tmp_path):
    stores = [make_store([{"query": f"W{i}", "document": "w9"}], f"{i}.jsonl") for i in (1, 2)]
    sources = (Source(name="a", train_file="1.jsonl", columns=Columns()),
               Source(name="b", train_file="2.jsonl", columns=Columns(), query_prefix="passage: "))  # fmt: skip
    mix, text = Mix(sources), TextSpec()
    store = join_rows(mix, stores, 0)
    how = store, make_tokenizer(), [source.text(text) for source in sources], tmp_path / "cache"
    rows = TrainingRows(store, tokenize_rows(*how), augmentation=make_augmentation(*how, Augment(1, ("lower_case",)), 0))
    tokenizer = make_tokenizer()
    assert [list(rows[row, 0][1].query) for row in range(2)] == tokenizer(["query: w1", "passage: w2"])["input_ids"]


@pytest.mark.parametrize("kinds", [(), ("typos", "typos")])
def test_a_share_of_nothing_is_refused(kinds):
    with pytest.raises(ConfigurationError, match=r"data.augment.kinds=.*: must be a list of at least one, each once"):
        Augment(0.5, kinds)


def test_the_choice_is_spread_evenly_over_many_queries(make):
    _, augmentation = make(0.25)
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 4000)
    clean: list[int] = []
    noisy = sum(augmentation.query(0, int(identity), 3, clean) is not clean for identity in ids)
    assert 0.22 < noisy / 4000 < 0.28
