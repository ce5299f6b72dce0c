"""What the kit says, in both languages."""

import pytest

from e5ft.reporting.words import KIT, LANGUAGES, page_language


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
