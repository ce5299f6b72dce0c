"""Passages: an object's text, and the file in which passages that rows name by id have their texts."""

import itertools
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import numpy as np

from e5ft.data.cells import checked, is_null_word, text_key
from e5ft.data.column_names import DOCUMENTS, fold
from e5ft.data.formats import raw_rows
from e5ft.data.lines import NOT_UTF8, BadLine, Location, check_text, raw_lines
from e5ft.data.opening import kind_of
from e5ft.data.settings import AS_IS, Reading
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.settings import shown

ID_KEYS = ("_id", "docid", "doc_id", "pid", "id", "passage_id", "corpus_id", "corpus-id")


def passage_text(location: Location | str, value: dict, field: str = "", *, published: bool = False) -> str:
    """Title, space, text; either may be blank or absent, not both. A title that is a word for a missing value is blank.

    Args:
        location: of the object, for messages.
        value: the object; its text stands under one of TEXT_KEYS.
        field: what in its row the object is.
        published: whether it is of a data set as others know it, in which the words for a missing value are texts, too.

    Raises:
        BadLine: neither holds text, or one is no string, or the text is a word for a missing value.

    Source: https://github.com/beir-cellar/beir joins them so.
    """
    key, start = text_key(value), f"{field}." if field else ""
    if key is None:
        there = ", ".join(map(repr, value)) or "none"
        raise BadLine(location, f"{field}{': ' if field else ''}the key 'text' is missing; there are {there}")
    blank = [name for name in ("title", key) if value.get(name) is None or not str(value[name]).strip()]
    blank += ["title"] * (not published and is_null_word(str(value.get("title"))))
    check = check_text if published else checked
    parts = [check(location, f"{start}{name}", value[name]) for name in ("title", key) if name not in blank]
    if not parts:
        raise BadLine(location, f"{start}{key} is blank, and so is the title")
    return " ".join(parts)


def read_passages(path: str | os.PathLike, reading: Reading = AS_IS) -> Iterator[tuple[Location, dict]]:
    """The objects of a file of passages: JSON lines or a table with a header, or MS MARCO's `id<TAB>text` without one.

    Raises:
        DataError: the file cannot be read, or a line is faulty.
    """
    for location, value in passage_rows(path, reading):
        if isinstance(value, BadLine):
            raise value
        yield location, value


def passage_rows(path: str | os.PathLike, reading: Reading = AS_IS) -> Iterator[tuple[Location, dict | BadLine]]:
    """The same, with a faulty line's fault in its place."""
    return _bare_rows(path, reading) if _has_no_header(path, reading) else raw_rows(path, reading, [])


def passage_texts(path: str | os.PathLike, encoding: str | None = None) -> Iterator[str]:
    """The texts of a file of passages; ids are not needed.

    Raises:
        DataError: the file is empty, or a line is faulty.
    """
    return itertools.starmap(passage_text, read_passages(path, Reading(encoding=encoding)))


def have_ids(path: str | os.PathLike, reading: Reading) -> bool:
    """Whether the passages of a file have ids, as the first of them tells."""
    first = next(read_passages(path, reading), None)
    return first is not None and any(key in first[1] for key in ID_KEYS)


def _has_no_header(path: str | os.PathLike, reading: Reading) -> bool:
    if kind_of(path) != ".tsv":
        return False
    lines = raw_lines(path, reading.encoding)
    first = next((line for line in lines if line is None or line.strip()), None) or b""
    cells = first.decode("utf-8", "replace").rstrip("\r\n").split("\t")
    if len(cells) != 2 or text_key(dict.fromkeys(cells)) is not None:
        return False
    is_id = any(character.isdigit() for character in cells[0])  # then a name beside it is a text: 1, answer
    return is_id or {*ID_KEYS, *DOCUMENTS}.isdisjoint(map(fold, cells))


def _bare_rows(path: str | os.PathLike, reading: Reading) -> Iterator[tuple[Location, dict | BadLine]]:
    for number, line in enumerate(raw_lines(path, reading.encoding), start=1):
        if line is not None and not line.strip():
            continue
        location = Location(path, number)
        try:
            identity, tab, text = (line or b"").decode("utf-8").rstrip("\r\n").partition("\t")
        except UnicodeDecodeError:
            yield location, BadLine(location, f"not UTF-8; {NOT_UTF8}")
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
        DataError: the file is faulty, or an id is not unique.
    """

    def __init__(self, path: str | os.PathLike, reading: Reading = AS_IS):
        self.path, self._texts = path, Texts()
        ids = array("q")
        for location, value in read_passages(path, reading):
            ids.append(text_id(id_of(location, value, ID_KEYS)))
            self._texts.append(passage_text(location, value))
        identities = np.asarray(ids)
        self._order = np.argsort(identities, kind="stable")
        self._ids = identities[self._order]
        repeated = self._ids[1:][self._ids[1:] == self._ids[:-1]]
        if len(repeated):
            rows = ((location, id_of(location, value, ID_KEYS)) for location, value in read_passages(path, reading))
            refuse_repeated(rows, repeated.tolist())

    def __len__(self) -> int:
        return len(self._ids)

    def text(self, identity: str) -> str | None:
        """The passage of an id; None if there is none."""
        key = text_id(identity)
        place = int(np.searchsorted(self._ids, key))
        if place == len(self._ids) or self._ids[place] != key:
            return None
        return self._texts[self._order[place]]


def id_of(location: Location, value: dict, keys: Sequence[str]) -> str:
    """The id of a passage or query; a whole number is one, too.

    Raises:
        BadLine: it stands under none of the keys, or is blank or no string.
    """
    key = next((key for key in keys if key in value), None)
    if key is None:
        raise BadLine(location, f"{keys[0]} is missing; there are {', '.join(map(repr, value))}; must be {' or '.join(keys)}")
    return check_text(location, key, number_as_text(value[key]))


def refuse_repeated(ids: Iterable[tuple[Location, str]], repeated: Sequence[int]) -> NoReturn:
    """Say where ids stand a second time.

    Args:
        ids: of a file or several, with their places.
        repeated: the identities of those that stand more than once, one for each time too many.

    Raises:
        DataError: always, with the first place.
    """
    first, wanted = {}, set(repeated)
    for location, text in ids:
        key = text_id(text)
        if key in first:
            earlier = first[key]
            there = f"row {earlier.row}" if earlier.row else f"line {earlier.line}"
            there = there if earlier.source == location.source else str(earlier)
            raise DataError(f"{location}: duplicate id {shown(text)}, first on {there} ({len(repeated):,} such rows)")
        if key in wanted:
            first[key] = location
    raise DataError("the file changed while it was read; start again")


def number_as_text(value: object) -> object:
    """A whole number as text, since many sets number their passages; anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def as_id(value: object) -> str | None:
    """The id that a string, a whole number or an object without a text names; None for anything else."""
    if isinstance(value, dict):
        value = next((value[key] for key in ID_KEYS if key in value), None)
    value = number_as_text(value)
    return value if isinstance(value, str) and value.strip() else None
