"""A sweep's sentences say the same in both languages."""

import string

from e5ft.reporting.sweep_words import SWEEP


def fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def check(words: dict) -> None:
    korean, english = words["ko"], words["en"]
    assert korean.keys() == english.keys()
    for name, text in korean.items():
        if isinstance(text, str):
            assert text and english[name] and fields(text) == fields(english[name]), name


def test_every_sentence_has_the_same_gaps_in_both_languages():
    check(SWEEP)
    assert SWEEP["ko"]["states"].keys() == SWEEP["en"]["states"].keys()
