"""Rows on disk: validated and tokenised once, then memory-mapped. Resident memory does not grow with their number."""

import contextlib
import dataclasses
import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from e5ft import caches, distributed
from e5ft.data.faults import Faults
from e5ft.data.lines import BadLine, Location, is_file
from e5ft.data.remote import Fetched, expanded, local_file
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import AS_IS, Columns, Reading
from e5ft.data.shards import Names, display, find_shards
from e5ft.data.text import TextSpec, text_id, tokenize, tokenizer_state
from e5ft.errors import DataError
from e5ft.files import digest_of, digest_of_file, read_json, write_json

VERSION = 9  # part of every cache key: raise it when a stored column means, or a source is read, something else
_BATCH = 1000
log = logging.getLogger(__name__)

PLACE = ("shard", "line", "row")  # columns that say where a row stands
_ROWS = pa.schema(
    {
        **dict.fromkeys(PLACE, pa.int64()),
        "query": pa.string(),
        "positives": pa.list_(pa.string()),
        "negatives": pa.list_(pa.string()),
        "query_id": pa.int64(),
        "positive_ids": pa.list_(pa.int64()),
        "negative_ids": pa.list_(pa.int64()),
        "scores": pa.list_(pa.float32()),
    }
)
_TOKENS = pa.schema(
    {"query": pa.list_(pa.int32()), "positives": pa.list_(pa.list_(pa.int32())), "negatives": pa.list_(pa.list_(pa.int32()))}
)


@dataclasses.dataclass(frozen=True)
class RowStore:
    """Validated rows, memory-mapped.

    Attributes:
        rows: columns query, positives, negatives (texts), query_id, positive_ids, negative_ids (int64), scores (a teacher's,
            of the positives and then the negatives; empty where there are none), and shard, line and row (where a row
            stands: the number of its file, and as in `Location`); of a mix also source (int64, which one).
        source: where they come from, for messages.
        digest: identifies the rows' content; the key of what is derived from them.
        read, rejected: number of rows read from the source and not accepted.
        faults: what is wrong with the rejected ones, a line for each kind, with its count and first places.
        files: the names of the files that the rows come from, of each source of a mix.
        notes: what was understood of the source, (name, text), for the header of a run.
    """

    rows: datasets.Dataset
    source: str
    digest: str
    read: int
    rejected: int
    faults: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    notes: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            yield Row(row["query"], tuple(row["positives"]), tuple(row["negatives"]), tuple(row["scores"]))

    def place(self, row: int) -> str:
        """Return where a row is in the user's files, as `path:line`."""
        stored = self.rows[row]
        return str(Location(self.files[stored.get("source", 0)][stored["shard"]], stored["line"], stored["row"]))

    def positive_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all rows' positive identities end to end, (sum of counts,) int64, and how many each row has, (rows,).

        They come straight from Arrow: as Python lists, a million rows would take a hundred times the memory.
        """
        column = self._columns()["positive_ids"].combine_chunks()
        return column.flatten().to_numpy(), column.value_lengths().to_numpy()

    def query_ids(self) -> np.ndarray:
        """Return the identities of the queries, (rows,) int64."""
        return self._columns()["query_id"].to_numpy()

    def without_scores(self) -> np.ndarray:
        """Return the rows that carry no teacher's scores, by their numbers, int64."""
        return np.flatnonzero(self._columns()["scores"].combine_chunks().value_lengths().to_numpy() == 0)

    def _columns(self) -> pa.Table:
        return self.rows.with_format("arrow")[:]

    def select(self, indices: np.ndarray) -> "RowStore":
        """Return the rows at `indices`, still memory-mapped."""
        digest = digest_of(self.digest, np.asarray(indices, dtype=np.int64).tobytes().hex())
        return dataclasses.replace(self, rows=self.rows.select(indices), digest=digest)

    def limited(self, count: int | None, seed: int) -> "RowStore":
        """Return at most `count` rows, a seeded choice in their order; see `limited_rows`."""
        chosen = _limited(len(self.rows), count, seed)
        return self if chosen is None else self.select(chosen)


def limited_rows(rows: Sequence[Row], count: int | None, seed: int) -> Sequence[Row]:
    """Return at most `count` rows of a list: the same choice as `RowStore.limited`.

    Args:
        rows: in any number.
        count: at least 1; None for all.
        seed: of the choice.

    """
    chosen = _limited(len(rows), count, seed)
    return rows if chosen is None else [rows[index] for index in chosen]


