"""How much a row can show at most: what balances micro-batches, and what the largest one of a training can hold."""

import datasets
import numpy as np
import pyarrow as pa


def most_tokens(tokens: datasets.Dataset, *, positives: int | None, negatives: int | None) -> np.ndarray:
    """The most tokens that each row shows in any epoch.

    Args:
        tokens: columns query, positives and negatives of a `TokenStore`.
        positives, negatives: how many of a row's a micro-batch holds at most; None for all.

    Returns:
        (rows,) int64.
    """
    columns = tokens.data
    query = np.concatenate([chunk.value_lengths().to_numpy() for chunk in columns.column("query").chunks])
    shown = [_largest(columns.column(name), count) for name, count in (("positives", positives), ("negatives", negatives))]
    return query + sum(shown)


def _largest(column: pa.ChunkedArray, count: int | None) -> np.ndarray:
    """(rows,) tokens of the `count` longest texts of each row. Straight from Arrow: rows may be millions."""
    found = []
    for chunk in column.chunks:
        counts, lengths = chunk.value_lengths().to_numpy(), chunk.flatten().value_lengths().to_numpy().astype(np.int64)
        owners = np.repeat(np.arange(len(counts)), counts)
        if count is not None and counts.max(initial=0) > count:
            lengths = lengths[np.lexsort((-lengths, owners))]  # the owners stay in order
            place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
            lengths = np.where(place < count, lengths, 0)
        found.append(np.bincount(owners, weights=lengths, minlength=len(counts)).astype(np.int64))
    return np.concatenate(found)


def dealt_evenly(rows: np.ndarray, tokens: np.ndarray, parts: int) -> np.ndarray:
    """Deal rows out to parts of equal number and about as many tokens: the longest first, there and back.

    Where each row of one set is at most as long as the row of the same rank in another, the largest part of the one has at
    most the tokens of the largest part of the other.

    Args:
        rows: (parts x B,) row numbers.
        tokens: tokens by row number.
        parts: number of parts.

    Returns:
        (parts, B) row numbers.
    """
    order = rows[np.argsort(-tokens[rows], kind="stable")].reshape(-1, parts)  # (B, parts)
    order[1::2] = order[1::2, ::-1].copy()
    return order.T
