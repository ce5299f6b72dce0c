"""Mining by hand: a corpus with a planted false negative for every filter, and every candidate's fate accounted for."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.data.rows import Row
from e5ft.data.text import text_id
from e5ft.retrieval import candidates, filters
from e5ft.retrieval.candidates import make_index, random_finder
from e5ft.retrieval.filters import apply_filters, fates
from e5ft.retrieval.mined import mined_rows, summarise
from e5ft.retrieval.mining import find_candidates, gathered, select
from e5ft.retrieval.settings import Limits, Selection

ANSWER = "대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다."
REWRITTEN = "사건을 고등법원에 환송한다. 대법원은 원심판결을 파기하고"  # the planted near-duplicate
UNJUDGED = "최고 법원이 앞선 판단을 뒤집어 다시 재판하라고 돌려보냈다."  # the same in other words: by score alone
OTHER_ANSWER = "파기환송이란 상급심이 원심을 깨뜨리고 되돌려 보내는 일이다."  # the document of another row of the same query
HARD = "원심판결을 확정한 대법원 사건은 더 다툴 수 없다."
EASY = "오늘 저녁에는 김치찌개를 끓여 먹었다."
EASIER = "비가 오는 날에는 우산을 챙기는 것이 좋다."
QUERY = "파기환송은 무엇인가"
SCORES = {UNJUDGED: 0.81, ANSWER: 0.8, REWRITTEN: 0.7, OTHER_ANSWER: 0.69, HARD: 0.6, EASY: 0.2, EASIER: 0.1}
ALIKE = {"ngram": 3, "threshold": 0.7, "measure": "containment"}
ROWS = [Row(QUERY, (ANSWER,)), Row(QUERY, (OTHER_ANSWER,)), Row("저녁에 무엇을 먹었나", (EASY,))]


class Teacher:
    """Gives the scores of a table; keeps what it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def score(self, queries, passages):
        self.asked += zip(queries, passages, strict=True)
        return np.array([self.scores[passage] for passage in passages], dtype=np.float32)


def mine(rows=ROWS, corpus=tuple(SCORES), *, scores=SCORES, limits=None, teacher=None, extra=None, all_rows=(), **selection):
    """Mine with a scorer that looks scores up; returns rows, summary, lines."""
    problem = make_index(rows, corpus, all_rows=all_rows)
    selection = Selection(**{"window": (1, 20), **selection})
    value = np.array([scores.get(text, 0.0) for text in problem.passages], dtype=np.float32)

    def dense(queries, depth):
        order = np.argsort(-value[: problem.candidates], kind="stable")[:depth]
        return np.pad(np.tile(order, (len(queries), 1)), ((0, 0), (0, depth - len(order))), constant_values=-1)

    finders = {"dense": dense, "random": random_finder(problem, selection.seed), **(extra(problem) if extra else {})}
    lines, documents = find_candidates(problem, finders, selection, lambda queries, passages: value[passages])
    apply_filters(problem, lines, documents, limits or Limits(), teacher)
    lines, documents = gathered(lines), gathered(documents)
    chosen = select(problem, lines, selection)
    mined = list(mined_rows(rows, problem, selection, lines, documents, chosen))
    return mined, summarise(problem, selection, lines, documents, chosen), lines


def negatives(limits=None, row=0, **given):
    return mine(limits=limits, **given)[0][row]["hard_negative"]


def test_without_filters_the_planted_ones_are_mined_but_never_a_known_answer():
    found = negatives()
    assert found == [UNJUDGED, REWRITTEN, HARD, EASY, EASIER]
    assert OTHER_ANSWER not in found  # another row of the same query says that it answers
    assert OTHER_ANSWER in negatives(rows=[ROWS[0], ROWS[2]])  # the control: without that row nobody knows
    mined, summary, _ = mine(rows=[ROWS[0], ROWS[2]], all_rows=ROWS)  # a row that is not mined for says it as well
    assert OTHER_ANSWER not in mined[0]["hard_negative"] and summary["candidates"]["known_positive"] == 3


