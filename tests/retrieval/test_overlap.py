"""What sets and training rows share: queries, answers, and near-copies that ask for the same."""

import pytest

from e5ft.data.rows import Row
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.data.text import text_id
from e5ft.retrieval.overlap import Overlap, overlaps
from e5ft.retrieval.sets import from_rows
from tests.conftest import PLACES

TRAINED = [
    (f"{place}에서 여권은 어디서 만드나요", f"여권은 {place} 시청 {n}층 민원실에서 만든다") for n, place in enumerate(PLACES[:10])
]


@pytest.fixture
def counted(write_rows, tmp_path):
    """The overlap of sets (each a list of query and answers) with TRAINED."""
    rows = [{"query": query, "document": document, "hard_negative": ["시청 민원실"]} for query, document in TRAINED]
    store = load_rows(write_rows([*rows, *rows[:3]]), Columns(), tmp_path / "cache")

    def count(*sets, found=None):
        made = [from_rows(f"set{n}", [Row(query, tuple(answers)) for query, *answers in each]) for n, each in enumerate(sets)]
        return overlaps([("test" if n == 0 else each.name, each) for n, each in enumerate(made)], store, found)

    return count


def test_queries_and_answers_of_every_set_are_counted(counted):
    new = ("버스 요금은 얼마인가", "버스 요금은 천오백 원이다")
    first, second, third = counted([TRAINED[0], TRAINED[1], new], [new], [("등기소는 어디", TRAINED[2][1], "법원 뒤에 있다")])
    assert first == Overlap("set0", "test", 3, 2, 0, 3, 2, 0)
    assert second == Overlap("set1", "set1", 1, 0, 0, 1, 0, 0) and second.sentence == "" and not second.leaks
    assert third == Overlap("set2", "set2", 1, 0, 0, 2, 1, 0)


def test_spelling_that_normalises_is_the_same_text(counted):
    query, answer = TRAINED[0]
    assert counted([(f"  {query} ", answer.replace(" ", "\n"))])[0] == Overlap("set0", "test", 1, 1, 0, 1, 1, 0)


def test_a_query_is_nearly_trained_on_where_the_answer_is_the_same(counted):
    """The template alone is as near: 강릉's question in other words is no leak where the answer is 춘천's."""
    again, answer = f"{TRAINED[0][0]}요?", TRAINED[0][1]
    assert counted([(again, answer)])[0] == Overlap("set0", "test", 1, 0, 1, 1, 1, 0)
    assert counted([(again, f"{answer}.")])[0] == Overlap("set0", "test", 1, 0, 1, 1, 0, 1)
    assert counted([(again, TRAINED[1][1])])[0] == Overlap("set0", "test", 1, 0, 0, 1, 1, 0)


def test_the_training_queries_that_were_found_are_named_with_those_of_the_set(counted):
    again, answer = f"{TRAINED[0][0]}요?", TRAINED[0][1]
    counted([(again, answer), TRAINED[1], (f"{TRAINED[2][0]}요?", "다른 답")], found=(found := {}))
    assert found == {text_id(TRAINED[0][0]): again, text_id(TRAINED[1][0]): TRAINED[1][0]}


def test_a_hard_negative_is_no_document(counted):
    assert counted([("민원실은 어디인가", "시청 민원실")])[0].shared_judged == 0


@pytest.mark.parametrize(
    ("counts", "leaks", "sentence"),
    [
        (
            (8, 8, 0, 8, 8, 0),
            True,
            "8 of 8 test queries and 8 of 8 judged passages are in the training rows: the test figures say how well they "
            "were learnt by heart; leave them out of data.train_file",
        ),
        (
            (1000, 20, 5, 1000, 0, 0),
            True,
            "20 (and 5 nearly) of 1,000 test queries are in the training rows: the test figures say how well they were "
            "learnt by heart; leave them out of data.train_file",
        ),
        (
            (1000, 19, 0, 900, 0, 7),
            False,
            "19 of 1,000 test queries and (nearly) 7 of 900 judged passages are in the training rows",
        ),
        (
            (50, 0, 0, 40, 30, 1),
            False,
            "no test query, but 30 (and 1 nearly) of 40 judged passages are in the training rows: the same knowledge base, "
            "other questions",
        ),
        ((50, 0, 0, 40, 0, 0), False, ""),
    ],
)
def test_what_a_person_is_told(counts, leaks, sentence):
    overlap = Overlap("law-test", "test", *counts)
    assert (overlap.leaks, overlap.sentence) == (leaks, sentence)


def test_many_texts_are_looked_at_evenly(counted, monkeypatch):
    monkeypatch.setattr("e5ft.retrieval.overlap.ORIGINALS", 5)
    monkeypatch.setattr("e5ft.retrieval.overlap.LOOKED_AT", 5)
    nearly = [(f"{query}요?", answer) for query, answer in TRAINED]
    assert 0 < counted(nearly)[0].near_queries <= 5
    assert counted(TRAINED)[0] == Overlap("set0", "test", 10, 10, 0, 10, 10, 0)  # equal texts are found among all
