"""The texts of a row store, each once."""

import copy
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from e5ft.data.store import RowStore


class StoredTexts:
    """The distinct texts of a store's column in the order of the rows, read from the disk each time: none is kept.

    Args:
        store: the rows.
        column: "query" or "positives".

    Attributes:
        ids: their identities, (n,) int64.
        owners: the row in which each stands first, (n,) int64.
    """

    def __init__(self, store: RowStore, column: str):
        self._rows, self._column = store.rows, column
        ids, counts = (store.query_ids(), 1) if column == "query" else store.positive_ids()
        self._chosen = np.sort(np.unique(ids, return_index=True)[1])
        self.ids, self.owners = ids[self._chosen], np.repeat(np.arange(len(store.rows)), counts)[self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def every(self, step: int) -> "StoredTexts":
        """Every step-th of them."""
        part = copy.copy(self)
        part._chosen, part.ids, part.owners = self._chosen[::step], self.ids[::step], self.owners[::step]
        return part

    def __iter__(self) -> Iterator[str]:
        start = 0
        for batch in self._rows.with_format("arrow").iter(1000):
            texts = batch[self._column].combine_chunks()
            texts = texts if self._column == "query" else texts.flatten()
            here = slice(*np.searchsorted(self._chosen, [start, start + len(texts)]))
            yield from texts.take(pa.array(self._chosen[here] - start)).to_pylist()
            start += len(texts)