def test_nothing_is_looked_at_and_every_filter_is_on():
    limits = Limits(near_duplicate=ALIKE, percent=0.9, margin=0.1, max_score=0.5, teacher_margin=0.0)
    assert mine(limits=limits, teacher=Teacher(SCORES), window=(15, 20))[1]["candidates"]["seen"] == 0


def test_a_filter_and_a_source_are_one_entry_each(monkeypatch):
    """Both come from outside: no other line knows their names."""

    def too_short(filtering, lines, least):
        return [len(filtering.index.passages[int(passage)]) < least for passage in lines["passage"]]

    place = sorted(SCORES, key=text_id).index(EASIER)
    last = candidates.Source("last", (), lambda searchers: lambda queries, depth: np.full((len(queries), 1), place))
    monkeypatch.setattr(filters, "FILTERS", (*filters.FILTERS, filters.Filter("shortest", "too short", too_short)))
    monkeypatch.setattr(candidates, "SOURCES", (*candidates.SOURCES, last))
    limits = SimpleNamespace(**vars(Limits()), shortest=len(EASY) + 1)

    def finders(index):
        return candidates.build_finders(["last"], candidates.Searchers(index, 0))

    mined, summary, _ = mine(rows=[ROWS[0]], limits=limits, sources=("last", "dense"), extra=finders)
    assert summary["negatives_by_source"]["last"] == 1 and mined[0]["hard_negative"][0] == EASIER
    assert EASY not in mined[0]["hard_negative"] and summary["candidates"]["shortest"] == 1
    assert filters.fates()["shortest"] == "too short"


@pytest.mark.parametrize(
    ("limits", "caught", "fate"),
    [
        (Limits(near_duplicate=ALIKE), REWRITTEN, "near_duplicate"),
        (Limits(percent=0.95), UNJUDGED, "percent"),
        (Limits(margin=0.05), UNJUDGED, "margin"),
        (Limits(max_score=0.75), UNJUDGED, "max_score"),
    ],
)
def test_each_filter_catches_its_planted_false_negative(limits, caught, fate):
    rows = [ROWS[0], ROWS[2]]
    without, with_it = negatives(rows=rows), negatives(limits, rows=rows)
    assert caught in without and caught not in with_it
    assert [text for text in without if text in with_it] == with_it and HARD in with_it  # nothing else changes place
    assert mine(rows=rows, limits=limits)[1]["candidates"][fate] >= 1


@pytest.mark.parametrize(
    "limits",
    [
        *(Limits(percent=0.5), Limits(margin=0.25), Limits(max_score=0.25)),
        *(Limits(teacher_margin=0.25), Limits(teacher_max_score=0.25)),
    ],
)
def test_a_limit_is_the_largest_score_that_a_negative_may_have(limits):
    """All five lie at 0.25, which is exact in float32."""
    scores = {ANSWER: 0.5, UNJUDGED: 0.2501, HARD: 0.25}
    assert negatives(limits, rows=[ROWS[0]], corpus=list(scores), scores=scores, teacher=Teacher(scores)) == [HARD]


def test_the_cross_encoder_catches_what_it_outscores_and_its_scores_are_kept():
    verdicts = {ANSWER: 2.0, OTHER_ANSWER: 1.5, UNJUDGED: 1.9, REWRITTEN: 2.5, HARD: -1.0, EASY: -3.0, EASIER: -4.0}
    rows, teacher = [ROWS[0]], Teacher(verdicts)
    mined, summary, _ = mine(rows=rows, limits=Limits(teacher_margin=0.0), teacher=teacher)
    assert mined[0]["hard_negative"] == [UNJUDGED, OTHER_ANSWER, HARD, EASY, EASIER]
    assert mined[0]["scores"] == [2.0, 1.9, 1.5, -1.0, -3.0, -4.0]  # the document, then the negatives in their order
    assert summary["candidates"]["cross_encoder"] == 1 and summary["teacher_scores"]["medians"]["positives"] == 2.0
    assert Counter(teacher.asked).most_common(1)[0][1] <= 2  # each pair once as candidate, once as document
    assert negatives(Limits(teacher_margin=0.6), rows=rows, teacher=teacher) == [HARD, EASY, EASIER]
    assert negatives(Limits(teacher_max_score=-2.0), rows=rows, teacher=teacher) == [EASY, EASIER]
    assert negatives(Limits(), rows=rows, teacher=teacher)[1] == REWRITTEN  # no limit: scores only
    assert "scores" not in mine(rows=rows)[0][0]


