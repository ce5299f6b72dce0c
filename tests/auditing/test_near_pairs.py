"""Near-copies among many texts: what MinHash proposes against all pairs compared."""

import random

from e5ft.auditing.near_pairs import Similarity, near_heads
from e5ft.retrieval.copies import ALIKE

SYLLABLES = [chr(0xAC00 + 28 * n) for n in range(300)]


def made(draw: random.Random, length: int = 120) -> str:
    return "".join(draw.choices(SYLLABLES, k=length))


def test_near_copies_are_found_as_by_comparing_all_pairs():
    draw = random.Random(3)
    texts = [made(draw) for _ in range(200)]
    for number in range(150):
        kept = list(texts[number])
        for _ in range(number % 50):  # from no change to one in every second character
            kept[draw.randrange(len(kept))] = draw.choice(SYLLABLES)
        texts.append("".join(kept) + "끝")
    heads, similarity = near_heads(texts), Similarity(texts)
    expected = [next((e for e in range(n) if similarity(e, n) >= ALIKE), n) for n in range(len(texts))]
    assert sum(head != n for n, head in enumerate(expected)) > 20
    agreeing = sum(int(head) == want for head, want in zip(heads, expected, strict=True))
    assert agreeing >= len(texts) - 2  # a pair just above the threshold meets in a band with probability .99


def test_a_template_makes_no_copies_and_empty_texts_are_copies_of_nothing():
    draw = random.Random(1)
    start = made(draw, 60)
    texts = [f"{start} {made(draw, 20)}" for _ in range(100)]
    assert near_heads([*texts, "", " "]).tolist() == list(range(102))
    assert near_heads([]).tolist() == [] and near_heads(["가"]).tolist() == [0]


def test_similarity_is_the_weight_in_common():
    similarity = Similarity(["가나다라마", "가나다라마", "바사아자차", "가나다하파"])
    assert similarity(0, 1) == 1 and similarity(0, 2) == 0
    # 가나다 is in three of four texts, 나다라 and 다라마 in two, 나다하 and 다하파 in one.
    from math import log

    third, half, alone = log(1 + 4 / 3), log(3), log(5)
    assert abs(similarity(0, 3) - third / (third + 2 * half + 2 * alone)) < 1e-12
