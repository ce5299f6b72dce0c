"""Rows to micro-batches: every text once, no false negative, rotation over the epochs."""

import dataclasses
import json
import unicodedata

import numpy as np
import pytest
import torch

from e5ft.data.collator import Example, TrainingRows, collate, most_tokens
from e5ft.data.settings import Columns, Mix, Source
from e5ft.data.sources import join_rows
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.data.text import TextSpec, text_id
from tests.conftest import make_encoder, make_rows, make_tokenizer


def ids(*texts: str) -> list[int]:
    return [text_id(text) for text in texts]


def negatives(rows: TrainingRows, row: int, epoch: int = 0) -> list[int]:
    return list(rows[row, epoch][1].negative_ids)


# -- one row of an epoch -----------------------------------------------------------------------------------------------------


def test_an_example_holds_the_tokens_and_identities_of_its_texts(make_training_rows):
    rows = make_training_rows([{"query": "w1 w2", "document": "w3", "hard_negative": ["w4 w5", "w6"]}])
    number, example = rows[0, 0]
    tokenizer = make_tokenizer()
    assert number == 0
    assert list(example.query) == tokenizer("query: w1 w2")["input_ids"]
    assert [list(tokens) for tokens in example.positives] == [tokenizer("passage: w3")["input_ids"]]
    assert [list(tokens) for tokens in example.negatives] == tokenizer(["passage: w4 w5", "passage: w6"])["input_ids"]
    assert [example.query_id, *example.positive_ids, *example.negative_ids] == ids("w1 w2", "w3", "w4 w5", "w6")


def test_known_positives_are_those_of_all_rows_of_the_same_query(make_training_rows):
    rows = make_training_rows(
        [{"query": "q", "document": ["a", "b"]}, {"query": "r", "document": ["b", "c"]}, {"query": " q ", "document": ["d", "a"]}]
    )
    assert sorted(rows.known(0)) == sorted(rows.known(2)) == sorted(ids("a", "b", "d"))
    assert sorted(rows.known(1)) == sorted(ids("b", "c"))


def test_queries_that_share_their_one_document_both_know_it(make_training_rows):
    rows = make_training_rows([{"query": f"q{i}", "document": "d"} for i in range(3)])
    assert [rows.known(row).tolist() for row in range(3)] == [ids("d")] * 3


def test_a_known_positive_is_never_a_hard_negative(make_training_rows):
    """Neither the other positive of a row with the same query, before or after it, nor the same text in other writing."""
    jamo = unicodedata.normalize("NFD", "한국어")
    rows = make_training_rows(
        [
            {"query": "질의", "document": "a b", "hard_negative": ["c", jamo, "n"]},
            {"query": "other", "document": "n"},
            {"query": unicodedata.normalize("NFD", " 질의"), "document": ["c", "한국어"], "hard_negative": ["m", "a  b\n"]},
        ]
    )
    assert negatives(rows, 0) == ids("n")
    assert negatives(rows, 2) == ids("m")


def test_no_row_of_random_data_meets_a_false_hard_negative(make_training_rows):
    data = make_rows(120)
    rows = make_training_rows(data, 2)
    answers: dict[str, set[int]] = {}
    for row in data:
        answers.setdefault(row["query"], set()).add(text_id(row["document"]))
    dropped = 0
    for number, row in enumerate(data):
        allowed = set(ids(*row["hard_negative"])) - answers[row["query"]]
        dropped += len(allowed) < len(set(row["hard_negative"]))
        for epoch in range(3):
            found = negatives(rows, number, epoch)
            assert set(found) <= allowed
            assert len(set(found)) == len(found) == min(2, len(allowed))
    assert dropped  # the data do have such a case


def test_a_negative_named_twice_counts_once(make_training_rows):
    data = [{"query": "q", "document": "d", "hard_negative": ["n", "m", " n", "o", "m"]}]
    assert negatives(make_training_rows(data), 0) == ids("n", "m", "o")
    two = make_training_rows(data, 2)
    assert all(len(set(negatives(two, 0, epoch))) == 2 for epoch in range(3))


