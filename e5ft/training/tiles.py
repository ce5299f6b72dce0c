"""Losses over all passages of a step, in tiles: memory never holds all scores of a row nor the vectors of all passages.

A tile is some rows by some candidates. The forward pass keeps one number a row, the logarithm of the softmax's denominator. The
backward pass computes each tile's scores again, turns them in place into their own gradient and adds up the gradients of the
tile's vectors. So a step of any size needs its vectors, their gradient, and one tile.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from e5ft.training.chunking import add_rows, row_slices, to_device

# Candidates of a tile at most: with 1,024 rows 4 MB of scores on a CPU; on a GPU, whose kernels wait for work, 64.
COLUMNS = {"cpu": 2**10, "cuda": 2**14}

Pairs = tuple[np.ndarray, np.ndarray]  # rows ascending, columns


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows against candidates.

    Attributes:
        anchor: (B,) indices of the rows' vectors among the step's.
        candidates: (C,) distinct indices of the candidates' vectors.
        excluded: pairs (row, candidate) excluded from the softmax, sorted by row.
    """

    anchor: torch.Tensor
    candidates: torch.Tensor
    excluded: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclasses.dataclass(frozen=True)
class FalseNegativeMask:
    """Masks candidates whose cosine is above the row's positive by more than a margin.

    Attributes:
        vectors: (N, D') vectors whose cosines decide; None: the model's own.
        margin: for candidates that came with other rows.
        hard_margin: for the row's own hard negatives.
        hard: pairs (row, candidate) of the first block that are the row's own hard negatives, sorted by row.
    """

    vectors: torch.Tensor | None
    margin: float
    hard_margin: float
    hard: Pairs


@dataclasses.dataclass(frozen=True)
class ContrastiveProblem:
    """Arguments of `contrast`.

    Attributes:
        query, positive: (B,) indices of each row's two vectors.
        blocks: all their candidates and the row's query-positive pair share one softmax.
        temperature: divides cosines.
        weight: (B,) of each row.
        rows: of a tile at most.
        mask: None where no candidate is masked as a false negative.
    """

    query: torch.Tensor
    positive: torch.Tensor
    blocks: tuple[Block, ...]
    temperature: float
    weight: torch.Tensor
    rows: int
    mask: FalseNegativeMask | None = None


