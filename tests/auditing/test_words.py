"""The page's texts."""

import string

from e5ft.auditing.words import WORDS


def fields(value) -> object:
    if isinstance(value, dict):
        return {name: fields(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [fields(each) for each in value]
    return {name for _, name, _, _ in string.Formatter().parse(value) if name}


def test_both_languages_say_the_same_with_the_same_figures():
    assert fields(WORDS["en"]) == fields(WORDS["ko"])