def test_positives_take_turns(make_training_rows):
    rows = make_training_rows([{"query": f"q{i}", "document": ["a", "b", "c"]} for i in range(2)])
    for row in range(2):
        shown = [rows[row, epoch][1].positive_ids[0] for epoch in range(6)]
        assert set(shown[:3]) == set(ids("a", "b", "c"))
        assert shown[3:] == shown[:3]
        tokens = {tuple(rows[row, epoch][1].positives[0]) for epoch in range(3)}
        assert tokens == {tuple(tokens) for tokens in make_tokenizer()(["passage: a", "passage: b", "passage: c"])["input_ids"]}


def test_a_positive_named_twice_takes_one_turn(make_training_rows):
    """With its own score, that of its first mention."""
    data = {"query": "q", "document": ["a", "b", " a", "c", "b"], "scores": [1, 2, 3, 4, 5]}
    rows = make_training_rows([data])
    shown = [rows[0, epoch][1] for epoch in range(6)]
    assert [(*each.positive_ids, *each.positive_scores) for each in shown[:3]] == list(
        zip(ids("a", "b", "c"), (1, 2, 4), strict=True)
    )
    assert [each.positive_ids for each in shown[3:]] == [each.positive_ids for each in shown[:3]]


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("limit", range(1, 8))
def test_negatives_take_turns_until_all_were_shown(limit, count, make_training_rows):
    names = [f"w{i}" for i in range(count)]
    rows = make_training_rows([{"query": f"q{i}", "document": "d", "hard_negative": names} for i in range(3)], limit)
    for row in range(3):
        shown = [negatives(rows, row, epoch) for epoch in range(count)]
        assert all(len(set(epoch)) == len(epoch) == min(limit, count) for epoch in shown)
        assert {identity for epoch in shown for identity in epoch} == set(ids(*names))


def test_a_teachers_scores_belong_to_the_negatives_shown(make_training_rows):
    """Where one is masked as known and the others take turns."""
    data = [
        {"query": "q", "document": ["d", "e"], "hard_negative": ["known", "n1", "n2"], "scores": [8, 9, 0, 1, 2]},
        {"query": "q", "document": "known", "scores": [8]},
    ]
    scores = dict(zip(ids("d", "e", "n1", "n2"), (8.0, 9.0, 1.0, 2.0), strict=True))
    rows, shown = make_training_rows(data, 1), set()
    for epoch in range(3):
        example = rows[0, epoch][1]
        assert example.positive_scores == [scores[i] for i in example.positive_ids]
        assert example.negative_scores == [scores[i] for i in example.negative_ids]
        shown.update(example.positive_ids, example.negative_ids)
    assert shown == set(scores)


def test_all_negatives_or_none(make_training_rows):
    data = [{"query": "q", "document": "d", "hard_negative": ["w1", "w2", "w3"]}, {"query": "r", "document": "e"}]
    assert [negatives(make_training_rows(data), row) for row in range(2)] == [ids("w1", "w2", "w3"), []]
    assert [negatives(make_training_rows(data, 0), row) for row in range(2)] == [[], []]


def test_tokens_of_other_rows_are_refused(make_store, tmp_path):
    store = make_store(make_rows(5))
    tokens = tokenize_rows(store.select(np.arange(4)), make_tokenizer(), TextSpec(), tmp_path / "cache")
    with pytest.raises(ValueError, match="5 rows but tokens of 4"):
        TrainingRows(store, tokens)


def test_a_row_knows_its_place(make_store, write_bytes, make_training_rows, tmp_path):
    rows = make_training_rows([{"query": f"q{i}", "document": "d"} for i in range(3)])
    assert rows.place(2) == f"{tmp_path / 'rows.jsonl'}:3"


