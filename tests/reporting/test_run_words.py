"""What a run's page says, in both languages."""

import string
from pathlib import Path

from e5ft.reporting import run_words
from e5ft.reporting.run_words import RUN


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_say_the_same_things_of_the_same_values():
    assert RUN["ko"].keys() == RUN["en"].keys()
    assert {name for name in RUN["ko"] if fields(RUN["ko"][name]) != fields(RUN["en"][name])} == set()


def test_every_word_is_said_somewhere():
    source = "".join(path.read_text() for path in Path(run_words.__file__).parent.glob("*.py") if path.name != "run_words.py")
    assert {name for name in RUN["ko"] if f'"{name}"' not in source and f"'{name}'" not in source} == set()
