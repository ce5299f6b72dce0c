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
    """All three n-grams of the name stand in the answer; a whole sentence of it is one."""
    sentence = "대법원은 원심판결을 파기하고 사건을 고등법원에 환송한다"
    alike = NearDuplicates([ANSWER, "고등법원에", sentence], ngram=3, threshold=0.3, measure="containment")
    assert alike(np.array([0]), np.array([1, 2])).tolist() == [False, True]


def test_any_of_several_answers_counts():
    alike = NearDuplicates(
        ["가나다라마", "바사아자차", "바사아자카", "하하하하하"], ngram=2, threshold=0.5, measure="containment"
    )
    assert alike(np.array([0, 1]), np.array([2, 3])).tolist() == [True, False]
