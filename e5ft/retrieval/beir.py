"""Strict reading of an evaluation set's files: passages, queries and judgements; every fault is a `path:line: reason`.

Source: Thakur et al. 2021 (BEIR); title and text are joined with a space as https://github.com/beir-cellar/beir does.
The names of keys are BEIR's and MTEB's first, then Pyserini's (id, contents) and Tevatron's (docid, query_id, query).
"""

import csv
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

from e5ft.data.formats import sound_rows
from e5ft.data.lines import MAX_LINE_BYTES, BadLine, Location, check_text, raw_lines
from e5ft.data.opening import kind_of
from e5ft.data.passages import ID_KEYS, id_of, number_as_text, passage_text, refuse_repeated
from e5ft.data.remote import Fetched, fetch_folder, fetch_repository, is_url
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.retrieval.columns import ColumnBuilder, StringColumn
from e5ft.settings import HUB_NAME, shown

QUERY_IDS, QUERY_TEXTS = ("_id", "id", "query_id", "qid"), ("text", "query")
# What judgements call their columns, in files with a header or keys.
JUDGED_QUERY = ("query-id", "query_id", "qid", "query")
JUDGED_PASSAGE = ("corpus-id", "corpus_id", "docid", "doc_id", "pid", "passage-id", "passage_id")
RELEVANCE = ("score", "relevance", "rel", "label")
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
_ITERATION = re.compile(r"Q0|[0-9]+(\.[0-9]+)?")  # the second of TREC's four columns, which nothing reads

Judgement = tuple[str, str, str, int]


def set_folder(folder: str | os.PathLike, split: str, cache: Path) -> Path | Fetched:
    """Return where an evaluation set lies; one named by a URL, or by its name on the hub, is fetched first.

    Args:
        folder: a local folder, a URL, or a hub data set's name (OWNER/NAME, and OWNER/NAME/ko for one of its languages).
        split: the judgements that will be read; of a web server that lists nothing, these and qrels/dev.tsv are all.
        cache: folder of the caches.
    """
    if isinstance(folder, Fetched):
        return folder
    if is_url(folder):
        names = ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv", "qrels/dev.tsv")
        others = ("corpus.*", "queries.*", *(f"{part}/*.*" for part in ("corpus", "queries", "data", "default")))
        return fetch_folder(folder, cache, names, ("qrels/*.*", "qrels.*"), others)
    owner, *rest = str(folder).split("/")
    if 0 < len(rest) < 3 and all(rest) and HUB_NAME.fullmatch(f"{owner}/{rest[0]}") and not Path(owner).exists():
        fetched = fetch_repository(f"{owner}/{rest[0]}")
        return fetched / rest[1] if rest[1:] else fetched
    return Path(folder)


def read_passages(files: Sequence[Path | Fetched]) -> tuple[StringColumn, StringColumn]:
    """Read ids and texts of the corpus; see `passage_text`.

    Args:
        files: one, or shards: JSON or Parquet.

    Returns:
        Ids and texts, both in ascending id order.

    Raises:
        DataError: a line is faulty, or an id is not unique.
    """
    return _texts(files, ID_KEYS, partial(passage_text, published=True))


def read_queries(files: Sequence[Path | Fetched]) -> tuple[StringColumn, StringColumn]:
    """Read ids and texts of the queries, as `read_passages` does."""
    return _texts(files, QUERY_IDS, query_text)


def query_text(location: str, value: dict) -> str:
    """The query's text.

    Raises:
        BadLine: it is missing or blank, or no string.
    """
    name = next((name for name in QUERY_TEXTS if name in value), None)
    if name is None:
        raise BadLine(location, f"the key 'text' is missing; there are {_keys(value)}; must be {' or '.join(QUERY_TEXTS)}")
    return check_text(location, name, value[name])