def test_filters_stand_in_their_order():
    """What an earlier filter removed is not counted by a later one, nor asked of the cross-encoder."""
    teacher = Teacher(dict.fromkeys(SCORES, 0.0) | {HARD: 1.0})
    limits = Limits(near_duplicate=ALIKE, percent=0.95, margin=0.05, max_score=0.65, teacher_margin=0.0)
    _, summary, _ = mine(rows=[ROWS[0], ROWS[1]], limits=limits, teacher=teacher)
    counts = summary["candidates"]
    # Row 1: answers known 2, near-duplicate REWRITTEN, UNJUDGED by percent. Row 2's answer scores 0.69: the same there.
    assert (counts["known_positive"], counts["near_duplicate"], counts["percent"]) == (4, 2, 2)
    assert (counts["margin"], counts["max_score"], counts["cross_encoder"]) == (0, 0, 2)
    assert {passage for _, passage in teacher.asked} == {HARD, EASY, EASIER, ANSWER, OTHER_ANSWER}


def test_with_several_documents_the_lowest_decides():
    both = [Row(QUERY, (ANSWER, HARD))]
    assert negatives(Limits(percent=0.95), rows=both) == [EASY, EASIER]
    assert UNJUDGED not in negatives(Limits(percent=0.95), rows=[Row(QUERY, (ANSWER,))])
    assert OTHER_ANSWER in negatives(Limits(percent=0.95), rows=[Row(QUERY, (ANSWER,))])


def test_scores_below_zero():
    """positive * 0.95 would be -0.19: the false negative at -0.19 and all below it would pass."""
    scores = {ANSWER: -0.2, UNJUDGED: -0.195, HARD: -0.205, EASY: -0.22}
    rows = [Row(QUERY, (ANSWER,))]
    assert negatives(Limits(percent=0.95), rows=rows, corpus=list(scores), scores=scores) == [EASY]


def test_the_window_is_that_of_the_raw_ranks():
    """Ranks 3 to 5 of the source, also where a filter removes 1 and 2: cut afterwards, the window would slide down."""
    mined, summary, _ = mine(rows=[ROWS[0]], limits=Limits(percent=0.95), window=(3, 5))
    assert mined[0]["hard_negative"] == [REWRITTEN, OTHER_ANSWER, HARD]
    assert [made["rank"] for made in mined[0]["mining"]["hard_negative"]] == [3, 4, 5]
    assert summary["candidates"]["seen"] == 3
    empty = mine(rows=[ROWS[0]], window=(15, 20))[1]
    assert empty["candidates"]["seen"] == 0 and empty["rows_with_none"] == 1


def test_sources_take_turns_and_a_passage_is_the_first_one_s():
    def bm25(problem):
        order = [list(problem.passages).index(text) for text in (HARD, EASIER, UNJUDGED)]
        return {"bm25": lambda queries, depth: np.tile(order, (len(queries), 1))[:, :depth]}

    mined, summary, _ = mine(rows=[ROWS[0]], sources=("dense", "bm25"), window=(1, 3), per_query=3, extra=bm25)
    assert mined[0]["hard_negative"] == [UNJUDGED, HARD, REWRITTEN]
    assert [(made["source"], made["rank"]) for made in mined[0]["mining"]["hard_negative"]] == [
        ("dense", 1),
        ("bm25", 1),
        ("dense", 3),
    ]
    assert summary["candidates"]["found_by_another_source"] == 1  # UNJUDGED, third of BM25
    assert summary["negatives_by_source"] == {"dense": 2, "bm25": 1}


