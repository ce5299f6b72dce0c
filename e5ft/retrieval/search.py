"""Exact nearest-neighbour search by dot product, in chunks: memory does not grow with the corpus.

What is guaranteed. Candidates are found with float32 matrix products, `SLACK` more than asked for; the dot products of the
candidates are then summed again in float64 and rounded to float32, and these decide the order. So scores and order do not
depend on chunk sizes, device or thread count, although matrix products of different shapes differ in their last bits.
Equal scores are ordered by index. Two limits, both of the size of rounding errors: the choice at the k-th place is exact
unless more than `SLACK` passages lie within the float32 error (about 1e-6 for unit vectors) of it; and where every dot
product is exact in float32 (integers, for instance) it is exact without that condition.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from e5ft.errors import ConfigurationError, DataError, NonFiniteError
from e5ft.modeling.cpu import product

SLACK = 32
_BLOCK = 16  # scores of which the largest is looked at first
RESCORED_VALUES = 500_000  # float64 products held at once while candidates are scored again: 4 MB, which stay in a CPU's cache


def top_k(
    queries: np.ndarray | torch.Tensor,
    passages: np.ndarray | torch.Tensor,
    k: int,
    *,
    device: str | torch.device = "cpu",
    query_chunk: int = 512,
    passage_chunk: int = 16384,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k passages with the largest dot product for every query.

    Args:
        queries: (Q, D), floating point; unit vectors if the score is to be the cosine.
        passages: (P, D), floating point: a tensor, an array, or a memory map, which is read once from front to back.
        k: passages a query, at least 1; where it exceeds P, P columns come back.
        device: where the matrix products are computed; the passages are moved there chunk by chunk.
        query_chunk: queries scored at once, at least 1.
        passage_chunk: passages scored at once, at least 1. query_chunk x passage_chunk float32 scores are held, a few times.

    Returns:
        Scores float32 (Q, min(k, P)), descending, and indices int64 (Q, min(k, P)) into `passages`; equal scores are
        ordered by index ascending. See the head of this file for what is guaranteed.

    Raises:
        ConfigurationError: k or a chunk size is below 1, or the shapes do not go together.
        DataError: there are no passages.
        NonFiniteError: a vector holds NaN or an infinity.
    """
    check_search(queries, passages, k=k, query_chunk=query_chunk, passage_chunk=passage_chunk)
    best = [RunningTopK(rows, k + SLACK) for rows in _float32_chunks(queries, query_chunk, device, "queries")]
    with torch.inference_mode(), _full_precision(device):
        start = 0
        for chunk in _float32_chunks(passages, passage_chunk, device, "passages"):
            for block in best:
                block.merge(chunk, start)
            start += len(chunk)
        for block in best:
            block.choose()
        results = [rescore(block.queries, passages, block.indices, min(k, len(passages))) for block in best]
    scores = [scores for scores, _ in results] or [np.empty((0, min(k, len(passages))), np.float32)]
    indices = [indices for _, indices in results] or [np.empty((0, min(k, len(passages))), np.int64)]
    return np.concatenate(scores), np.concatenate(indices)


