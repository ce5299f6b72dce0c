"""Near-duplicates: n-gram overlap against plain sets of strings, and rewritten answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.retrieval.near_duplicates import NearDuplicates, ngrams

texts = st.one_of(st.text(alphabet="가나다라 ab", max_size=12), st.text(alphabet="가나다라 ab", min_size=20, max_size=60))


def plain_ngrams(text, n):
    text = "".join(text.casefold().split())
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} if text else set()


def plain_overlap(a, b, n, measure):
    a, b = plain_ngrams(a, n), plain_ngrams(b, n)
    contained = measure == "containment" and min(len(a), len(b)) >= 16
    total = min(len(a), len(b)) if contained else len(a | b)
    return len(a & b) / total if total else 0


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    positive=texts,
    others=st.lists(texts, min_size=1, max_size=5),
    n=st.integers(1, 4),
    measure=st.sampled_from(["containment", "jaccard"]),
)
def test_overlap_is_that_of_plain_sets(positive, others, n, measure):
    alike = NearDuplicates([positive, *others], ngram=n, threshold=0.5, measure=measure)
    expected = [plain_overlap(positive, other, n, measure) for other in others]
    assert alike.overlaps(0, np.arange(1, 1 + len(others))) == pytest.approx(expected)


@settings(deadline=None, derandomize=True)
@given(st.lists(texts, max_size=20), st.integers(1, 4))
def test_different_ngrams_have_different_numbers(many, n):
    together = " ".join(many)
    assert len(ngrams(together, n)) == len(plain_ngrams(together, n))


def test_order_of_characters_counts():
    assert not set(ngrams("가나다", 3)) & set(ngrams("다나가", 3))


ANSWER = "대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다. 피고인은 무죄이다. 상고는 이유 있다고 보았다."


@pytest.mark.parametrize(
    ("other", "measure", "found"),
    [
        (
            "상고는 이유 있다고 보았다. 피고인은 무죄이다. 대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다.",
            "containment",
            True,
        ),
        ("대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다.", "containment", True),  # sentences deleted
        ("대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다.", "jaccard", False),
        (
            "대법원은  원심 판결을 파기하고 사건을 고등 법원에 환송한다. 피고인은 무죄 이다. 상고는 이유 있다고 보았다",
            "jaccard",
            True,
        ),
        ("지방법원은 손해배상 청구를 기각하였다. 원고의 항소는 받아들여지지 않았다.", "containment", False),
    ],
)
def test_rewritten_answers(other, measure, found):
    alike = NearDuplicates([ANSWER, other], ngram=3, threshold=0.8, measure=measure)
    assert alike(np.array([0]), np.array([1])).tolist() == [found]


def test_a_name_that_an_answer_mentions_is_no_rewriting_of_it():
    """All three n-grams of the name are in the answer; a whole sentence of it is one."""
    sentence = "대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다"
    alike = NearDuplicates([ANSWER, "고등법원에", sentence], ngram=3, threshold=0.3, measure="containment")
    assert alike(np.array([0]), np.array([1, 2])).tolist() == [False, True]


SERVICES = [
    a + b
    for a in ("회의실", "복합기", "법인카드", "주차장", "명함", "노트북")
    for b in (" 예약", " 신청", " 수리", " 반납", " 점검")
]
TEMPLATED = [
    f"{service} 업무는 {['총무팀', '인사팀', '재무팀', '법무팀'][i % 4]}에서 맡고 있습니다. 문의는 내선 {1207 + 37 * i}번으로 해 주시기 바랍니다."
    for i, service in enumerate(SERVICES)
]


def near(texts, other, **settings):
    """Which of the first texts are near-duplicates of `other`, the last of all."""
    alike = NearDuplicates([*texts, other], **{"ngram": 3, "threshold": 0.3, "measure": "containment", **settings})
    return np.flatnonzero(alike(np.array([len(texts)]), np.arange(len(texts)))).tolist()


def test_answers_of_one_template_are_no_near_duplicates():
    """They share far more than the threshold, but only what thirty passages share."""
    alike = NearDuplicates(TEMPLATED, ngram=3, threshold=0.3, measure="containment")
    assert alike.overlaps(7, np.delete(np.arange(30), 7)).min() > 0.5
    assert not alike(np.array([7]), np.delete(np.arange(30), 7)).any()
    two = NearDuplicates([TEMPLATED[7], TEMPLATED[19]], ngram=3, threshold=0.3, measure="containment")
    assert two(np.array([0]), np.array([1])).all()  # the control: of two alone, nobody knows what is template


@pytest.mark.parametrize(
    "edited",
    [
        TEMPLATED[7].split(". ")[0] + ".",
        "안녕하세요, 문의하신 내용에 답변드립니다. " + TEMPLATED[7],
        " ".join(TEMPLATED[7].split(". ")[::-1]),
        TEMPLATED[7].replace("업무는", "업무의 경우").replace("있습니다", "있어요"),
    ],
    ids=["deleted", "added", "reordered", "reworded"],
)
@pytest.mark.parametrize("measure", ["containment", "jaccard"])
def test_an_edited_copy_of_a_templated_answer_is_found_and_no_other(edited, measure):
    assert near(TEMPLATED, edited, measure=measure) == [7]


def test_copies_do_not_hide_one_another():
    """Ten edited copies of one answer: what they share is theirs, although ten passages have it."""
    copies = [f"{TEMPLATED[7]} {i}월 {i + 3}일에 확인했습니다." for i in range(1, 11)]
    found = near([*TEMPLATED, *copies], TEMPLATED[7][:-3])
    assert found == [7, *range(30, 40)]


def test_weights_do_not_depend_on_the_order_of_texts():
    order = np.random.default_rng(0).permutation(30)
    edited = TEMPLATED[3].split(". ")[0]
    assert [order[place] for place in near([TEMPLATED[i] for i in order], edited)] == near(TEMPLATED, edited)


def test_any_of_several_answers_counts():
    alike = NearDuplicates(
        ["가나다라마", "바사아자차", "바사아자카", "하하하하하"], ngram=2, threshold=0.5, measure="containment"
    )
    assert alike(np.array([0, 1]), np.array([2, 3])).tolist() == [True, False]
