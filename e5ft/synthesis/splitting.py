"""Rows set apart in training, dev and test part, so that what belongs together stays together."""

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from e5ft.data.split import components
from e5ft.data.store import RowStore
from e5ft.data.stored_texts import StoredTexts
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.retrieval.copies import NearCopies
from e5ft.retrieval.sets import from_rows
from e5ft.synthesis.folder import write_folder

TRAIN, DEV, TEST = 0, 1, 2
RECORD = "split.json"


def set_apart(groups: np.ndarray, dev_share: float, test_share: float, seed: int) -> np.ndarray:
    """Choose whole groups at random, first for the test part, then for the dev part.

    Args:
        groups: of each row, (rows,) int, from 0.
        dev_share, test_share: of the rows; no part gets more than its share, or one row.
        seed: of the choice.

    Returns:
        (rows,) int: TRAIN, DEV or TEST.

    Raises:
        DataError: the groups are too large for a part to get any.
    """
    sizes = np.bincount(groups)
    part = np.zeros(len(sizes), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(sizes))
    for number, share, name in ((TEST, test_share, "test_share"), (DEV, dev_share, "data.dev_share")):
        most, total = max(1, round(share * len(groups))), 0
        for group in order:
            if not part[group] and sizes[group] > 0 and total + sizes[group] <= most:
                part[group], total = number, total + sizes[group]
        if not total:
            raise DataError(
                f"{name}={share:g}: no group of rows is so small: {len(groups):,} rows form {int((sizes > 0).sum()):,} groups, the "
                f"smallest of {sizes[sizes > 0].min():,} rows; a larger {name} may do"
            )
    if not (part[groups] == TRAIN).any():
        raise DataError(f"test_share={test_share:g} and data.dev_share={dev_share:g}: nothing is left to train on")
    return part[groups]


def groups_of_rows(store: RowStore) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows belong together: those that share a query or a document, or whose queries or documents are near-copies.

    Args:
        store: the rows.

    Returns:
        The group of each row, (rows,) int from 0, and how many pairs of queries and of documents are near-copies.
    """
    near, counts = [], {}
    for column, name in (("query", "queries"), ("positives", "documents")):
        texts = StoredTexts(store, column)
        pairs = NearCopies(texts).pairs(texts)
        near.append(texts.owners[pairs[pairs[:, 0] < pairs[:, 1]]])
        counts[f"near_duplicate_{name}"] = len(near[-1])
    return components(store, np.concatenate(near)), counts


def units(names: Sequence[tuple[str, Sequence[int]]], fewest: int) -> tuple[str, np.ndarray]:
    """The coarsest division that has so many parts: by document, else by section, else by chunk.

    Args:
        names: (name, the part of each row), the coarsest first.
        fewest: parts.
    """
    for name, parts in names:
        if len(set(parts)) >= fewest or name == names[-1][0]:
            return name, np.unique(np.asarray(parts), return_inverse=True)[1]
    raise AssertionError("unreachable")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Rows in three parts, no query or document in two of them, nor a near-copy.

    Attributes:
        train, dev, test: the parts, each in the order of the file.
        groups: of rows that stay together.
        near: pairs of queries, and of documents, that are near-copies.
    """

    train: RowStore
    dev: RowStore
    test: RowStore
    groups: int
    near: dict[str, int]

    def counts(self) -> dict[str, int]:
        """Rows and distinct queries of each part, groups, and pairs of near-copies."""
        parts = {name: getattr(self, name) for name in ("train", "dev", "test")}
        rows = {name: len(part.rows) for name, part in parts.items()}
        queries = {f"{name}_queries": len(np.unique(part.query_ids())) for name, part in parts.items()}
        return {**rows, **queries, "groups": self.groups, **self.near}


def divide(store: RowStore, dev_share: float, test_share: float, seed: int) -> Parts:
    """Set a dev and a test part apart.

    Args:
        store: the rows.
        dev_share, test_share: of the rows.
        seed: of the choice.

    Raises:
        DataError: they hang together too closely.
    """
    groups, near = groups_of_rows(store)
    part = set_apart(groups, dev_share, test_share, seed)
    rows = (store.select(np.flatnonzero(part == number)) for number in (TRAIN, DEV, TEST))
    return Parts(*rows, groups=int(groups.max()) + 1, near=near)


def write_parts(parts: Parts, folder: Path, record: dict, corpus: Iterable[str] = ()) -> None:
    """Write rows and evaluation set: all documents are searched, but near-copies of an evaluation answer.

    Args:
        parts: to write.
        folder: to write them into; what was there goes.
        record: what it holds beside the counts.
        corpus: passages that are searched, too, read once.
    """
    made = from_rows("eval", chain(parts.dev, parts.test), chain(StoredTexts(parts.train, "positives"), corpus))
    in_dev = {text_id(row.query) for row in parts.dev}
    judged: dict[str, list[tuple[str, str, int]]] = {"dev": [], "test": []}
    for name, query in zip(made.query_ids, made.queries, strict=True):
        judged["dev" if text_id(query) in in_dev else "test"] += [(name, p, value) for p, value in made.qrels[name].items()]
    passages = ({"_id": name, "text": text} for name, text in zip(made.passage_ids, made.passages, strict=True))
    rows = {name: getattr(parts, name) for name in ("train", "dev", "test")}
    write_folder(
        folder, rows, passages, zip(made.query_ids, made.queries, strict=True), judged, (RECORD, parts.counts() | record)
    )