def read_qrels(files: Sequence[Path | Fetched]) -> Iterator[Judgement]:
    """Yield (location, query id, passage id, relevance) of every judgement.

    Args:
        files: one, or shards. Lines of three columns, or TREC's four (query 0 passage relevance), between tabs or spaces (a
            .csv: commas), header or not; or JSON lines or Parquet with keys as BEIR's: query-id, corpus-id, score.

    Raises:
        DataError: a line is faulty, or a pair is judged twice.
    """
    seen = set()
    for path in files:
        for location, *fields in _split_lines(path) if kind_of(path) in (".tsv", ".txt", ".csv") else _keyed(path):
            for number, name in enumerate(("query id", "passage id")):
                fields[number] = value = number_as_text(fields[number])
                if not isinstance(value, str) or not value or value.split() != [value]:
                    raise DataError(f"{location}: the {name} {shown(value)} is blank or holds white space")
            query_id, passage_id, relevance = fields
            if isinstance(relevance, bool) or not _NUMBER.fullmatch(str(relevance).strip()):
                raise DataError(f"{location}: the relevance {shown(relevance)} is no whole number")
            pair = query_id, passage_id
            if pair in seen:
                raise DataError(f"{location}: query {shown(query_id)} and passage {shown(passage_id)} are judged twice")
            seen.add(pair)
            yield str(location), query_id, passage_id, int(float(relevance))


def _split_lines(path: Path | Fetched) -> Iterator[tuple[str, str, str, str]]:
    columns, order, comma = None, (0, 1), kind_of(path) == ".csv"
    for number, line in enumerate(raw_lines(path), start=1):
        location = f"{path}:{number}"
        if line is None:
            raise DataError(f"{location}: the line is longer than {MAX_LINE_BYTES:,} bytes; there must be one judgement a line")
        try:
            text = line.decode("utf-8").rstrip("\r\n ")
        except UnicodeDecodeError as error:
            raise DataError(f"{location}: not UTF-8 (byte {error.start})") from None
        fields = next(csv.reader([text]), []) if comma else text.split("\t") if "\t" in text else text.split()
        if not any(fields):
            continue
        if columns is None and len(fields) in (3, 4) and fields[-1].strip().casefold() in RELEVANCE:
            if fields[0].casefold() in JUDGED_PASSAGE and fields[-2].casefold() in JUDGED_QUERY:
                order = (1, 0)
            continue
        columns = columns or len(fields)
        if len(fields) not in (3, 4) or len(fields) != columns:
            also = "" if len(fields) not in (3, 4) else f", {columns} above"
            raise DataError(
                f"{location}: must be query id, passage id and relevance, separated by tabs or spaces, or TREC's four columns "
                f"(query id, 0, passage id, relevance); here are {len(fields)} fields{also}"
            )
        if columns == 4 and not _ITERATION.fullmatch(fields.pop(1).strip()):
            raise DataError(f"{location}: the second of four columns must be TREC's 0 (query id, 0, passage id, relevance)")
        yield location, fields[order[0]], fields[order[1]], fields[2]


def _keyed(path: Path | Fetched) -> Iterator[tuple[Location, object, object, object]]:
    for location, value in sound_rows(path):
        names = [next((name for name in names if name in value), None) for names in (JUDGED_QUERY, JUDGED_PASSAGE, RELEVANCE)]
        if None in names:
            raise BadLine(location, f"there are {_keys(value)}; must be query-id, corpus-id and score")
        yield location, *(value[name] for name in names)


def _texts(files: Sequence[Path | Fetched], keys: tuple[str, ...], text_of) -> tuple[StringColumn, StringColumn]:
    ids, texts = ColumnBuilder(), ColumnBuilder()
    for location, value in chain.from_iterable(map(sound_rows, files)):
        ids.append(_id_of(location, value, keys))
        texts.append(text_of(location, value))
    ids = ids.finish()
    order = ids.ascending()
    ids = ids.take(order)
    repeated = [text for text, following in pairwise(ids) if text == following]
    if repeated:
        rows = chain.from_iterable(map(sound_rows, files))
        refuse_repeated(((location, id_of(location, value, keys)) for location, value in rows), list(map(text_id, repeated)))
    return ids, texts.finish().take(order)


def _id_of(location: Location, value: dict, keys: tuple[str, ...]) -> str:
    text = id_of(location, value, keys)
    if text.split() != [text]:
        raise BadLine(location, f"the id {text!r} holds white space, which separates the fields of a run file")
    return text


def _keys(value: dict) -> str:
    """The first keys of an object; one that has an id for a key has as many as there are texts."""
    return ", ".join(map(repr, itertools.islice(value, 8))) + (", ..." if len(value) > 8 else "") or "none"
