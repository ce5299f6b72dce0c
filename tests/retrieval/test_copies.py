"""Near-copies: the search with its shortcuts against plain sets of n-grams, and what a template is worth."""

import math
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from e5ft.retrieval import copies
from e5ft.retrieval.copies import ALIKE, NGRAM, NearCopies
from tests.conftest import PLACES

texts = st.text(alphabet="가나다 b", max_size=14)


def grams(text):
    text = "".join(text.casefold().split())
    return {text[i : i + NGRAM] for i in range(max(1, len(text) - NGRAM + 1))} if text else set()


def plain(originals, others):
    """The pairs by the definition: an n-gram that no original has was not counted, and weighs as one that nothing has."""
    known = set().union(*map(grams, originals))
    frequency = Counter(gram for text in [*originals, *others] for gram in grams(text) if gram in known)
    total = len(originals) + len(others)

    def weight(some):
        return sum(math.log1p(total / frequency[gram]) if gram in known else math.log1p(total) for gram in some)

    found = []
    for i, other in enumerate(others):
        for j, original in enumerate(originals):
            a, b = grams(other), grams(original)
            if a and b and a & b:
                share = weight(a & b) / weight(a | b)
                assume(abs(share - ALIKE) > 1e-9)  # at the threshold the order of the sums decides
                found += [[i, j]] * (share >= ALIKE)
    return found


@settings(deadline=None, derandomize=True, max_examples=300)
@given(originals=st.lists(texts, min_size=1, max_size=6), others=st.lists(texts, max_size=8), copied=st.integers(0, 5))
def test_pairs_are_those_of_plain_sets(originals, others, copied):
    others = [*others, originals[copied % len(originals)] + "다"]
    assert NearCopies(originals).pairs(others).tolist() == plain(originals, others)


ANSWER = "연체 도서는 반납일 다음 날부터 하루에 백 원의 연체료를 내야 하며, 연체 중에는 책을 더 빌릴 수 없습니다."


@pytest.mark.parametrize(
    ("other", "near"),
    [
        ("연체 도서는 반납일 다음 날부터 하루에 백 원의 연체료를 내야 하고, 연체 중에는 책을 더 빌릴 수 없다.", True),
        (ANSWER.replace(" ", "").replace(",", ""), True),
        (f"[안내] {ANSWER}", True),
        ("상호대차 도서는 신청한 다음 날부터 사흘 동안 안내대에 보관하며, 보관 중에는 다시 신청할 수 없습니다.", False),
        ("", False),
    ],
)
def test_rewritten_answers(other, near):
    assert (NearCopies([ANSWER, "주차장은 지하에 있습니다."]).pairs([other, "열람실"]).tolist() == [[0, 0]]) == near


def test_a_template_that_many_texts_share_tells_nothing():
    made = [f"{place} 업무는 담당 부서에서 평일 아홉 시부터 처리합니다: 내선 {n}번" for n, place in enumerate(PLACES, start=3141)]
    assert NearCopies(made[:1]).pairs(made).tolist() == [[0, 0]]
    assert NearCopies(made[:1]).pairs(made[:2]).tolist() == [[0, 0], [1, 0]]  # of two texts nobody can tell a template


def test_the_bounds_only_lose_pairs(monkeypatch):
    made = [f"{ANSWER} {i}" for i in range(10)]
    all_pairs = set(map(tuple, NearCopies(made).pairs(made).tolist()))
    monkeypatch.setattr(copies, "_COMPARED", 3)
    monkeypatch.setattr(copies, "_POSTINGS", 50)
    bounded = NearCopies(made).pairs(made).tolist()
    assert len(all_pairs) == 100 and set(map(tuple, bounded)) < all_pairs
    assert set(Counter(text for text, _ in bounded).values()) == {3}
