"""Nearest neighbours behind one function: exact in chunks, or an IVF-PQ index for corpora that no memory holds.

The index keeps each vector in the nearest of many cells, as a code of a few bytes (Jégou et al. 2011, Product Quantization for
Nearest Neighbor Search; the FAISS library). What the codes find is scored again by the vectors themselves, which stay on disk.
"""

import logging
from pathlib import Path

import numpy as np
import torch

from e5ft import caches
from e5ft.errors import ConfigurationError
from e5ft.files import digest_of
from e5ft.retrieval.search import check_search, rescore, top_k
from e5ft.retrieval.shards import Shards

SMALLEST = 9_984  # vectors: 39 for each of the 256 centroids of a byte, which is what FAISS asks for
CODE_BYTES = 64  # of a vector, at most
CANDIDATES = 10  # that the codes find, a passage asked for
_VERSION = 2  # part of every key: raise it when what an index's folder holds changes
_PER_LIST = 40  # vectors a cell to learn its centre from
_CHUNK = 65_536  # vectors handed to FAISS at once: a memory map is never held as a whole
_BLOCK = 16_777_216  # vectors whose codes are in memory at once while an index on disk is made: 1.2 GB
log = logging.getLogger(__name__)


def check_method(method: str) -> None:
    """Raise unless a method can be used here; to be called before hours of encoding.

    Raises:
        ConfigurationError: faiss is not installed.
    """
    if method != "exact":
        try:
            import faiss  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                f"search={method} needs the package faiss: pip install faiss-cpu, or choose search=exact"
            ) from error


def search(
    queries: np.ndarray,
    passages: np.ndarray | Shards,
    k: int,
    *,
    method: str = "exact",
    device: str | torch.device = "cpu",
    lists: int | None = None,
    probes: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
    block: int = _BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k passages with the largest dot product for every query, among all or among those that an index finds.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32; memory maps, or shards of them, are read chunk by chunk.
        k: passages a query, at least 1.
        method: "exact": `top_k`, on CPU or GPU; "ivfpq": by codes, which misses some (below `SMALLEST` vectors: exact).
        device: of the exact search.
        lists: cells; None takes four times the square root of P, no more than P / 40.
        probes: cells searched for a query; None takes a sixteenth of them, at least 8.
        seed: of the sample that cells and codes are learnt from.
        folder: where the index of memory maps is kept and found again; None, or for arrays in memory: it is built each time.
        block: vectors whose codes are in memory at once while it is written, at least 1.

    Returns:
        Scores float32, the exact ones, descending, and indices int64, (Q, min(k, P)); where fewer are found, -inf and -1
        (which Python would take for the last passage).

    Raises:
        ConfigurationError: k is below 1, or faiss is not installed.
        DataError: there are no passages.
    """
    check_method(method)
    if method == "exact" or len(passages) < SMALLEST:
        return top_k(queries, passages, k, device=device)
    import faiss

    check_search(queries, passages, k=k)
    count = len(passages)
    lists = min(max(1, count // _PER_LIST), lists or max(1, round(4 * count**0.5)))
    names = None if folder is None else _names(passages)
    if names is None:
        index = _trained(faiss, passages, lists, seed)
        _add(index, passages, 0, count)
    else:
        path = folder / f"ivfpq-{digest_of(_VERSION, names, lists, CODE_BYTES, seed, faiss.__version__)}"
        with caches.locked(path):  # one process builds it for all
            caches.keep(path, lambda new: _write(faiss, new, passages, lists, seed, block))
            index = faiss.read_index(str(path / "index"), faiss.IO_FLAG_ONDISK_SAME_DIR)
    index.nprobe = min(lists, probes or max(8, lists // 16))
    depth = min(count, max(100, k * CANDIDATES))
    candidates = index.search(np.ascontiguousarray(queries, dtype=np.float32), depth)[1]
    return rescore(queries, passages, candidates, min(k, count))


def _trained(faiss, passages, lists: int, seed: int):
    """An empty index whose cells and codes were learnt from a seeded sample."""
    count, dimension = passages.shape
    codes = max(size for size in range(1, min(CODE_BYTES, dimension) + 1) if dimension % size == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = seed
    # The draw of a permutation's beginning would hold as many numbers as there are vectors: 8 GB of a billion.
    size = min(count, max(SMALLEST, lists * _PER_LIST))
    chosen = np.unique(np.random.default_rng(seed).integers(0, count, size)) if size < count else np.arange(count)
    index.train(np.ascontiguousarray(passages[chosen], dtype=np.float32))
    return index


def _add(index, passages, start: int, stop: int) -> None:
    for at in range(start, stop, _CHUNK):
        rows = np.ascontiguousarray(passages[at : min(stop, at + _CHUNK)], dtype=np.float32)
        index.add_with_ids(rows, np.arange(at, at + len(rows), dtype=np.int64))


def _write(faiss, folder: Path, passages, lists: int, seed: int, block: int) -> None:
    """Codes are made block by block and then merged on disk: neither vectors nor codes are in memory as a whole."""
    from faiss.contrib.ondisk import merge_ondisk

    log.info(f"building an IVF-PQ index of {len(passages):,} vectors in {folder.parent}")
    empty, parts = folder / "empty", []
    faiss.write_index(_trained(faiss, passages, lists, seed), str(empty))
    for start in range(0, len(passages), block):
        index = faiss.read_index(str(empty))
        _add(index, passages, start, min(len(passages), start + block))
        parts.append(folder / f"part-{start}")
        faiss.write_index(index, str(parts[-1]))
    index = faiss.read_index(str(empty))
    merge_ondisk(index, [str(part) for part in parts], str(folder / "lists"))
    faiss.write_index(index, str(folder / "index"))
    for file in (empty, *parts):
        file.unlink()


def _names(passages: np.ndarray | Shards) -> list | None:
    """What tells these vectors from others: the files (their names hold a digest of weights and texts), their times and rows."""
    blocks = passages.blocks if isinstance(passages, Shards) else (passages,)
    if not all(isinstance(block, np.memmap) and block.filename for block in blocks):
        return None
    ends = [[row.tobytes().hex() for row in (block[0], block[-1])] for block in blocks if len(block)]
    return [[[str(b.filename), Path(b.filename).stat().st_mtime_ns, len(b)] for b in blocks], ends]