def test_no_filler_that_was_not_asked_for():
    assert negatives(per_query=50, rows=[ROWS[0]]) == [UNJUDGED, REWRITTEN, OTHER_ANSWER, HARD, EASY, EASIER]
    strict = Limits(max_score=-1.0)
    mined, summary, _ = mine(limits=strict)
    assert [row["hard_negative"] for row in mined] == [[], [], []]
    assert (summary["rows_with_none"], summary["rows_with_fewer"], summary["rows_by_negatives"]) == (3, 3, {"0": 3})
    assert summary["scores"]["medians"]["negatives"] is None


def test_at_most_so_many_uses_first_come_first_served():
    rows = [Row(f"질문 {i}", (f"문서 {i}",)) for i in range(4)]
    mined, summary, _ = mine(rows=rows, corpus=[HARD, EASY, EASIER], per_query=1, max_uses=2)
    assert [row["hard_negative"] for row in mined] == [[HARD], [HARD], [EASY], [EASY]]
    assert summary["candidates"]["max_uses"] == 2


def test_samples_depend_on_seed_and_query_alone():
    corpus = [f"글 {i}" for i in range(40)]
    rows = [Row(f"질문 {i}", (f"문서 {i}",)) for i in range(30)]
    given = dict(corpus=corpus, choose="sample", per_query=3, sources=("dense", "random"), limits=Limits(percent=1.0))
    scores = {f"문서 {i}": 0.5 for i in range(30)}
    found = {row["query"]: row["hard_negative"] for row in mine(rows, scores=scores, **given)[0]}
    shuffled = {
        row["query"]: row["hard_negative"] for row in mine(rows[::-1], scores=scores, **{**given, "corpus": corpus[::-1]})[0]
    }
    alone = mine(rows[7:8], scores=scores, **given)[0][0]
    assert found == shuffled and alone["hard_negative"] == found["질문 7"]
    assert len({tuple(texts) for texts in found.values()}) > 20
    assert found != {row["query"]: row["hard_negative"] for row in mine(rows, scores=scores, seed=1, **given)[0]}


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data())
def test_every_candidate_has_one_fate_and_no_answer_is_mined(data):
    texts = [f"글 {i}" for i in range(12)]
    rows = data.draw(
        st.lists(
            st.builds(Row, st.sampled_from(["가", "나", "다"]), st.lists(st.sampled_from(texts), min_size=1, max_size=3).map(tuple)),
            min_size=1, max_size=8,
        )
    )  # fmt: skip
    scores = {text: data.draw(st.sampled_from([-0.5, 0.0, 0.4, 0.8, 0.9])) for text in texts}
    low = data.draw(st.integers(1, 4))
    selection = dict(
        sources=data.draw(st.sampled_from([("dense",), ("random", "dense"), ("dense", "random")])),
        window=(low, low + data.draw(st.integers(0, 12))),
        per_query=data.draw(st.integers(1, 5)),
        choose=data.draw(st.sampled_from(["top", "sample"])),
        max_uses=data.draw(st.sampled_from([None, 1, 2])),
    )
    limits = Limits(percent=data.draw(st.sampled_from([None, 0.9])), max_score=data.draw(st.sampled_from([None, 0.85])))
    mined, summary, lines = mine(rows, texts, scores=scores, limits=limits, **selection)
    counts = dict(summary["candidates"])
    assert counts.pop("seen") == len(lines) == sum(counts.values()) and set(counts) == set(list(fates())[1:])
    assert counts["chosen"] == sum(len(row["hard_negative"]) for row in mined)
    assert sum(int(k) * v for k, v in summary["rows_by_negatives"].items()) == counts["chosen"]
    answers = {query: {text for row in rows if row.query == query for text in row.positives} for query in "가나다"}
    uses = Counter()
    for row in mined:
        found = row["hard_negative"]
        assert not answers[row["query"]] & set(found) and len(set(found)) == len(found) <= selection["per_query"]
        uses.update(found)
    assert selection["max_uses"] is None or max(uses.values(), default=0) <= selection["max_uses"]
