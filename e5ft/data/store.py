"""Rows on disk: validated and tokenised once, then memory-mapped. Resident memory does not grow with their number."""

import contextlib
import dataclasses
import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock

from e5ft import distributed
from e5ft.data.lines import Fault, is_file
from e5ft.data.remote import local_file
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns
from e5ft.data.text import TextSpec, text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import digest_of, digest_of_file, new_folder, read_json, write_json

VERSION = 3  # part of every cache key: raise it when the meaning of a stored column changes
_BATCH = 1000
_SHOWN_FAULTS = 20
log = logging.getLogger(__name__)

_ROWS = pa.schema(
    {
        "line": pa.int64(),
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
    {
        "query": pa.list_(pa.int32()),
        "positives": pa.list_(pa.list_(pa.int32())),
        "negatives": pa.list_(pa.list_(pa.int32())),
    }
)


@dataclasses.dataclass(frozen=True)
class RowStore:
    """Validated rows, memory-mapped.

    Attributes:
        rows: columns query, positives, negatives (texts), query_id, positive_ids, negative_ids (int64), scores (a teacher's,
            of the positives and then the negatives; empty where there are none), and line (where a row stands in the
            source, counted from 1); of a mix also source (int64, which one).
        source: where they come from, for messages.
        digest: identifies the rows' content; the key of what is derived from them.
        read, rejected: number of rows read from the source and not accepted.
        faults: the first faults, as `path:line: reason`.
        files: of a mix, where the rows of each source come from.
    """

    rows: datasets.Dataset
    source: str
    digest: str
    read: int
    rejected: int
    faults: tuple[str, ...]
    files: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            yield Row(row["query"], tuple(row["positives"]), tuple(row["negatives"]), tuple(row["scores"]))

    def place(self, row: int) -> str:
        """Where a row stands in the user's files, as `path:line`."""
        found = self.rows[row]
        return f"{self.files[found['source']] if self.files else self.source}:{found['line']}"

    def positive_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows' positive identities end to end, (sum of counts,) int64, and how many each row has, (rows,).

        Straight from Arrow: as Python lists, a million rows would take a hundred times the memory.
        """
        column = self.rows.with_format("arrow")[:]["positive_ids"].combine_chunks()
        return column.flatten().to_numpy(), column.value_lengths().to_numpy()

    def query_ids(self) -> np.ndarray:
        """(rows,) int64 identities of the queries."""
        return self.rows.with_format("arrow")[:]["query_id"].to_numpy()

    def without_scores(self) -> np.ndarray:
        """Lines of the rows that carry no teacher's scores, int64."""
        columns = self.rows.with_format("arrow")[:]
        counts = columns["scores"].combine_chunks().value_lengths().to_numpy()
        return columns["line"].to_numpy()[counts == 0]

    def select(self, indices: np.ndarray) -> "RowStore":
        """The rows at `indices`, still memory-mapped."""
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

    Raises:
        ConfigurationError: the count is below 1.
    """
    chosen = _limited(len(rows), count, seed)
    return rows if chosen is None else [rows[index] for index in chosen]


def seeded_choice(total: int, count: int | None, seed: int | Sequence[int]) -> np.ndarray:
    """Return the numbers of at most `count` of `total` rows, chosen at random, ascending; None chooses all."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def _limited(total: int, count: int | None, seed: int) -> np.ndarray | None:
    if count is None or count >= total:
        return None
    if count < 1:
        raise ConfigurationError(f"data.max_train_rows={count}: must be at least 1, or null for all")
    return seeded_choice(total, count, seed)


def load_rows(source: str, columns: Columns, cache: Path, *, on_bad_row: str = "fail", split: str = "train") -> RowStore:
    """Validate a source once and map the result.

    Args:
        source: as for `read_rows`, or the URL of a file.
        columns: the column mapping.
        cache: folder of the caches; keyed by the content of the file, so an edited file is read again.
        on_bad_row: "fail" raises after reading everything, listing the faults; "skip" leaves bad rows out and counts them.
        split: of a hub data set.

    Raises:
        DataError: a bad row with on_bad_row=fail, or no good row at all.
    """
    if on_bad_row not in ("fail", "skip"):
        raise ConfigurationError(f"data.on_bad_row={on_bad_row!r}: fail or skip is needed")
    local = local_file(source, cache)
    try:
        content = digest_of_file(local) if is_file(local) else None
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror})") from error
    # The path is part of the key because the faults name it.
    key = digest_of("rows", VERSION, source, content, split, dataclasses.asdict(columns))
    folder = cache / f"rows-{key}"
    with distributed.main_process_first(), _alone(folder):
        # A hub name has no content to compare: it is read anew (its own cache keeps the download).
        if distributed.is_main() and (content is None or not (folder / "report.json").is_file()):
            _write_rows(folder, read_rows(local, columns, split))
        report = read_json(folder / "report.json")
        rows = _map(folder / "rows.arrow")
    store = RowStore(rows, source, report["digest"], report["read"], report["rejected"], tuple(report["faults"]))
    if store.rejected and on_bad_row == "fail":
        raise DataError(_describe(store) + "\nMend the rows, or leave them out with data.on_bad_row=skip.")
    if store.read == store.rejected:
        raise DataError(_describe(store) + "\nNo row is left.")
    if store.rejected:
        log.warning(_describe(store))
    return store