# -- a micro-batch -----------------------------------------------------------------------------------------------------------


def batch_of(rows: TrainingRows, numbers, epoch: int = 0):
    return collate([rows[number, epoch] for number in numbers])


def tokens_of(batch) -> list[list[int]]:
    return [piece.tolist() for piece in batch.input_ids.split(batch.lengths)]


@pytest.mark.parametrize("seed", range(3))
def test_each_text_stands_once_and_the_indices_point_at_it(seed, make_training_rows):
    data = make_rows(60, seed=seed)
    rows = make_training_rows(data)
    numbers = np.random.default_rng(seed).permutation(60)[:32].tolist()
    batch = batch_of(rows, numbers)
    step, texts = batch.step, tokens_of(batch)
    tokenizer = make_tokenizer()
    assert batch.rows == tuple(numbers)
    assert batch.input_ids.dtype == torch.int64 and sum(batch.lengths) == len(batch.input_ids)
    # What the indices point at is the text of the row, under its role's prefix.
    allowed = [[t for t in data[i]["hard_negative"] if text_id(t) not in rows.known(i)] for i in numbers]
    assert [texts[i] for i in step.query] == tokenizer([f"query: {data[i]['query']}" for i in numbers])["input_ids"]
    assert [texts[i] for i in step.positive] == tokenizer([f"passage: {data[i]['document']}" for i in numbers])["input_ids"]
    assert [texts[i] for i in step.negative] == tokenizer([f"passage: {t}" for row in allowed for t in row])["input_ids"]
    assert step.negative_count.tolist() == [len(row) for row in allowed]
    assert step.query_id.tolist() == ids(*(data[i]["query"] for i in numbers))
    # Distinct by role and identity, and all of them in use.
    passages = {data[i]["document"] for i in numbers} | {text for row in allowed for text in row}
    queries = {data[i]["query"] for i in numbers}
    assert len(texts) == len(step.text_id) == len(passages) + len(queries)
    assert sorted(step.text_id.tolist()) == sorted(ids(*passages, *queries))
    assert set(step.query) | set(step.positive) | set(step.negative) == set(range(len(texts)))
    assert len(queries) < 32 and len(passages) < 32 + sum(map(len, allowed))  # there were doubles
    # Every row's known positives.
    ends = np.cumsum(step.known_count)
    assert [sorted(part) for part in np.split(step.known, ends[:-1])] == [sorted(rows.known(i)) for i in numbers]
    assert step.local_rows == (0, 32)


def test_one_string_as_a_query_and_as_a_passage_is_two_texts(make_training_rows):
    rows = make_training_rows([{"query": "w1", "document": "w2"}, {"query": "w2", "document": "w1"}])
    batch = batch_of(rows, [0, 1])
    assert sorted(batch.step.text_id.tolist()) == sorted(ids("w1", "w1", "w2", "w2"))
    assert len({tuple(tokens) for tokens in tokens_of(batch)}) == 4


def test_texts_are_sorted_by_length_and_do_not_depend_on_the_order_of_the_rows(make_training_rows):
    rows = make_training_rows(make_rows(40))
    forward, backward = batch_of(rows, range(20)), batch_of(rows, reversed(range(20)))
    assert list(forward.lengths) == sorted(forward.lengths)
    assert torch.equal(forward.input_ids, backward.input_ids)
    assert np.array_equal(forward.step.text_id, backward.step.text_id)
    assert forward.step.query.tolist() == backward.step.query.tolist()[::-1]


def test_a_micro_batch_without_hard_negatives(make_training_rows):
    step = batch_of(make_training_rows(make_rows(8, negatives=False)), range(8)).step
    assert step.negative.tolist() == [] and step.negative.dtype == np.int64
    assert step.negative_count.tolist() == [0] * 8


