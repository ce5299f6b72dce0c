"""The rows of several sources, end to end."""

from collections.abc import Sequence

import datasets
import numpy as np

from e5ft.data.settings import Mix
from e5ft.data.store import RowStore, seeded_choice
from e5ft.files import digest_of


def join_rows(mix: Mix, stores: Sequence[RowStore], seed: int) -> RowStore:
    """Join the rows of several sources end to end, still memory-mapped, with a column `source` that says which one.

    Args:
        mix: its sources' names and caps.
        stores: of each source, as `load_rows` gave it.
        seed: of the choice of a capped source's rows.

    Returns:
        One store. Its `source` names the sources, its `files` say where each comes from.
    """
    parts, chosen, start = [], [], 0
    for number, (source, store) in enumerate(zip(mix.sources, stores, strict=True)):
        count = len(store.rows)
        parts.append(store.rows.add_column("source", np.full(count, number, dtype=np.int64)))
        chosen.append(start + seeded_choice(count, source.cap, [seed, number]))
        start += count
    rows = RowStore(
        datasets.concatenate_datasets(parts),
        " + ".join(mix.names),
        digest_of("mix", *(store.digest for store in stores)),
        sum(store.read for store in stores),
        sum(store.rejected for store in stores),
        tuple(fault for store in stores for fault in store.faults),
        tuple(store.files[0] for store in stores),
        tuple(note for store in stores for note in store.notes),
    )
    # Chosen here and not before: a column cannot be added to a choice without writing all of it again.
    return rows.select(np.concatenate(chosen)) if any(source.cap is not None for source in mix.sources) else rows


def rows_by_source(mix: Mix, joined: RowStore) -> list[int]:
    """Count each source's rows among joined ones, or among a part of them."""
    return np.bincount(joined.rows.with_format("numpy")["source"][:], minlength=len(mix.sources)).tolist()