def _describe(store: RowStore) -> str:
    lines = [f"{store.rejected:,} of {store.read:,} rows cannot be used:", *(f"  {fault}" for fault in store.faults)]
    if store.rejected > len(store.faults):
        lines.append(f"  ... and {store.rejected - len(store.faults):,} more")
    return "\n".join(lines)


def _write_rows(folder: Path, found: Iterable[tuple[str, Row | Fault]]) -> None:
    read = rejected = 0
    faults: list[str] = []

    def accepted() -> Iterator[tuple[int, Row]]:
        nonlocal read, rejected
        for place, row in found:
            read += 1
            if isinstance(row, Fault):
                rejected += 1
                if len(faults) < _SHOWN_FAULTS:
                    faults.append(str(row))
                continue
            yield int(place.rpartition(":")[2]), row

    with new_folder(folder) as temporary:
        _write_arrow(temporary / "rows.arrow", _ROWS, accepted(), _batch_of_rows)
        digest = digest_of_file(temporary / "rows.arrow")
        write_json(temporary / "report.json", {"read": read, "rejected": rejected, "faults": faults, "digest": digest})


def _batch_of_rows(found: list[tuple[int, Row]]) -> pa.RecordBatch:
    """Column by column, without a mapping for every row (docs/log.md)."""
    rows = [row for _, row in found]
    columns = [pa.array([line for line, _ in found], pa.int64()), pa.array([row.query for row in rows], pa.string())]
    passages = [_lists([getattr(row, name) for row in rows]) for name in ("positives", "negatives")]
    columns += [_list_array(*flat, pa.string()) for flat in passages]
    columns.append(pa.array([text_id(row.query) for row in rows], pa.int64()))
    columns += [_list_array(borders, [text_id(text) for text in texts], pa.int64()) for borders, texts in passages]
    columns.append(_list_array(*_lists([row.scores for row in rows]), pa.float32()))
    return pa.RecordBatch.from_arrays(columns, schema=_ROWS)


def _lists(rows: list[tuple]) -> tuple[np.ndarray, list]:
    """Where each row's values begin and the last ones end, and all values end to end."""
    return np.cumsum([0, *map(len, rows)], dtype=np.int32), list(chain.from_iterable(rows))


