"""Passages: an object's text, and the file in which passages that rows name by id have their texts."""

import os
import tempfile
from array import array
from collections.abc import Iterator

import numpy as np

from e5ft.data.formats import raw_rows
from e5ft.data.lines import BadLine, Location, check_text, raw_lines
from e5ft.data.settings import Reading
from e5ft.data.text import text_id
from e5ft.errors import DataError

ID_KEYS = ("_id", "docid", "doc_id", "pid", "id", "passage_id", "corpus_id", "corpus-id")
TEXT_KEYS = ("text", "contents", "content", "body", "passage_text", "passage")
_AS_IS = Reading()


def text_key(value: dict) -> str | None:
    """Under which name an object holds a passage's text; None where it holds none."""
    return next((key for key in TEXT_KEYS if key in value), None)


def passage_text(location: Location | str, value: dict, field: str = "") -> str:
    """Title, space, text; either may be blank or absent, not both.

    Args:
        location: of the object, for messages.
        value: the object; its text stands under one of TEXT_KEYS.
        field: what in its row the object is.

    Raises:
        BadLine: neither holds text, or one is no string.

    Source: https://github.com/beir-cellar/beir joins them so.
    """
    key, start = text_key(value), f"{field}." if field else ""
    if key is None:
        there = ", ".join(map(repr, value)) or "none"
        raise BadLine(location, f"{field}{': ' if field else ''}the key 'text' is missing; there are {there}")
    blank = [name for name in ("title", key) if value.get(name) is None or not str(value[name]).strip()]
    parts = [check_text(location, f"{start}{name}", value[name]) for name in ("title", key) if name not in blank]
    if not parts:
        raise BadLine(location, f"{start}{key} is blank, and so is the title")
    return " ".join(parts)


def read_passages(path: str | os.PathLike, reading: Reading = _AS_IS) -> Iterator[tuple[Location, dict]]:
    """Yield the objects of a file of passages: JSON lines or a table with a header, or MS MARCO's `id<TAB>text` without one.

    Raises:
        DataError: the file cannot be read, or a line is faulty.
    """
    rows = _bare_rows(path, reading) if _has_no_header(path, reading) else raw_rows(path, reading, [])
    for location, value in rows:
        if isinstance(value, BadLine):
            raise DataError(str(value)) from None
        yield location, value


def passage_texts(path: str | os.PathLike) -> Iterator[str]:
    """Yield the texts of a file of passages; ids are not needed.

    Raises:
        DataError: the file is empty, or a line is faulty.
    """
    try:
        for location, value in read_passages(path):
            yield passage_text(location, value)
    except BadLine as bad:
        raise DataError(str(bad)) from None


def _has_no_header(path: str | os.PathLike, reading: Reading) -> bool:
    if ".tsv" not in os.path.basename(path).lower():
        return False
    first = (next(iter(raw_lines(path, reading.encoding)), None) or b"").decode("utf-8", "replace").rstrip("\r\n").split("\t")
    return len(first) == 2 and text_key(dict.fromkeys(first)) is None


def _bare_rows(path: str | os.PathLike, reading: Reading) -> Iterator[tuple[Location, dict | BadLine]]:
    for number, line in enumerate(raw_lines(path, reading.encoding), start=1):
        location = Location(path, number)
        try:
            identity, tab, text = (line or b"").decode("utf-8").rstrip("\r\n").partition("\t")
        except UnicodeDecodeError:
            yield location, BadLine(location, "not UTF-8")
            continue
        yield location, {"id": identity, "text": text} if tab else BadLine(location, "must be id, tab and text")


class Texts:
    """Texts by number, in a file without a name: eight bytes of each stay in memory."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with this object)
        self._starts = array("q", [0])

    def append(self, text: str) -> int:
        """Keep a text, and return its number."""
        self._file.seek(self._starts[-1])
        self._starts.append(self._starts[-1] + self._file.write(text.encode()))
        return len(self._starts) - 2

    def __getitem__(self, number: int) -> str:
        start, end = self._starts[number : number + 2]
        self._file.seek(start)
        return self._file.read(end - start).decode()


class Corpus:
    """Passages that are looked up by id; of each, 24 bytes stay in memory.

    Args:
        path: the file of passages; each has an id (one of ID_KEYS) and a text.
        reading: how it is read.

    Raises:
        DataError: the file is faulty, or an id stands twice.
    """

    def __init__(self, path: str | os.PathLike, reading: Reading = _AS_IS):
        self.path, self._texts = path, Texts()
        ids, lines = array("q"), array("q")
        try:
            for location, value in read_passages(path, reading):
                ids.append(text_id(_id_of(location, value)))
                self._texts.append(passage_text(location, value))
                lines.append(location.line)
        except BadLine as bad_line:
            raise DataError(str(bad_line)) from None
        identities = np.asarray(ids)
        self._order = np.argsort(identities, kind="stable")
        self._ids = identities[self._order]
        twice = np.flatnonzero(self._ids[1:] == self._ids[:-1])
        if len(twice):
            second, first = (np.asarray(lines)[self._order[twice + offset]] for offset in (1, 0))
            raise DataError(f"{path}:{second[0]}: its id stands on line {first[0]} already ({len(twice):,} such lines)")

    def __len__(self) -> int:
        return len(self._ids)

    def text(self, identity: str) -> str | None:
        """The passage of an id; None if there is none."""
        key = text_id(identity)
        place = int(np.searchsorted(self._ids, key))
        if place == len(self._ids) or self._ids[place] != key:
            return None
        return self._texts[self._order[place]]


def _id_of(location: Location, value: dict) -> str:
    key = next((key for key in ID_KEYS if key in value), None)
    if key is None:
        raise BadLine(location, f"no id; one of {', '.join(ID_KEYS)} must be there, here are {', '.join(map(repr, value))}")
    identity = value[key]
    if isinstance(identity, int) and not isinstance(identity, bool):
        return str(identity)
    return check_text(location, key, identity)


def as_id(value: object) -> str | None:
    """The id that a string, a whole number or an object without a text names; None for anything else."""
    if isinstance(value, dict):
        value = next((value[key] for key in ID_KEYS if key in value), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None
