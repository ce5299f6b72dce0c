"""A frozen model's vectors of all texts of the training data: computed once, memory-mapped, looked up by identity."""

from pathlib import Path

import numpy as np

from e5ft.data.store import RowStore
from e5ft.files import digest_of
from e5ft.modeling.encoder import BATCH_TOKENS, Encoder
from e5ft.retrieval.columns import DistinctTexts
from e5ft.retrieval.vectors import digest_of_model, encode_collection


class Guide:
    """Vectors by (role, identity).

    Args:
        tables: role ("query", "passage") -> (ids ascending (n,) int64, vectors (n, D) float32, perhaps a memory map).
        digest: of the model and its text format.
    """

    def __init__(self, tables: dict[str, tuple[np.ndarray, np.ndarray]], digest: str):
        self._tables, self.digest = tables, digest

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
        positions = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        if len(ids) and not np.array_equal(known[positions], ids):
            raise KeyError(f"{role} {ids[known[positions] != ids][0]}: the guide has no vector of it")
        return np.asarray(vectors[positions], dtype=np.float32)


def guide_vectors(encoder: Encoder, store: RowStore, cache: Path, *, batch_tokens: int = BATCH_TOKENS) -> Guide:
    """Encode every distinct query and passage of the rows.

    Args:
        encoder: the guide, with its own text format.
        store: the rows.
        cache: a folder; the vectors are kept there under a digest of the guide's weights and the texts.
        batch_tokens: tokens of one forward pass.
    """
    texts = {"query": DistinctTexts(), "passage": DistinctTexts()}
    for row in store:
        texts["query"].add(row.query)
        for text in (*row.positives, *row.negatives):
            texts["passage"].add(text)
    tables = {}
    for role, distinct in texts.items():
        ids = np.fromiter(distinct.ids, dtype=np.int64)
        order = np.argsort(ids)
        column = distinct.finish().take(order)
        tables[role] = ids[order], encode_collection(encoder, column, role, batch_tokens=batch_tokens, cache=cache)
    return Guide(tables, digest_of(digest_of_model(encoder), encoder.spec.to_dict()))
