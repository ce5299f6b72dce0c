"""What a run's page says, in both languages."""

import string

from e5ft.reporting.run_words import RUN


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_say_the_same_things_of_the_same_values():
    assert RUN["ko"].keys() == RUN["en"].keys()
    assert {name for name in RUN["ko"] if fields(RUN["ko"][name]) != fields(RUN["en"][name])} == set()