class RunningTopK:
    """Keeps the best `kept` candidates of one chunk of queries, and some more; positions are always in ascending index order."""

    def __init__(self, queries: torch.Tensor, kept: int):
        self.queries, self.kept = queries, kept
        self.scores = queries.new_empty((len(queries), 0))
        self.indices = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        self.threshold: torch.Tensor | None = None  # (Q', 1): what is not above it cannot be among the best

    def merge(self, passages: torch.Tensor, start: int) -> None:
        """Take in the passages start, start + 1, ...: (P', D)."""
        scores = product(self.queries, passages)  # (Q', D) and (P', D) -> (Q', P')
        scores, indices = _candidates_above(
            scores, start, self._threshold_from_blocks(scores) if self.threshold is None else self.threshold
        )
        # What stands here already has the smaller indices: behind one another, position order is index order.
        self.scores, self.indices = torch.cat([self.scores, scores], dim=1), torch.cat([self.indices, indices], dim=1)
        if self.scores.shape[1] > 2 * self.kept or self.threshold is None:
            self.choose()

    def choose(self) -> None:
        """Leave the best alone."""
        positions = _largest(self.scores, min(self.kept, self.scores.shape[1]))
        self.scores, self.indices = self.scores.gather(1, positions), self.indices.gather(1, positions)
        if self.scores.shape[1] == self.kept:
            self.threshold = self.scores.amin(dim=1, keepdim=True)

    def _threshold_from_blocks(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return (Q', 1), below at least `kept` of the first scores: below as many of the largest of some blocks."""
        if scores.shape[1] % _BLOCK or scores.shape[1] < _BLOCK * self.kept:
            return None
        largest = _blocks(scores).amax(dim=1).topk(self.kept, dim=1, sorted=False).values
        return torch.nextafter(largest.amin(dim=1, keepdim=True), largest.new_tensor(-torch.inf))


def _candidates_above(scores: torch.Tensor, start: int, threshold: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores (Q', P') above each row's threshold (Q', 1), in order, and their indices, counted from `start`; rows are
    filled up with -inf.

    Where many passages have been seen few new ones are above: choosing among these is cheap, and choosing among all took
    longer than the matrix product. An equal score is not above: the index that is held already is the smaller one.
    """
    if threshold is not None:
        positions = _positions_above(scores, threshold)
        rows = positions // scores.shape[1]
        counts = rows.bincount(minlength=len(scores))
        width = int(counts.max())
    if threshold is None or width > scores.shape[1] // 4:  # ascending scores, say: nothing is gained
        return scores, torch.arange(start, start + scores.shape[1], device=scores.device).expand_as(scores)
    chosen = scores.new_full((len(scores), width), -torch.inf)
    indices = positions.new_zeros((len(scores), width))
    to = rows * width + torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    chosen.view(-1).scatter_(0, to, scores.view(-1).index_select(0, positions))
    indices.view(-1).scatter_(0, to, positions % scores.shape[1] + start)
    return chosen, indices


def _positions_above(scores: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Return the positions in `scores.view(-1)`, ascending, of the scores above each row's threshold."""
    width = scores.shape[1]
    if width % _BLOCK:
        return (scores > threshold).view(-1).nonzero()[:, 0]
    blocks = _blocks(scores)
    rows, block = (blocks.amax(dim=1) > threshold).nonzero(as_tuple=True)
    hit, within = (blocks[rows, :, block] > threshold[rows]).nonzero(as_tuple=True)
    return ((rows * width + block)[hit] + within * (width // _BLOCK)).sort().values


def _blocks(scores: torch.Tensor) -> torch.Tensor:
    """View scores as (Q', `_BLOCK`, P' / `_BLOCK`): reducing over the strided axis is ten times cheaper than comparing all."""
    return scores.view(len(scores), _BLOCK, -1)


def _largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions (Q', count), ascending, of the largest scores of each row; of equal ones the first.

    torch.topk chooses among equal values as it likes: rows in which a tie straddles the last place are chosen again.
    """
    if count == scores.shape[1]:
        return torch.arange(count, device=scores.device).expand(len(scores), -1)
    values, positions = scores.topk(count + 1, dim=1)
    positions = positions[:, :count].sort(dim=1).values
    straddled = values[:, count - 1] == values[:, count]
    if straddled.any():
        rows, threshold = scores[straddled], values[straddled, count - 1 : count]
        above, equal = rows > threshold, rows == threshold
        room = count - above.sum(dim=1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(dim=1) <= room))
        positions[straddled] = chosen.nonzero()[:, 1].reshape(-1, count)  # row by row, ascending
    return positions


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge what was found in parts of a corpus, searched one by one, into the same as searching the whole.

    Args:
        parts: of each part scores (Q, any) and indices into the whole, as `top_k` gives them; no passage is in two parts.
            The index -1 stands for none.
        k: passages a query, at least 1; each part must have been asked for as many.

    Returns:
        Scores float32, descending, and indices int64, (Q, k or as many as there are columns); equal scores are ordered by index.
    """
    scores = np.concatenate([scores for scores, _ in parts], axis=1, dtype=np.float32)
    indices = np.concatenate([indices for _, indices in parts], axis=1, dtype=np.int64)
    order = np.lexsort((indices, np.where(indices < 0, np.inf, -scores)))[:, :k]  # the last key decides first
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def rescore(
    queries: np.ndarray | torch.Tensor, passages: np.ndarray | torch.Tensor, indices: np.ndarray | torch.Tensor, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take the best k of candidates that were found in whatever way, by their true scores.

    Args:
        queries: (Q, D).
        passages: (P, D); of a memory map only the candidates' rows are read.
        indices: (Q, C) int64 into `passages`, none twice in a row; -1 stands for none.
        k: passages a query, at least 1.

    Returns:
        Scores (Q, min(k, C)), the dot product in float64 rounded to float32, descending, and indices; equal scores are ordered
        by index, and where there is none the index is -1 and the score -inf.
    """
    none = len(passages)  # behind all others
    queries, indices = torch.as_tensor(queries).cpu(), torch.as_tensor(indices).cpu()
    indices = torch.where(indices < 0, none, indices).sort(dim=1).values
    step = max(1, RESCORED_VALUES // max(1, indices.shape[1] * queries.shape[1]))
    blocks = []
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        positions = indices[rows].clamp(max=none - 1)
        candidates = _float32(passages, positions.reshape(-1)).view(*positions.shape, -1)  # (q, C, D)
        products = candidates.double() * queries[rows, None, :].double()
        blocks.append(products.sum(dim=2).float())
    scores = torch.cat(blocks) if blocks else torch.empty(indices.shape)  # (Q, C)
    scores[indices == none], indices[indices == none] = -torch.inf, -1
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]  # stable: equal scores stay in index order
    return scores.gather(1, order).numpy(), indices.gather(1, order).numpy()


def _float32_chunks(vectors, size: int, device, name: str) -> Iterator[torch.Tensor]:
    """Yield consecutive rows as float32 (size, D) on the device."""
    for start in range(0, len(vectors), size):
        chunk = _float32(vectors, slice(start, start + size), device)
        # A sum is a fifth of the work of looking at every value, and finite only where they are (or not even there).
        if not chunk.sum().isfinite() and not chunk.isfinite().all():
            row = start + int((~chunk.isfinite()).any(dim=1).nonzero()[0])
            raise NonFiniteError(f"row {row} of the {name} holds NaN or an infinity: the model that made it is broken")
        yield chunk


def _float32(vectors, rows: slice | torch.Tensor, device="cpu") -> torch.Tensor:
    """Return some rows as float32 on the device; of a memory map only these are read."""
    if type(vectors) is np.ndarray and vectors.flags.writeable and min(vectors.strides) > 0:
        vectors = torch.from_numpy(vectors)  # which picks rows faster
    if isinstance(vectors, torch.Tensor):
        chosen = vectors[rows] if isinstance(rows, slice) else vectors.index_select(0, rows.to(vectors.device))
        return chosen.detach().to(device).float()  # moved first: half as many bytes travel
    chosen = vectors[rows if isinstance(rows, slice) else rows.numpy()]
    # Copied: what is no plain array (a memory map, shards), and what torch cannot share (not to be written, or running backwards).
    if type(chosen) is not np.ndarray or not chosen.flags.writeable or min(chosen.strides) < 0:
        chosen = np.array(chosen, order="C")
    return torch.from_numpy(chosen).to(device).float()  # moved first: half as many bytes travel


@contextlib.contextmanager
def _full_precision(device) -> Iterator[None]:
    """Keep float32 products float32, whatever autocast or TF32 setting training left behind (TF32 errs by 1e-3)."""
    # Not torch.get_float32_matmul_precision: it raises once transformers has set `torch.backends.fp32_precision`.
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def check_search(queries, passages, **counts: int) -> None:
    """Raise unless the shapes go together, there are passages, and each count, by its name, is a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(f"{name}={value!r}: must be a whole number of at least 1")
    shapes = tuple(queries.shape), tuple(passages.shape)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise ConfigurationError(f"queries {shapes[0]} and passages {shapes[1]}: must be (Q, D) and (P, D)")
    if not len(passages):
        raise DataError("the corpus is empty: there is nothing to search")
