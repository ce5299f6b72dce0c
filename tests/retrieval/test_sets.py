"""Retrieval sets made of rows, and the bounded corpus."""

import unicodedata

import pytest

from e5ft.data.rows import Row
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.sets import RetrievalSet, from_passages, from_rows, halves, shrink_corpus, subsample
from tests.conftest import PLACES

ROWS = [
    Row("수도는?", ("서울", "한양"), ("부산",)),
    Row("항구는?", ("부산",), ("서울", "대구")),
    Row("수도는? ", ("대구",), ("서울", "광주")),
]


def by_text(made: RetrievalSet):
    text_of = dict(zip(made.passage_ids, made.passages, strict=True)) | dict(zip(made.query_ids, made.queries, strict=True))
    return {text_of[q]: {text_of[d]: value for d, value in judged.items()} for q, judged in made.qrels.items()}


def test_rows_become_a_set():
    made = from_rows("dev", ROWS)
    assert by_text(made) == {"수도는?": {"서울": 1, "한양": 1, "대구": 1}, "항구는?": {"부산": 1}}
    assert sorted(made.passages) == sorted(["서울", "한양", "부산", "대구", "광주"])
    for ids, letter in ((made.query_ids, "q"), (made.passage_ids, "d")):
        assert list(ids) == sorted(ids)
        assert all(len(name) == 17 and name[0] == letter and int(name[1:], 16) >= 0 for name in ids)


def test_a_set_depends_on_the_normalised_texts_alone():
    def otherwise(text):
        return f" {unicodedata.normalize('NFD', text)}\n"

    again = [
        Row(otherwise(row.query), tuple(map(otherwise, row.positives)), tuple(map(otherwise, row.negatives)))
        for row in reversed(ROWS)
    ]
    assert from_rows("dev", again) == from_rows("dev", ROWS)
    assert from_rows("dev", ROWS[:2]) != from_rows("dev", ROWS)


def test_passages_alone_are_a_corpus_with_the_ids_that_rows_give():
    made, rows = from_passages("all", ["서울", "부산", unicodedata.normalize("NFD", "서울 ")]), from_rows("dev", ROWS)
    assert len(made.queries) == 0 and made.qrels == {} and list(made.passage_ids) == sorted(made.passage_ids)
    known = dict(zip(rows.passage_ids, rows.passages, strict=True))
    assert [known[name] for name in made.passage_ids] == list(made.passages) and sorted(made.passages) == ["부산", "서울"]
    with pytest.raises(DataError, match="all: there are no passages"):
        from_passages("all", [])


def test_no_rows():
    with pytest.raises(DataError, match="dev: there are no rows"):
        from_rows("dev", [])


@pytest.fixture(scope="module")
def whole():
    """40 passages; BM25's order for q1 is d05, d10, d15, ... (ever longer), for q2 d07, d14, ..., and d39 is judged."""
    passages = [
        " ".join((["사과"] if i % 5 == 0 else []) + (["바다"] if i % 7 == 0 else []) + ["무"] * (i + 1)) for i in range(40)
    ]
    return RetrievalSet(
        name="whole",
        query_ids=StringColumn(["q1", "q2"]),
        queries=StringColumn(["사과", "바다"]),
        passage_ids=StringColumn(f"d{i:02}" for i in range(40)),
        passages=StringColumn(passages),
        qrels={"q1": {"d39": 1, "d38": 0}, "q2": {"d39": 1}},
    )


def test_the_cut_keeps_judged_then_bm25s_top_in_turn(whole):
    """d00 holds both words and is first for both; then d05 (q1), d07 (q2), d10, d14, ..."""
    assert set(shrink_corpus(whole, 3).passage_ids) == {"d38", "d39", "d00"}
    assert set(shrink_corpus(whole, 6).passage_ids) == {"d38", "d39", "d00", "d05", "d07", "d10"}


def test_the_cut_fills_up_with_random_ones(whole):
    smaller = shrink_corpus(whole, 20, seed=3, depth=2)
    assert len(smaller.passages) == 20
    assert {"d38", "d39", "d00", "d05", "d07"} <= set(smaller.passage_ids)
    assert smaller == shrink_corpus(whole, 20, seed=3, depth=2)
    assert smaller != shrink_corpus(whole, 20, seed=4, depth=2)


