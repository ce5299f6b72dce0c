"""Rows as an audit reads them: every spelling of a text once, where it is used, and what reading left out."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from e5ft.data.lines import BadLine
from e5ft.data.remote import expanded, local_file
from e5ft.data.rows import read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.data.shards import Names, find_shards
from e5ft.data.store import RowStore, seeded_choice

QUERY, DOCUMENT, NEGATIVE = "query", "document", "hard_negative"
SURE = 2.0
PASSAGES = (DOCUMENT, NEGATIVE)
_COLUMNS = {QUERY: ("query", "query_id"), DOCUMENT: ("positives", "positive_ids"), NEGATIVE: ("negatives", "negative_ids")}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault of a row.

    Attributes:
        kind: a key of `e5ft.auditing.kinds.KINDS`.
        row: its number.
        field: as of `field_name`.
        text: the faulty text, by its number among the rows' texts, or itself where they lack it.
        evidence: what shows it: what was found in the text, how it would read, or the text that it is like.
        weight: the larger the worse, to choose examples by; from `SURE` on no reading is needed.
    """

    kind: str
    row: int
    field: str
    text: int | str
    evidence: str
    weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class Uses:
    """The texts of one role end to end, in the order of the rows.

    Attributes:
        numbers: (n,) int64, of the texts.
        rows: (n,) int64, ascending.
        places: (n,) int64, each text's place among those of its role in its row, from 0.
    """

    numbers: np.ndarray
    rows: np.ndarray
    places: np.ndarray


class AuditedRows:
    """Rows whose texts are numbered; two spellings of one text (NFC and NFD) are two.

    All texts are held in memory, each once.

    Args:
        store: the rows.

    Attributes:
        store: the same.
        texts: the distinct spellings.
        identities: (T,) int64, equal for two spellings of one text.
        same: (T,) int64, the first text of the same identity.
        uses: role -> where it stands.
    """

    def __init__(self, store: RowStore):
        self.store, table = store, store.rows.with_format("arrow")[:]
        texts, ids, self.uses = [], [], {}
        for role, (text, identity) in _COLUMNS.items():
            column, counts = table[text], np.ones(len(store.rows), dtype=np.int64)
            if role != QUERY:
                column = column.cast(pa.large_list(pa.large_string())).combine_chunks()
                counts, column = column.value_lengths().to_numpy().astype(np.int64), column.flatten()
            else:
                column = column.cast(pa.large_string()).combine_chunks()
            column_ids = table[identity].combine_chunks()
            ids.append((column_ids if role == QUERY else column_ids.flatten()).to_numpy())
            texts.append(column)
            starts = np.cumsum(counts) - counts
            rows = np.repeat(np.arange(len(counts)), counts)
            self.uses[role] = (rows, np.arange(len(rows)) - starts[rows])
        encoded = pa.concat_arrays(texts).dictionary_encode()
        self.texts: list[str] = encoded.dictionary.to_pylist()
        numbers, identities = encoded.indices.to_numpy().astype(np.int64), np.concatenate(ids)
        self.identities = identities[np.unique(numbers, return_index=True)[1]]
        _, first, back = np.unique(self.identities, return_index=True, return_inverse=True)
        self.same = first[back]
        parts = np.split(numbers, np.cumsum([len(part) for part in texts])[:-1])
        self.uses = {role: Uses(part, *uses) for (role, uses), part in zip(self.uses.items(), parts, strict=True)}

    def __len__(self) -> int:
        return len(self.store.rows)

    def of_row(self, role: str, row: int) -> np.ndarray:
        """The numbers of a row's texts of one role."""
        uses = self.uses[role]
        return uses.numbers[slice(*np.searchsorted(uses.rows, [row, row + 1]))]

    def distinct(self, *roles: str) -> np.ndarray:
        """The texts of these roles, each identity once, ascending by number."""
        return np.unique(self.same[np.concatenate([self.uses[role].numbers for role in roles])])

    def using(self, flagged: np.ndarray, *roles: str) -> Iterator[tuple[int, str, int]]:
        """Yield (row, field, text) wherever a flagged text stands.

        Args:
            flagged: (T,) bool.
            roles: where it is looked for.
        """
        for role in roles:
            uses = self.uses[role]
            for at in np.flatnonzero(flagged[uses.numbers]).tolist():
                yield int(uses.rows[at]), field_name(role, int(uses.places[at])), int(uses.numbers[at])

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Every known answer as (query, passage), both by their first spelling: two (n,) arrays, ascending, each pair once."""
        documents = self.uses[DOCUMENT]
        queries = self.same[self.uses[QUERY].numbers[documents.rows]]
        keys = np.unique(queries * len(self.texts) + self.same[documents.numbers])
        return keys // len(self.texts), keys % len(self.texts)

    def place(self, row: int) -> str:
        """Where a row is in the user's files."""
        return self.store.place(row)

    def sources(self) -> np.ndarray:
        """(R,) int64: which source of a mix each row is of."""
        if "source" not in self.store.rows.column_names:
            return np.zeros(len(self), dtype=np.int64)
        return self.store.rows.with_format("arrow")[:]["source"].to_numpy()


def field_name(role: str, place: int) -> str:
    """query, document, document 2, hard_negative 3."""
    return role if role == QUERY or not place else f"{role} {place + 1}"


@dataclasses.dataclass
class LeftOut:
    """What reading left out of a source.

    Attributes:
        bad: rows that cannot be used.
        equal: place of a row -> its hard negatives that are a document of it.
    """

    bad: list[BadLine] = dataclasses.field(default_factory=list)
    equal: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def left_out(
    stores: Sequence[RowStore],
    sources: Sequence[tuple[Names, Columns, Reading]],
    cache: Path,
    looked_at: int | None = None,
    seed: int = 0,
) -> LeftOut:
    """Read those sources again of which reading left something out: a store keeps its count alone.

    Args:
        stores: of the sources, in their order.
        sources: file, columns and reading of each.
        cache: folder of what was fetched.
        looked_at: so many of the stores' rows are audited; None: all. Of the rows that cannot be used as large a part is
            taken, at least one, so that it is their share of the whole that is told.
        seed: chooses them.
    """
    found, total = LeftOut(), sum(len(store.rows) for store in stores)
    for store, (file, columns, reading) in zip(stores, sources, strict=True):
        if not store.rejected and all(name != "negatives" for name, _ in store.notes):
            continue
        here = tuple(local_file(name, cache) for name in expanded(find_shards(file, reading)))
        named = reading.corpus_file
        for location, row in read_rows(here, columns, reading, [], None if named is None else local_file(named, cache)):
            if isinstance(row, BadLine):
                found.bad.append(row)
            elif row.left_out:
                found.equal[str(location)] = row.left_out
    if looked_at is not None and looked_at < total:
        part = max(1, round(len(found.bad) * looked_at / total))
        found.bad = [found.bad[number] for number in seeded_choice(len(found.bad), part, seed)]
    return found
