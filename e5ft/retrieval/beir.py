"""Strict reading of the BEIR layout (corpus.jsonl, queries.jsonl, qrels/<split>.tsv): every fault is a `path:line: reason`.

Source: Thakur et al. 2021 (BEIR); title and text are joined with a space as https://github.com/beir-cellar/beir does.
"""

import os
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from e5ft.data.lines import MAX_LINE_BYTES, BadLine, check_text, is_file, raw_lines, read_json_lines
from e5ft.data.remote import Fetched, fetch_folder, is_url
from e5ft.errors import DataError
from e5ft.retrieval.columns import ColumnBuilder, StringColumn
from e5ft.settings import shown

HEADER = ("score", "relevance", "rel", "label")  # what a header line calls its third column
LAYOUT = "corpus.jsonl, queries.jsonl and qrels/<split>.tsv"


def set_folder(folder: str | os.PathLike, split: str, cache: Path) -> Path | Fetched:
    """Return where an evaluation set lies; one named by a URL is fetched first.

    Args:
        folder: a local folder or a URL.
        split: the judgements that will be read; of a web server that lists nothing, these and qrels/dev.tsv are all.
        cache: folder of the caches.
    """
    if not is_url(folder):
        return folder if isinstance(folder, Fetched) else Path(folder)
    names = ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv", "qrels/dev.tsv")
    return fetch_folder(folder, cache, names, "qrels/*.tsv")


def check_layout(folder: Path | Fetched, split: str) -> None:
    """Raise unless the three files are there.

    Raises:
        DataError: a file is missing; the message names what is expected and which splits exist.
    """
    if is_file(folder) or not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder; an evaluation set is a folder with {LAYOUT}")
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not is_file(folder / name):
            raise DataError(f"{folder / name}: no such file; an evaluation set is a folder with {LAYOUT}")
    if not has_split(folder, split):
        splits = splits_of(folder)
        there = f"the splits there are: {', '.join(splits)}" if splits else "there is no qrels/*.tsv at all"
        raise DataError(f"{folder / 'qrels' / split}.tsv: no such file; {there}")


def has_split(folder: Path | Fetched, split: str) -> bool:
    """Whether the judgements of a split are there."""
    return is_file(folder / "qrels" / f"{split}.tsv")


def splits_of(folder: Path | Fetched) -> list[str]:
    """Names of the splits that are there, in ascending order."""
    return sorted(path.stem for path in Path(folder, "qrels").glob("*.tsv"))


def read_texts(path: Path | Fetched, text_of: Callable[[str, dict], str]) -> tuple[StringColumn, StringColumn]:
    """Read ids and texts of a JSON lines file.

    Args:
        path: the file; each line is an object with `_id` and what `text_of` needs.
        text_of: (location, object) -> text, raising `BadLine`; `passage_text` or `query_text`.

    Returns:
        Ids and texts, both in ascending id order.

    Raises:
        DataError: a line is faulty, or an id stands twice.
    """
    lines, ids, texts = array("q"), ColumnBuilder(), ColumnBuilder()
    try:
        for location, value in read_json_lines(path):
            if isinstance(value, BadLine):
                raise value
            ids.append(_id_of(location, value))
            texts.append(text_of(location, value))
            lines.append(location.line)
    except BadLine as bad_line:
        raise DataError(str(bad_line)) from None
    ids = ids.finish()
    order = ids.ascending()
    ids = ids.take(order)
    _check_distinct(path, ids, np.asarray(lines)[order])
    return ids, texts.finish().take(order)


def passage_text(location: str, value: dict) -> str:
    """Title, space, text; either may be blank or absent, not both.

    Raises:
        BadLine: neither holds text, or one is no string.
    """
    if "text" not in value:
        raise BadLine(location, f"the key 'text' is missing; there are {', '.join(map(repr, value)) or 'none'}")
    blank = [key for key in ("title", "text") if value.get(key) is None or not str(value[key]).strip()]
    parts = [check_text(location, key, value[key]) for key in ("title", "text") if key not in blank]
    if not parts:
        raise BadLine(location, "text is blank, and so is the title")
    return " ".join(parts)


def query_text(location: str, value: dict) -> str:
    """The query's text.

    Raises:
        BadLine: it is missing or blank, or no string.
    """
    return check_text(location, "text", value.get("text"))


def read_qrels(path: Path | Fetched) -> Iterator[tuple[str, str, str, int]]:
    """Yield (location, query id, passage id, relevance) of every line: three columns separated by tabs, header or not.

    Raises:
        DataError: a line is faulty, or a pair is judged twice.
    """
    seen = set()
    for number, line in enumerate(raw_lines(path), start=1):
        location = f"{path}:{number}"
        if line is None:
            raise DataError(f"{location}: the line is longer than {MAX_LINE_BYTES:,} bytes; there must be one judgement a line")
        try:
            fields = line.decode("utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise DataError(f"{location}: not UTF-8 (byte {error.start})") from None
        if not any(fields) or (number == 1 and len(fields) == 3 and fields[2].strip().casefold() in HEADER):
            continue
        if len(fields) != 3:
            raise DataError(
                f"{location}: must be query id, passage id and relevance, separated by tabs; here are {len(fields)} fields"
            )
        for name, value in zip(("query id", "passage id"), fields, strict=False):
            if not value or value.split() != [value]:
                raise DataError(f"{location}: the {name} {shown(value)} is blank or holds white space")
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", fields[2]):
            raise DataError(f"{location}: the relevance {shown(fields[2])} is no whole number")
        pair = query_id, passage_id = fields[0], fields[1]
        if pair in seen:
            raise DataError(f"{location}: query {shown(query_id)} and passage {shown(passage_id)} are judged twice")
        seen.add(pair)
        yield location, query_id, passage_id, int(fields[2])


def _id_of(location: str, value: dict) -> str:
    text = check_text(location, "_id", value.get("_id"))
    if text.split() != [text]:
        raise BadLine(location, f"_id {text!r} holds white space, which separates the fields of a run file")
    return text


def _check_distinct(path: Path | Fetched, ids: StringColumn, lines: np.ndarray) -> None:
    """Raise for the first id, in the file's order, that stands on a second line (`ids` ascending, equal ones in file order)."""
    repeated, previous = [], None
    for position, text in enumerate(ids):
        if text == previous:
            repeated.append((int(lines[position]), text, int(lines[position - 1])))
        previous = text
    if repeated:
        line, text, first = min(repeated)
        raise DataError(f"{path}:{line}: the _id {shown(text)} stands on line {first} already ({len(repeated)} such lines)")