def contrast(vectors: torch.Tensor, problem: ContrastiveProblem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weighted sum over rows of -log softmax of the query-positive pair.

    Args:
        vectors: (N, D), float32.
        problem: rows, candidates and masks.

    Returns:
        A scalar with gradient; (2,): how many candidates are masked, first those of other rows, then own hard negatives; and how
        many rows have a candidate left.
    """
    return _ContrastiveLoss.apply(vectors, problem)


def kl_sum(
    vectors: torch.Tensor, block: Block, others: torch.Tensor, temperatures: tuple[float, float], weight: torch.Tensor, rows: int
) -> torch.Tensor:
    """Return the weighted sum over rows of KL(softmax of another model's scores || softmax of the model's).

    Args:
        vectors: (N, D), float32.
        block: rows and candidates, none of them excluded.
        others: (N, D'), the other model's vectors of the same texts.
        temperatures: divide the model's and the other's cosines.
        weight: (B,) of each row.
        rows: of a tile at most.

    Returns:
        A scalar with gradient.
    """
    return _Divergence.apply(vectors, block, others, temperatures, weight, rows)


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, problem):
        losses, denominators = torch.empty_like(problem.weight), torch.empty_like(problem.weight)
        masked, has_candidate = vectors.new_zeros(2), torch.zeros_like(problem.weight, dtype=torch.bool)
        for rows in row_slices(len(losses), problem.rows):
            pair = denominator = _pair_cosines(vectors, problem, rows) / problem.temperature
            for tile in _masked_tiles(vectors, problem, rows):
                masked += tile.masked
                sums = tile.logits.logsumexp(dim=1)
                has_candidate[rows] |= ~sums.isneginf()
                denominator = torch.logaddexp(denominator, sums)
            losses[rows], denominators[rows] = denominator - pair, denominator
        ctx.save_for_backward(vectors, denominators)
        ctx.problem = problem
        with_candidate = has_candidate.sum()
        ctx.mark_non_differentiable(masked, with_candidate)
        return (losses * problem.weight).sum(), masked, with_candidate

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        vectors, denominators = ctx.saved_tensors
        problem, total = ctx.problem, torch.zeros_like(vectors)
        scale = (gradient * problem.weight / problem.temperature)[:, None]  # (B, 1): of d loss / d cosine
        for rows in row_slices(len(scale), problem.rows):
            query, positive, row_scale = vectors[problem.query[rows]], vectors[problem.positive[rows]], scale[rows]
            pair = (query * positive).sum(dim=1, keepdim=True) / problem.temperature
            pair = (pair - denominators[rows, None]).exp_().sub_(1).mul_(row_scale)
            add_rows(total, problem.query[rows], pair * positive)
            add_rows(total, problem.positive[rows], pair * query)
            for tile in _masked_tiles(vectors, problem, rows):
                tile.add(total, tile.logits.sub_(denominators[rows, None]).exp_().mul_(row_scale))
        return total, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, block, others, temperatures, weight, size):
        losses = torch.empty_like(weight)
        denominators = weight.new_empty(2, len(weight))
        for rows in row_slices(len(weight), size):
            student = teacher = vectors.new_full((len(weight[rows]),), -torch.inf)  # logarithms of the denominators so far
            mean = torch.zeros_like(student)  # running mean of (teacher logit - student logit) under the teacher's softmax
            for ours, theirs in zip(_tiles(vectors, block, rows), _tiles(others, block, rows), strict=True):
                ours, theirs = ours.logits.div_(temperatures[0]), theirs.logits.div_(temperatures[1])
                student, new = torch.logaddexp(student, ours.logsumexp(dim=1)), theirs.logsumexp(dim=1)
                after = torch.logaddexp(teacher, new)
                softmax = (theirs - new[:, None]).exp_()
                mean = mean * (teacher - after).exp() + (softmax * (theirs - ours)).sum(dim=1) * (new - after).exp()
                teacher = after
            losses[rows] = mean - teacher + student
            denominators[:, rows] = torch.stack([student, teacher])
        ctx.save_for_backward(vectors, others, denominators, weight)
        ctx.arguments = block, temperatures, size
        return (losses * weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        vectors, others, denominators, weight = ctx.saved_tensors
        block, temperatures, size = ctx.arguments
        total = torch.zeros_like(vectors)
        scale = (gradient * weight / temperatures[0])[:, None]
        for rows in row_slices(len(weight), size):
            student, teacher = denominators[:, rows, None]
            for ours, theirs in zip(_tiles(vectors, block, rows), _tiles(others, block, rows), strict=True):
                slope = ours.logits.div_(temperatures[0]).sub_(student).exp_()
                slope -= theirs.logits.div_(temperatures[1]).sub_(teacher).exp_()
                ours.add(total, slope.mul_(scale[rows]))
        return total, None, None, None, None, None


@dataclasses.dataclass
class _Tile:
    """Some rows, b, by some candidates, c."""

    indices: tuple[torch.Tensor, torch.Tensor]  # (b,) and (c,), among the step's vectors
    vectors: tuple[torch.Tensor, torch.Tensor]  # (b, D) and (c, D)
    logits: torch.Tensor  # (b, c)
    masked: torch.Tensor | None = None

    def add(self, total: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the tile's part to a gradient of all vectors; `gradient` is that of its cosines, (b, c)."""
        add_rows(total, self.indices[0], gradient @ self.vectors[1])
        total.index_add_(0, self.indices[1], gradient.T @ self.vectors[0])  # the indices are distinct: no order to depend on


def _tiles(vectors: torch.Tensor, block: Block, rows: slice) -> Iterator[_Tile]:
    """Yield the tiles of some rows, with cosines for logits."""
    anchor_indices = block.anchor[rows]
    anchor = vectors[anchor_indices]
    for columns in row_slices(len(block.candidates), COLUMNS.get(vectors.device.type, COLUMNS["cpu"])):
        indices = block.candidates[columns]
        candidates = vectors[indices]
        yield _Tile((anchor_indices, indices), (anchor, candidates), anchor @ candidates.T)


def _masked_tiles(vectors: torch.Tensor, problem: ContrastiveProblem, rows: slice) -> Iterator[_Tile]:
    """Yield the tiles of some rows in all blocks, with excluded and masked candidates at minus infinity."""
    mask = problem.mask
    if mask is not None:
        guide = vectors if mask.vectors is None else mask.vectors
        limit = _pair_cosines(guide, problem, rows)[:, None]
    for number, block in enumerate(problem.blocks):
        excluded = _within(block.excluded, rows)
        hard = None if mask is None or number else _within(mask.hard, rows)
        guided = None if mask is None or guide is vectors else _tiles(guide, block, rows)
        first = 0
        for tile in _tiles(vectors, block, rows):
            columns = slice(first, first + tile.logits.shape[1])
            first, pairs = columns.stop, excluded(columns, vectors)
            tile.masked, false = vectors.new_zeros(2), None
            if mask is not None:
                cosines = tile.logits if guide is vectors else next(guided).logits
                false = cosines > limit + mask.margin
                if hard is not None:
                    own = hard(columns, vectors)
                    false[own] = cosines[own] > limit[own[0], 0] + mask.hard_margin
                false[pairs] = False  # no candidates in the first place
                if hard is not None:  # counted in the first block, which holds every passage
                    tile.masked[1] = false[own].sum()
                    tile.masked[0] = false.sum() - tile.masked[1]
            tile.logits.div_(problem.temperature)
            tile.logits[pairs] = -torch.inf
            if false is not None:
                tile.logits.masked_fill_(false, -torch.inf)
            yield tile


def _pair_cosines(vectors: torch.Tensor, problem: ContrastiveProblem, rows: slice) -> torch.Tensor:
    """Return (b,) cosines of each query and its positive."""
    return (vectors[problem.query[rows]] * vectors[problem.positive[rows]]).sum(dim=1)


def _within(pairs: Pairs, rows: slice) -> Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return a function of columns: the pairs of some rows in these columns, both counted from the tile's first."""
    low, high = np.searchsorted(pairs[0], [rows.start, rows.stop])
    row, column = pairs[0][low:high] - rows.start, pairs[1][low:high]

    def of(columns: slice, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = (column >= columns.start) & (column < columns.stop)
        return to_device(row[inside], like), to_device(column[inside] - columns.start, like)

    return of
