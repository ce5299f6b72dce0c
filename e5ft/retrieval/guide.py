"""A frozen model's vectors of all texts of the training data: computed once, memory-mapped, looked up by identity."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from e5ft.data.store import RowStore
from e5ft.data.text import TextSpec
from e5ft.files import digest_of
from e5ft.modeling.encoder import BATCH_TOKENS, Encoder
from e5ft.retrieval.columns import DistinctTexts
from e5ft.retrieval.vectors import digest_of_model, encode_collection


class Guide:
    """Vectors by (role, identity), and by source where sources are read in different formats.

    Args:
        tables: for all sources, or for each of them: role ("query", "passage") -> (ids ascending (n,) int64, vectors (n, D)
            float32, perhaps a memory map).
        digest: of the model and its text formats.
    """

    def __init__(self, tables: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]], digest: str):
        self._tables, self.digest = tables, digest

    def of(self, role: str, ids: np.ndarray, source: int = 0) -> np.ndarray:
        """Vectors of some texts.

        Args:
            role: "query" or "passage".
            ids: (n,) identities, in any order, each of a text of the data.
            source: whose texts they are, of a mix.

        Returns:
            (n, D) float32; of a memory map only these rows are read.

        Raises:
            KeyError: an identity that the data does not hold.
        """
        known, vectors = self._tables[source if len(self._tables) > 1 else 0][role]
        positions = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        if len(ids) and not np.array_equal(known[positions], ids):
            raise KeyError(f"{role} {ids[known[positions] != ids][0]}: the guide has no vector of it")
        return np.asarray(vectors[positions], dtype=np.float32)


def guide_vectors(
    encoder: Encoder, store: RowStore, cache: Path, *, formats: Sequence[TextSpec] = (), batch_tokens: int = BATCH_TOKENS
) -> Guide:
    """Encode every distinct query and passage of the rows.

    Args:
        encoder: the guide, with its own text format.
        store: the rows.
        formats: of each source of a mix, by which its texts are read; none: all in the guide's own.
        cache: a folder; the vectors are kept there under a digest of the guide's weights and the texts.
        batch_tokens: tokens of one forward pass.
    """
    own, tables = encoder.spec, []
    specs = [dataclasses.replace(own, text=text) for text in formats]
    if all(spec == own for spec in specs):
        specs = [own]
    for source, spec in enumerate(specs):
        rows = store if len(specs) == 1 else store.select(np.flatnonzero(np.asarray(store.rows["source"]) == source))
        encoder.spec = spec
        try:
            tables.append(_tables(encoder, rows, cache, batch_tokens))
        finally:
            encoder.spec = own
    return Guide(tables, digest_of(digest_of_model(encoder), *(spec.to_dict() for spec in specs)))


def _tables(encoder: Encoder, store: RowStore, cache: Path, batch_tokens: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
    return tables
