"""Annotations of settings: what they accept, and how they are told."""

import dataclasses
from typing import ClassVar, Literal

import pytest

from e5ft.errors import ConfigurationError
from e5ft.settings import FilePath, HubName, Settings, SplitName, Word, build, number, whole, words


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    """Settings within settings."""

    PATH: ClassVar[str] = "outer.inner"
    count: whole(1, 9)

    def check(self) -> None:
        """Refuse 7."""
        if self.count == 7:
            self.refuse("count", "must not be 7")


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    """One field of each kind."""

    PATH: ClassVar[str] = "outer"
    share: number(above=0, most=0.5) = 0.1
    size: Literal["auto"] | whole(1) = "auto"
    cutoffs: tuple[whole(1), ...] | None = None
    word: Word | None = None
    path: FilePath | None = None
    split: SplitName = "test"
    hub: HubName | None = None
    flag: bool = False
    kind: Literal["none", "margin"] = "none"
    inner: Inner | None = None


ACCEPTED = [
    ("share", 0.5), ("share", 1e-9), ("size", 3), ("cutoffs", [1, 10]), ("word", "가"), ("path", "a/b"), ("split", "dev"),
    ("hub", "user/model"), ("flag", True), ("kind", "none"), ("inner", {"count": 9}), ("inner", None),
]  # fmt: skip
REFUSED = [
    ("share", 0, "outer.share=0: must be above 0 and at most 0.5"),
    ("share", 0.51, "must be above 0 and at most 0.5"),
    ("share", True, "must be above 0"),
    ("share", float("nan"), "must be above 0"),
    ("share", 10**400, "must be above 0"),
    ("size", 0, "outer.size=0: must be auto, or a whole number, at least 1"),
    ("size", 1.0, "must be auto"),
    ("size", True, "must be auto"),
    ("cutoffs", [1, 0], "a list, each item a whole number, at least 1"),
    ("cutoffs", 5, "a list"),
    ("word", " ", "a string that is not blank"),
    ("word", "None", "outer.word=None: the word for nothing is null"),
    ("path", "x" * 300, "the name of a file or folder"),
    ("path", "a\0b", "the name of a file or folder"),
    ("path", "\udcff", "the name of a file or folder"),
    ("split", "a/b", "the name of a split"),
    ("split", "..", "the name of a split"),
    ("hub", "a b", "USER/MODEL"),
    ("flag", "yes", "true or false"),
    ("kind", "None", "the word for nothing is null"),
    ("inner", 5, "outer.inner=5: must be a mapping"),
    ("inner", {"count": 10}, "outer.inner.count=10: must be a whole number from 1 to 9"),
    ("inner", {"count": 7}, "outer.inner.count=7: must not be 7"),
    ("inner", {"cuont": 1}, "outer.inner.cuont=1: no such field; did you mean outer.inner.count?"),
    ("inner", {}, "outer.inner.count: must be given"),
    ("zzzz", 1, "outer.zzzz=1: no such field; there are cutoffs, flag"),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_accepted(name, value):
    built = getattr(build(Outer, {name: value}), name)
    assert built == (tuple(value) if isinstance(value, list) else Inner(9) if value == {"count": 9} else value)


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_refused(name, value, message):
    with pytest.raises(ConfigurationError) as error:
        build(Outer, {name: value})
    assert message in str(error.value) and "\n" not in str(error.value)
    str(error.value).encode()  # can be printed anywhere


def test_a_class_is_checked_where_it_is_made_too():
    with pytest.raises(ConfigurationError, match=r"outer\.share=7: must be"):
        Outer(share=7)
    assert Outer(cutoffs=[1, 2]).cutoffs == (1, 2)


def test_settings_in_a_second_place_are_named_by_it():
    with pytest.raises(ConfigurationError, match=r"^rounds\.outer\.inner\.count=7: must not be 7$"):
        build(Inner, {"count": 7}, "rounds.outer.inner")


def test_words():
    assert words(number(least=0) | None) == "at least 0, or null"
    assert words(Literal["a", "b", "c"]) == "a, b or c" and words(number()) == "a number"