def _list_array(borders: np.ndarray, values: list, kind: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(borders, pa.array(values, kind))


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """Token ids of a row store, row by row, memory-mapped.

    Attributes:
        tokens: columns query (list of int32), positives and negatives (lists of lists).
        lengths: (rows,) int32, tokens of a row in all.
        texts, truncated: number of texts, and how many were longer than the contract allows.
        total_tokens: of all rows.
    """

    tokens: datasets.Dataset
    lengths: np.ndarray
    texts: int
    truncated: int

    @property
    def total_tokens(self) -> int:
        """Tokens of all rows together."""
        return int(self.lengths.sum(dtype=np.int64))

    def vocabulary(self) -> np.ndarray:
        """Token ids that occur, ascending: int64."""
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
    """Tokenise every text of a store under the contract, once.

    Args:
        store: the rows.
        tokenizer: a fast tokenizer.
        text: prefixes and lengths; of a mix, one for each source, which differ in their prefixes alone.
        cache: folder of the caches; keyed by rows, contract and tokenizer.
    """
    texts = (text,) if isinstance(text, TextSpec) else tuple(text)
    contract = [each.to_dict() for each in texts] if len(texts) > 1 else texts[0].to_dict()
    key = digest_of("tokens", VERSION, store.digest, contract, _state(tokenizer))
    folder = cache / f"tokens-{key}"
    with distributed.main_process_first(), _alone(folder):
        if distributed.is_main() and not (folder / "report.json").is_file():
            with new_folder(folder) as temporary:
                counts, lengths = {"texts": 0, "truncated": 0}, array("i")
                rows = _tokenized(store.rows, tokenizer, texts, counts, lengths)
                _write_arrow(temporary / "tokens.arrow", _TOKENS, rows)
                np.save(temporary / "lengths.npy", np.array(lengths, dtype=np.int32))
                write_json(temporary / "report.json", counts)
    counts = read_json(folder / "report.json")
    lengths = np.load(folder / "lengths.npy", mmap_mode="r")
    return TokenStore(_map(folder / "tokens.arrow"), lengths, counts["texts"], counts["truncated"])


def _state(tokenizer) -> list:
    """What decides a text's tokens; not the truncation and padding of the last call, which the tokenizer keeps too."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return [{**state, "truncation": None, "padding": None}, tokenizer.truncation_side]


def _tokenized(rows: datasets.Dataset, tokenizer, texts: tuple[TextSpec, ...], counts: dict, lengths: array) -> Iterator[dict]:
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        text = [texts[source] for source in batch["source"]] if len(texts) > 1 else texts * len(batch["query"])
        queries = [own.query(t) for own, t in zip(text, batch["query"], strict=True)]
        passages = [
            own.passage(t)
            for column in ("positives", "negatives")
            for own, row in zip(text, batch[column], strict=True)
            for t in row
        ]
        query_tokens = _encode(tokenizer, queries, texts[0].query_max_length, counts)
        passage_tokens = iter(_encode(tokenizer, passages, texts[0].passage_max_length, counts))
        positives = [list(islice(passage_tokens, len(row))) for row in batch["positives"]]
        negatives = [list(islice(passage_tokens, len(row))) for row in batch["negatives"]]
        for query, positive, negative in zip(query_tokens, positives, negatives, strict=True):
            lengths.append(len(query) + sum(map(len, positive)) + sum(map(len, negative)))
            yield {"query": query, "positives": positive, "negatives": negative}


def _encode(tokenizer, texts: list[str], limit: int, counts: dict) -> list[list[int]]:
    if not texts:
        return []
    output = tokenizer(texts, truncation=True, max_length=limit, return_attention_mask=False, return_token_type_ids=False)
    counts["texts"] += len(texts)
    counts["truncated"] += sum(bool(encoding.overflowing) for encoding in output.encodings)
    return output["input_ids"]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time, of whatever run, look for a cached folder and write it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        yield


def _write_arrow(path: Path, schema: pa.Schema, rows: Iterator, batch_of: Callable[[list], pa.RecordBatch] | None = None) -> None:
    """Rows are mappings, or whatever `batch_of` makes a record batch of."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_batch(batch_of(batch) if batch_of else pa.RecordBatch.from_pylist(batch, schema=schema))


def _map(path: Path) -> datasets.Dataset:
    return datasets.Dataset.from_file(str(path))