def seeded_choice(total: int, count: int | None, seed: int | Sequence[int]) -> np.ndarray:
    """Return the numbers of at most `count` of `total` rows, chosen at random, ascending; None chooses all."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def _limited(total: int, count: int | None, seed: int) -> np.ndarray | None:
    if count is None or count >= total:
        return None
    return seeded_choice(total, count, seed)


def load_rows(source: Names, columns: Columns, cache: Path, *, on_bad_row: str = "fail", reading: Reading = AS_IS) -> RowStore:
    """Validate a source once and map the result.

    Args:
        source: as for `read_rows`, or the URL of a file, or several with URLs among them.
        columns: the column mapping.
        cache: folder of the caches; keyed by the content of every file, so an edited file is read again.
        on_bad_row: "fail" raises after reading everything, listing the bad lines; "skip" leaves them out and counts them.
        reading: how the source is read.

    Raises:
        DataError: a bad row with on_bad_row=fail, no good row at all, or a file that changes meanwhile.
        StorageError: the cache cannot be written.
    """
    shards = [local_file(name, cache) for name in expanded(find_shards(source, reading))]
    corpus = None if reading.corpus_file is None else local_file(reading.corpus_file, cache)
    name, content = display(source), [_content(shard) for shard in shards]
    # The paths are part of the key because the messages name them.
    key = digest_of(
        *("rows", VERSION, str(_ROWS), name, list(map(str, shards)), content, corpus and _content(corpus)),
        *(dataclasses.asdict(reading), dataclasses.asdict(columns)),
    )
    folder = cache / f"rows-{key}"

    def write(new: Path) -> None:
        notes = []
        fetched = any(isinstance(shard, Fetched) for shard in shards)
        _write_rows(new, read_rows(tuple(shards) if fetched else source, columns, reading, notes, corpus), notes)
        changed = next((shard for shard, digest in zip(shards, content, strict=True) if _content(shard) != digest), None)
        if changed is not None:
            raise DataError(f"{changed}: changed while it was read; start again")

    # A hub name has no content to compare: it is read again (its own cache keeps the download).
    with _entry(folder, write, rebuild=None in content):
        report = read_json(folder / "report.json")
        rows = _map(folder / "rows.arrow")
    store = RowStore(
        *(rows, name, report["digest"], report["read"], report["rejected"], tuple(report["faults"])),
        *((tuple(report["files"]),), tuple(map(tuple, report["notes"]))),
    )
    if store.rejected and on_bad_row == "fail":
        helps = store.read > store.rejected
        raise DataError(f"{_describe(store)}\nMend the rows{', or leave them out with data.on_bad_row=skip' * helps}.")
    if store.read == store.rejected:
        raise DataError(_describe(store) + "\nNo row is left.")
    if store.rejected:
        log.warning(_describe(store))
    return store


def _content(shard: str | os.PathLike) -> str | None:
    try:
        return digest_of_file(shard) if is_file(shard) else None
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror})") from error


def _describe(store: RowStore) -> str:
    return "\n".join([f"{store.rejected:,} of {store.read:,} rows cannot be used:", *(f"  {fault}" for fault in store.faults)])


def _write_rows(folder: Path, rows: Iterable[tuple[Location, Row | BadLine]], notes: list[tuple[str, str]]) -> None:
    counts, faults, files = {"read": 0, "rejected": 0}, Faults(), {}

    def accepted() -> Iterator[tuple[tuple[int, int, int], Row]]:
        """Yield (place, row) of the sound rows, and count the others."""
        for location, row in rows:
            counts["read"] += 1
            if not isinstance(row, BadLine):
                yield (files.setdefault(str(location.source), len(files)), location.line, location.row), row
                continue
            counts["rejected"] += 1
            faults.add(row)

    _write_arrow(folder / "rows.arrow", _ROWS, accepted(), _batch_of_rows)
    digest = digest_of_file(folder / "rows.arrow")
    write_json(
        folder / "report.json", {**counts, "faults": faults.lines(), "digest": digest, "files": list(files), "notes": notes}
    )


def _batch_of_rows(placed: list[tuple[tuple[int, int, int], Row]]) -> pa.RecordBatch:
    """Build a batch column by column, without a mapping for every row (docs/log.md)."""
    places, rows = zip(*placed, strict=True)
    columns = [
        *(pa.array(numbers, pa.int64()) for numbers in zip(*places, strict=True)),
        pa.array([row.query for row in rows], pa.string()),
        _list_array([row.positives for row in rows], pa.string()),
        _list_array([row.negatives for row in rows], pa.string()),
        pa.array([text_id(row.query) for row in rows], pa.int64()),
        _list_array([row.positive_ids for row in rows], pa.int64()),
        _list_array([row.negative_ids for row in rows], pa.int64()),
        _list_array([row.scores for row in rows], pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_ROWS)


def _list_array(rows: list[tuple], kind: pa.DataType) -> pa.ListArray:
    borders = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(borders, pa.array(list(chain.from_iterable(rows)), kind))


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """Token ids of a row store, row by row, memory-mapped.

    Attributes:
        tokens: columns query (list of int32), positives and negatives (lists of lists).
        lengths: (rows,) int32, tokens of a row in all.
        texts, truncated: number of texts, and how many were longer than the text format allows.
        total_tokens: of all rows.
    """

    tokens: datasets.Dataset
    lengths: np.ndarray
    texts: int
    truncated: int

    @property
    def total_tokens(self) -> int:
        """The tokens of all rows together."""
        return int(self.lengths.sum(dtype=np.int64))

    def vocabulary(self) -> np.ndarray:
        """Return the token ids that occur, ascending: int64."""
        seen = np.zeros(0, dtype=bool)
        for name in _TOKENS.names:
            for chunk in self.tokens.data.column(name).chunks:
                while pa.types.is_list(chunk.type):
                    chunk = chunk.flatten()
                counts = np.bincount(chunk.to_numpy(), minlength=len(seen)) > 0
                counts[: len(seen)] |= seen
                seen = counts
        return np.flatnonzero(seen)


def tokenize_rows(store: RowStore, tokenizer, text: TextSpec | Sequence[TextSpec], cache: Path) -> TokenStore:
    """Tokenise every text of a store under its text format, once.

    Args:
        store: the rows.
        tokenizer: a fast tokenizer.
        text: prefixes and lengths; of a mix, one for each source, which differ in their prefixes alone.
        cache: folder of the caches; keyed by rows, text format and tokenizer.
    """
    texts = (text,) if isinstance(text, TextSpec) else tuple(text)
    text_format = [each.to_dict() for each in texts] if len(texts) > 1 else texts[0].to_dict()
    key = digest_of("tokens", VERSION, str(_TOKENS), store.digest, text_format, tokenizer_state(tokenizer))
    folder = cache / f"tokens-{key}"

    def write(new: Path) -> None:
        counts, lengths = {"texts": 0, "truncated": 0}, array("i")
        _write_arrow(new / "tokens.arrow", _TOKENS, _tokenized(store.rows, tokenizer, texts, counts, lengths))
        np.save(new / "lengths.npy", np.array(lengths, dtype=np.int32))
        write_json(new / "report.json", counts)

    with _entry(folder, write):
        counts = read_json(folder / "report.json")
        lengths = np.load(folder / "lengths.npy", mmap_mode="r")
        return TokenStore(_map(folder / "tokens.arrow"), lengths, counts["texts"], counts["truncated"])


def _tokenized(rows: datasets.Dataset, tokenizer, texts: tuple[TextSpec, ...], counts: dict, lengths: array) -> Iterator[dict]:
    def encoded(prepared: list[str], limit: int) -> Iterator[list[int]]:
        """Yield the tokens of each text, cut to the limit, and count the texts and the cuts."""
        if not prepared:  # noised queries stand without passages
            return iter(())
        output = tokenize(tokenizer, prepared, limit)
        counts["texts"] += len(prepared)
        counts["truncated"] += sum(bool(encoding.overflowing) for encoding in output.encodings)
        return iter(output["input_ids"])

    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        formats = [texts[source] for source in batch["source"]] if len(texts) > 1 else texts * len(batch["query"])
        queries = [own.query(t) for own, t in zip(formats, batch["query"], strict=True)]
        passages = [
            own.passage(t)
            for column in ("positives", "negatives")
            for own, row in zip(formats, batch[column], strict=True)
            for t in row
        ]
        query_tokens = encoded(queries, texts[0].query_max_length)
        passage_tokens = encoded(passages, texts[0].passage_max_length)
        positives, negatives = (
            [list(islice(passage_tokens, len(row))) for row in batch[column]] for column in ("positives", "negatives")
        )
        for query, positive, negative in zip(query_tokens, positives, negatives, strict=True):
            lengths.append(len(query) + sum(map(len, positive)) + sum(map(len, negative)))
            yield {"query": query, "positives": positive, "negatives": negative}


@contextlib.contextmanager
def _entry(folder: Path, build: Callable[[Path], object], rebuild: bool = False) -> Iterator[None]:
    """Open an entry of the cache, which the main process builds where it must be built."""
    with distributed.main_process_first(), caches.locked(folder):
        if distributed.is_main():
            caches.keep(folder, build, rebuild)
        yield


def _write_arrow(path: Path, schema: pa.Schema, rows: Iterator, batch_of: Callable[[list], pa.RecordBatch] | None = None) -> None:
    """Write rows in batches; they are mappings, or whatever `batch_of` makes a record batch of."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_batch(batch_of(batch) if batch_of else pa.RecordBatch.from_pylist(batch, schema=schema))


def _map(path: Path) -> datasets.Dataset:
    return datasets.Dataset.from_file(str(path))
