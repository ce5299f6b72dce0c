"""A frozen model's vectors of all texts of the training data: computed once, memory-mapped, looked up by identity."""

from pathlib import Path

import numpy as np

from e5ft.data.store import RowStore
from e5ft.data.text import text_id
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.columns import ColumnBuilder, StringColumn
from e5ft.retrieval.vectors import encode_collection


class Guide:
    """Vectors by (role, identity).

    Args:
        tables: role ("query", "passage") -> (ids ascending (n,) int64, vectors (n, D) float32, perhaps a memory map).
    """

    def __init__(self, tables: dict[str, tuple[np.ndarray, np.ndarray]]):
        self._tables = tables

    def of(self, role: str, ids: np.ndarray) -> np.ndarray:
        """Vectors of some texts.

        Args:
            role: "query" or "passage".
            ids: (n,) identities, in any order, each of a text of the data.

        Returns:
            (n, D) float32; of a memory map only these rows are read.

        Raises:
            KeyError: an identity that the data does not hold.
        """
        known, vectors = self._tables[role]
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        if len(ids) and not np.array_equal(known[places], ids):
            raise KeyError(f"{role} {ids[known[places] != ids][0]}: the guide has no vector of it")
        return np.asarray(vectors[places], dtype=np.float32)


def guide_vectors(encoder: Encoder, store: RowStore, cache: Path, *, batch_tokens: int = 16384) -> Guide:
    """Encode every distinct query and passage of the rows.

    Args:
        encoder: the guide, with its own text contract.
        store: the rows.
        cache: a folder; the vectors are kept there under a digest of the guide's weights and the texts.
        batch_tokens: tokens of one forward pass.
    """
    texts = {"query": _Distinct(), "passage": _Distinct()}
    for row in store:
        texts["query"].add(row.query)
        for text in (*row.positives, *row.negatives):
            texts["passage"].add(text)
    tables = {}
    for role, distinct in texts.items():
        ids, column = distinct.columns()
        tables[role] = ids, encode_collection(encoder, column, role, batch_tokens=batch_tokens, cache=cache)
    return Guide(tables)


class _Distinct:
    """Texts, each once, in ascending order of identity."""

    def __init__(self):
        self._places: dict[int, int] = {}
        self._texts = ColumnBuilder()

    def add(self, text: str) -> None:
        identity = text_id(text)
        if identity not in self._places:
            self._places[identity] = len(self._places)
            self._texts.append(text)

    def columns(self) -> tuple[np.ndarray, StringColumn]:
        ids = np.fromiter(self._places, dtype=np.int64)  # dictionaries keep the order in which keys came
        order = np.argsort(ids)
        return ids[order], self._texts.finish().take(order)
