"""Planted rewritings: what each kind changes, what it must keep, and where its rules leave a text alone."""

import random
from collections import Counter

import pytest

from benchmarks import planting, rewording
from benchmarks.planting import KINDS, plant
from e5ft.errors import ConfigurationError

TWO = "법률을 위반한 경우에는 그 계약은 무효이다. 따라서 손해를 배상하여야 한다."
ONE = "그 계약은 공서양속에 어긋나서 효력이 없고, 매도인은 이미 받은 대금을 돌려주어야 한다."


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_rewriting_and_none_is_the_text_itself(kind):
    for text in (TWO, ONE, f"{TWO} {ONE}"):
        first = plant(text, kind, 3, "계약은 무효인가")
        assert first == plant(text, kind, 3, "계약은 무효인가")
        assert first != text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_rewrite_is_not_planted(kind):
    assert plant("abc def 123", kind, 1) is None


def test_other_seeds_choose_otherwise():
    text = " ".join(f"{letter}는 사람이다." for letter in "가나다라마바사아")
    assert len({plant(text, "reordered", seed) for seed in range(5)}) > 1


def test_reordered_sentences_are_the_same_sentences():
    for seed in range(5):
        changed = plant(f"{TWO} {ONE}", "reordered", seed)
        assert Counter(planting.sentences(changed)) == Counter(planting.sentences(f"{TWO} {ONE}"))
        assert changed != f"{TWO} {ONE}"


def test_clauses_of_one_sentence_change_places_and_the_first_gets_a_final_ending():
    assert plant(ONE, "reordered", 1) == (
        "매도인은 이미 받은 대금을 돌려주어야 한다. 또한 그 계약은 공서양속에 어긋나서 효력이 없다."
    )
    because = "이 사건 토지는 원고의 소유이므로, 피고는 이를 원고에게 인도할 의무가 있다."
    expected = "피고는 이를 원고에게 인도할 의무가 있다. 이는 이 사건 토지는 원고의 소유이기 때문이다."
    assert plant(because, "reordered", 1) == expected


def test_no_clause_is_moved_out_of_brackets_or_quotation_marks():
    assert plant('법은 "그 계약은 공서양속에 어긋나고, 효력은 처음부터 없다"고 정한다.', "reordered", 1) is None
    assert plant("그 계약은(공서양속에 어긋나서 효력이 없고, 매도인이 받은 대금도 그러하다) 무효이다.", "reordered", 1) is None


def test_a_date_ends_no_sentence():
    assert planting.sentences("1994. 12. 22. 개정되었다. 그 후 폐지되었다.") == ["1994. 12. 22. 개정되었다.", "그 후 폐지되었다."]


def test_deleted_keeps_half_and_what_the_query_asks_for():
    text = "서울은 한국의 수도이다. 부산은 큰 항구 도시이다. 대구는 분지에 있는 도시이다. 인천에는 공항이 있다."
    for seed in range(8):
        changed = plant(text, "deleted", seed, "어디에 공항이 있는가")
        assert len(changed) >= planting.LEAST_KEPT * len(text)
        assert set(planting.sentences(changed)) < set(planting.sentences(text))
        assert "인천에는 공항이 있다." in changed
    # Negative control: without the query that sentence is now and then left out.
    assert any("공항" not in plant(text, "deleted", seed, "대구는 분지인가") for seed in range(8))


def test_deleted_takes_parts_between_commas_where_there_is_one_sentence():
    text = "원칙적으로 그러하나, 당사자가 달리 정하였으면, 그 약정이 법률에 앞서서 당사자를 구속한다."
    for seed in range(5):
        assert plant(text, "deleted", seed).endswith("그 약정이 법률에 앞서서 당사자를 구속한다.")


@pytest.mark.parametrize(
    "text, changed",
    [
        ("주거침입죄가 성립한다.", "주거침입죄가 성립합니다."),
        ("그것은 효력이 없다.", "그것은 효력이 없습니다."),
        ("부당하다고 볼 수는 없으므로, 이유 없다.", "부당하다고 볼 수는 없기 때문에, 이유 없습니다."),
        ("위반되지 아니한다.", "위반되지 않습니다."),
        ("판결을 선고하였다 하더라도 같다.", "판결을 선고하였다 해도 같습니다."),
        ("진행되어 있다.", "진행되어 있습니다."),  # an auxiliary's 어 stays
        ("토지의 소유자를 본다.", "토지 소유자를 봅니다."),
    ],
)
def test_inflected_endings(text, changed):
    assert planting.inflect(text, random.Random(0), share=1.0) == changed


@pytest.mark.parametrize(
    "text, changed",
    [
        ("손해를 입은 경우에는", "손실을 입은 때에는"),  # the particle follows the new word's last sound
        ("책임은", "책무는"),
        ("방법으로", "방식으로"),
        ("1994. 12. 22. 개정", "1994년 12월 22일 개정"),
        ("3년 또는 15일", "삼년 혹은 십오일"),
        ("제3항 2024년", "제3항 2024년"),
        ("위약금은 동등하다", "위약금은 동등하다"),  # 등 alone is a word, in 동등 it is none
    ],
)
def test_reworded(text, changed):
    assert rewording.reword(text, random.Random(0), share=1.0) == changed


def test_paraphrased_is_farther_from_the_text_than_its_parts():
    def trigrams(text):
        return {text[i : i + 3] for i in range(len(text) - 2)}

    original = trigrams(f"{TWO} {ONE}")
    shared = {kind: len(original & trigrams(plant(f"{TWO} {ONE}", kind, 1))) for kind in KINDS}
    assert shared["paraphrased"] < min(shared["reordered"], shared["inflected"], shared["reworded"])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigurationError, match="kind='translated'"):
        plant(TWO, "translated", 1)
