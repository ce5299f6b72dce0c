"""What the kit says, in both languages."""

import pytest

from e5ft.reporting.words import KIT, LANGUAGES, page_language, words_of


def test_both_languages_say_the_same_things():
    assert KIT.keys() == set(LANGUAGES) and KIT["ko"].keys() == KIT["en"].keys()


@pytest.mark.parametrize(
    ("asked", "texts", "language"),
    [
        ("auto", ["한강공원에서 자전거를 빌린다"], "ko"),
        ("auto", ["a long english text of many letters here", "한국어 글"], "ko"),
        ("auto", ["english only"], "en"),
        ("auto", [], "en"),
        ("en", ["한국어"], "en"),
        ("ko", ["english"], "ko"),
    ],
)
def test_korean_where_the_data_are_korean(asked, texts, language):
    assert page_language(asked, texts) == language


def test_a_later_round_calls_what_it_starts_from_by_its_number_in_every_sentence():
    for language, usual in (("ko", "학습 전"), ("en", "before training")):
        said = words_of(language, 3)
        assert said.keys() == words_of(language, None).keys() and not [text for text in said.values() if usual in text]
        assert any(usual in text for text in words_of(language, None).values())