def test_the_cut_keeps_order_texts_and_judgements(whole):
    smaller = shrink_corpus(whole, 25)
    text_of = dict(zip(whole.passage_ids, whole.passages, strict=True))
    assert list(smaller.passage_ids) == sorted(smaller.passage_ids)
    assert [text_of[name] for name in smaller.passage_ids] == list(smaller.passages)
    assert smaller.qrels == whole.qrels and smaller.queries == whole.queries


def test_never_fewer_than_the_judged_and_never_more_than_there_are(whole):
    assert list(shrink_corpus(whole, 1).passage_ids) == ["d38", "d39"]
    assert shrink_corpus(whole, 40) is whole and shrink_corpus(whole, 10**9) is whole


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 5, "depth": 0}, {"size": 2.5}])
def test_a_cut_out_of_range(whole, arguments):
    with pytest.raises(ConfigurationError, match="corpus cut"):
        shrink_corpus(whole, **arguments)


def test_a_sample_has_fewer_queries_and_the_passages_judged_for_them(whole):
    one = subsample(whole, 1, 5, seed=1)
    (query,) = one.query_ids
    assert one.qrels == {query: whole.qrels[query]} and len(one.passages) == 5
    assert set(whole.qrels[query]) <= set(one.passage_ids)
    assert list(one.queries) == [dict(zip(whole.query_ids, whole.queries, strict=True))[query]]
    assert one == subsample(whole, 1, 5, seed=1)
    assert {tuple(subsample(whole, 1, 5, seed=seed).query_ids) for seed in range(8)} == {("q1",), ("q2",)}
    assert subsample(whole, 2, 40) is whole


def queries_of(name: str, count: int, start: int = 0) -> RetrievalSet:
    ids = sorted(f"q{i}" for i in range(start, start + count))
    qrels = {query: {"d": int(query != "q3")} for query in ids}  # q3 has no relevant passage
    return RetrievalSet(name, StringColumn(ids), StringColumn(ids), StringColumn(["d"]), StringColumn(["d"]), qrels)


def test_halves_are_of_the_queries_ids_alone():
    one = queries_of("en", 41)
    first, second = halves(one)
    assert len(first) == 20 and sorted([*first, *second]) == list(range(41)) and list(first) == sorted(first)
    assert list(one.query_ids).index("q3") in second
    for half, again in zip(halves(one), halves(queries_of("zh", 41)), strict=True):
        assert half.tolist() == again.tolist()
    assert first.tolist() not in ([*range(20)], [*range(0, 40, 2)])  # neighbours, of one text often, go either way
    both = {one.query_ids[i] for i in first} & {queries_of("en", 60).query_ids[i] for i in halves(queries_of("en", 60))[0]}
    assert len(both) >= 14  # a set that grows keeps most of them


def test_what_cannot_be_halved_is_refused():
    assert [part.tolist() for part in halves(queries_of("law", 2))] in ([[0], [1]], [[1], [0]])
    with pytest.raises(DataError, match="law: 1 scored queries; a keep set must have 2 at least.* keep.guard=false"):
        halves(queries_of("law", 2, start=3))


ANSWERED = [
    Row(f"{place} 시청 전화", (f"{place} 시청의 대표 전화는 {n}번이고 평일에만 받는다",))
    for n, place in enumerate(PLACES[:8], 3141)
]


def test_further_passages_join_the_corpus_and_copies_of_answers_do_not():
    """A copy that another query has as its answer stays: it is judged."""
    copy = f"{ANSWERED[0].positives[0]}!"
    others = ["도서관은 시청 뒤에 있다", copy, ANSWERED[1].positives[0].replace(" ", "  "), "도서관은 시청 뒤에 있다 "]
    made = from_rows("dev", ANSWERED, others)
    assert sorted(made.passages) == sorted([*(row.positives[0] for row in ANSWERED), others[0]]) and made.counts.near_copies == 1
    assert list(made.passage_ids) == sorted(made.passage_ids) and made.qrels == from_rows("dev", ANSWERED).qrels
    judged = from_rows("dev", [*ANSWERED, Row("다른 질의", (copy,))], others)
    assert copy in set(judged.passages) and judged.counts.near_copies == 0
    assert from_rows("dev", [*ANSWERED, Row("또", ("답",), (copy,))]).counts.near_copies == 0  # rows alone stay as they are
    assert from_rows("dev", [*ANSWERED, Row("또", ("답",), (copy,))], ()).counts.near_copies == 1
    assert shrink_corpus(made, 8).counts.near_copies == 1