def test_moving_a_micro_batch_moves_its_tokens(make_training_rows):
    batch = batch_of(make_training_rows(make_rows(4)), range(4))
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.device.type == "meta"
    assert (moved.lengths, moved.rows, moved.step) == (batch.lengths, batch.rows, batch.step)


def test_one_text_with_two_prefixes_is_two_texts_and_one_identity():
    """Two sources of a mix write other prefixes before the same query and passage: each keeps its tokens, both are known."""
    known = np.array([7])
    examples = [
        Example([100 + source, 5], [[200 + source, 7]], [[200 + source, 9]], 5, [7], [9], known, source=source)
        for source in (0, 1)
    ]
    batch = collate(list(enumerate(examples)))
    tokens = [tuple(part.tolist()) for part in batch.input_ids.split(batch.lengths)]
    assert set(tokens) == {(100, 5), (101, 5), (200, 7), (201, 7), (200, 9), (201, 9)}
    step = batch.step
    for row in (0, 1):
        assert tokens[step.query[row]] == (100 + row, 5) and tokens[step.positive[row]] == (200 + row, 7)
        assert tokens[step.negative[row]] == (200 + row, 9)
    assert step.text_id[step.passage].tolist() == [7, 9]  # once each, however written
    assert step.answers[0].tolist() == [0, 1] and step.negatives == 2


def test_rows_of_a_mix_keep_their_source_s_prefixes_in_a_micro_batch(make_store, tmp_path):
    stores = [make_store([{"query": "w1", "document": "w2", "hard_negative": "w3"}], f"{name}.jsonl") for name in "ab"]
    mix = Mix(tuple(Source(name=name, train_file=f"{name}.jsonl", columns=Columns()) for name in "ab"))
    store, formats = join_rows(mix, stores, 0), (TextSpec(), TextSpec("ask: ", "text: "))
    rows = TrainingRows(store, tokenize_rows(store, make_tokenizer(), formats, tmp_path / "cache"))
    batch = batch_of(rows, [0, 1])
    texts, step = tokens_of(batch), batch.step
    assert len(texts) == 6
    for row, own in enumerate(formats):
        expected = make_tokenizer()([own.query("w1"), own.passage("w2"), own.passage("w3")])["input_ids"]
        assert [texts[step.query[row]], texts[step.positive[row]], texts[step.negative[row]]] == expected


class RoleAndIdentity:
    """A table whose vectors say whose they are."""

    def of(self, role, ids, source=0):
        return np.stack([np.full(len(ids), role == "query"), ids % 1000, np.full(len(ids), source)], axis=1).astype(np.float32)


def test_vectors_of_other_models_stand_beside_their_texts(make_training_rows):
    """A text that is a query and a passage has two."""
    rows = make_training_rows([{"query": "w1", "document": "w2"}, {"query": "w2 w3", "document": "w1"}])
    step = collate([rows[row, 0] for row in range(2)], {"guide": RoleAndIdentity()}).step
    vectors = step.side["guide"]
    assert vectors.dtype == np.float32 and vectors[:, 1].tolist() == (step.text_id % 1000).tolist()
    assert vectors[step.query, 0].tolist() == [1, 1] and vectors[step.positive, 0].tolist() == [0, 0]
    assert not vectors[:, 2].any()
    examples = [(row, dataclasses.replace(rows[row, 0][1], source=row)) for row in range(2)]
    step = collate(examples, {"guide": RoleAndIdentity()}).step
    vectors = step.side["guide"]
    assert vectors[step.query, 2].tolist() == vectors[step.positive, 2].tolist() == [0, 1]  # each source's own
    assert vectors[:, 1].tolist() == (step.text_id % 1000).tolist()


# -- the largest number of tokens --------------------------------------------------------------------------------------------


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
    chosen = np.array([7, 3, 11])
    selected = most_tokens(rows.tokens.select(chosen), positives=None, negatives=None)
    np.testing.assert_array_equal(selected, rows.lengths[chosen])
