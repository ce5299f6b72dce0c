"""A dev set is cut off from the rows alone: no query and no document of it is in the training part."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from e5ft.data.store import RowStore
from e5ft.errors import DataError


def split_rows(store: RowStore, share: float, seed: int) -> tuple[RowStore, RowStore]:
    """Set aside a share of the rows by connected components of query and document.

    Two rows belong together when they have a query or a document in common, directly or through other rows. Hard
    negatives do not tie rows together: mined ones would join everything.

    Args:
        store: the rows.
        share: of the rows, above 0 and at most 0.5.
        seed: of the choice.

    Returns:
        (training rows, dev rows), each in the order of the file.

    Raises:
        DataError: the rows hang together so closely that no dev set can be cut off.
    """
    component = components(store)
    most = max(1, round(share * len(component)))
    sizes = np.bincount(component)
    chosen = np.zeros(len(sizes), dtype=bool)
    total = 0
    for candidate in np.random.default_rng(seed).permutation(len(sizes)):
        if total + sizes[candidate] <= most:
            chosen[candidate] = True
            total += sizes[candidate]
    if total == 0 or total == len(component):
        raise DataError(
            f"no dev set can be cut off: {len(component):,} rows form {len(sizes):,} groups that share queries or documents, the "
            f"smallest of {sizes.min():,} rows; name a data.dev_file or a data.eval_dir, or a larger data.dev_share"
        )
    is_dev = chosen[component]
    return store.select(np.flatnonzero(~is_dev)), store.select(np.flatnonzero(is_dev))


def components(store: RowStore, pairs: np.ndarray | None = None) -> np.ndarray:
    """Return the component of each row, (rows,) int: rows are tied to their query and to each of their documents.

    Args:
        store: the rows.
        pairs: (n, 2) numbers of rows that are tied as well; None: no others are.
    """
    queries = store.query_ids()
    documents, counts = store.positive_ids()
    owners = np.repeat(np.arange(len(queries)), counts)
    _, query_node = np.unique(queries, return_inverse=True)
    _, document_node = np.unique(documents, return_inverse=True)
    rows = len(queries)
    first_document = rows + query_node.max() + 1
    pairs = np.empty((0, 2), dtype=np.int64) if pairs is None else pairs
    left = np.concatenate([np.arange(rows), owners, pairs[:, 0]])
    right = np.concatenate([rows + query_node, first_document + document_node, pairs[:, 1]])
    nodes = first_document + document_node.max() + 1
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1][:rows]
    return np.unique(labels, return_inverse=True)[1]
