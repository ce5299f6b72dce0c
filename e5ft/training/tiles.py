"""Losses over all passages of a step, in tiles: neither the scores of a row nor the vectors of all passages ever stand in memory.

A tile is some rows by some candidates. The forward pass keeps one number a row, the logarithm of the softmax's denominator; the
backward pass computes each tile's scores anew, turns them in place into their own gradient and adds the gradients of the tile's
vectors up where they belong. So a step of any size takes its vectors, their gradient, and one tile.
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
        anchor: (B,) places of the rows' vectors among the step's.
        candidates: (C,) places of the candidates', no two equal.
        excluded: pairs (row, candidate) that are none, by row.
    """

    anchor: torch.Tensor
    candidates: torch.Tensor
    excluded: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclasses.dataclass(frozen=True)
class FalseNegativeMask:
    """Which candidates look like false negatives: those whose cosine is above the row's own and a margin.

    Attributes:
        vectors: (N, D'), whose cosines tell; None for those of the model.
        margin: of candidates that came with other rows.
        hard_margin: of the row's own hard negatives.
        hard: pairs (row, candidate) of the first block that are the row's own hard negatives.
    """

    vectors: torch.Tensor | None
    margin: float
    hard_margin: float
    hard: Pairs


@dataclasses.dataclass(frozen=True)
class ContrastiveProblem:
    """What `contrast` is to compute.

    Attributes:
        query, positive: (B,) places of each row's two vectors.
        blocks: of which all candidates and the row's own pair stand in one softmax.
        temperature: by which cosines are divided.
        weight: (B,) of each row.
        rows: of a tile at most.
        judge: None where no candidate is masked as false.
    """

    query: torch.Tensor
    positive: torch.Tensor
    blocks: tuple[Block, ...]
    temperature: float
    weight: torch.Tensor
    rows: int
    judge: FalseNegativeMask | None = None


def contrast(vectors: torch.Tensor, problem: ContrastiveProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum over rows of -log softmax of the own pair.

    Args:
        vectors: (N, D), float32.
        problem: the rest.

    Returns:
        A scalar with gradient; and (2,): how many candidates the judge has masked, first those of other rows, then own hard negatives.
    """
    return _ContrastiveLoss.apply(vectors, problem)


def kl_sum(
    vectors: torch.Tensor, block: Block, others: torch.Tensor, temperatures: tuple[float, float], weight: torch.Tensor, rows: int
) -> torch.Tensor:
    """The weighted sum over rows of KL(softmax of the other model's scores || softmax of the model's).

    Args:
        vectors: (N, D), float32.
        block: rows and candidates, none of them excluded.
        others: (N, D'), the other model's vectors of the same texts.
        temperatures: by which the model's and the other's cosines are divided.
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
        masked = vectors.new_zeros(2)
        for rows in row_slices(len(losses), problem.rows):
            own = _own(vectors, problem, rows) / problem.temperature
            denominator = own
            for tile in _tiles(vectors, problem, rows):
                masked += tile.masked
                denominator = torch.logaddexp(denominator, tile.logits.logsumexp(dim=1))
            losses[rows], denominators[rows] = denominator - own, denominator
        ctx.save_for_backward(vectors, denominators)
        ctx.problem = problem
        ctx.mark_non_differentiable(masked)
        return (losses * problem.weight).sum(), masked

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
        vectors, denominators = ctx.saved_tensors
        problem, found = ctx.problem, torch.zeros_like(vectors)
        scale = (gradient * problem.weight / problem.temperature)[:, None]  # (B, 1): of d loss / d cosine
        for rows in row_slices(len(scale), problem.rows):
            query, positive, share = vectors[problem.query[rows]], vectors[problem.positive[rows]], scale[rows]
            own = (query * positive).sum(dim=1, keepdim=True) / problem.temperature
            own = (own - denominators[rows, None]).exp_().sub_(1).mul_(share)
            add_rows(found, problem.query[rows], own * positive)
            add_rows(found, problem.positive[rows], own * query)
            for tile in _tiles(vectors, problem, rows):
                tile.add(found, tile.logits.sub_(denominators[rows, None]).exp_().mul_(share))
        return found, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, block, others, temperatures, weight, size):
        losses = torch.empty_like(weight)
        denominators = weight.new_empty(2, len(weight))
        for rows in row_slices(len(weight), size):
            ours = theirs = vectors.new_full((len(weight[rows]),), -torch.inf)
            mean = torch.zeros_like(ours)  # of their logits less ours, under their softmax of the candidates so far
            for tile, other in zip(_scored(vectors, block, rows), _scored(others, block, rows), strict=True):
                mine, their = tile.logits.div_(temperatures[0]), other.logits.div_(temperatures[1])
                ours, new = torch.logaddexp(ours, mine.logsumexp(dim=1)), their.logsumexp(dim=1)
                after = torch.logaddexp(theirs, new)
                share = (their - new[:, None]).exp_()
                mean = mean * (theirs - after).exp() + (share * (their - mine)).sum(dim=1) * (new - after).exp()
                theirs = after
            losses[rows] = mean - theirs + ours
            denominators[:, rows] = torch.stack([ours, theirs])
        ctx.save_for_backward(vectors, others, denominators, weight)
        ctx.given = block, temperatures, size
        return (losses * weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        vectors, others, denominators, weight = ctx.saved_tensors
        block, temperatures, size = ctx.given
        found = torch.zeros_like(vectors)
        scale = (gradient * weight / temperatures[0])[:, None]
        for rows in row_slices(len(weight), size):
            ours, theirs = denominators[:, rows, None]
            for tile, other in zip(_scored(vectors, block, rows), _scored(others, block, rows), strict=True):
                mine = tile.logits.div_(temperatures[0]).sub_(ours).exp_()
                mine -= other.logits.div_(temperatures[1]).sub_(theirs).exp_()
                tile.add(found, mine.mul_(scale[rows]))
        return found, None, None, None, None, None


@dataclasses.dataclass
class _Tile:
    """Some rows, b, by some candidates, c."""

    places: tuple[torch.Tensor, torch.Tensor]  # (b,) and (c,), among the step's vectors
    vectors: tuple[torch.Tensor, torch.Tensor]  # (b, D) and (c, D)
    logits: torch.Tensor  # (b, c)
    masked: torch.Tensor | None = None

    def add(self, total: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add to a gradient of all vectors what the tile gives; `gradient` is that of its cosines, (b, c)."""
        add_rows(total, self.places[0], gradient @ self.vectors[1])
        total.index_add_(0, self.places[1], gradient.T @ self.vectors[0])  # no two places are equal: no order to depend on


def _scored(vectors: torch.Tensor, block: Block, rows: slice) -> Iterator[_Tile]:
    """The tiles of some rows, with cosines for logits."""
    anchor_places = block.anchor[rows]
    anchor = vectors[anchor_places]
    for columns in row_slices(len(block.candidates), COLUMNS.get(vectors.device.type, COLUMNS["cpu"])):
        places = block.candidates[columns]
        candidates = vectors[places]
        yield _Tile((anchor_places, places), (anchor, candidates), anchor @ candidates.T)


def _tiles(vectors: torch.Tensor, problem: ContrastiveProblem, rows: slice) -> Iterator[_Tile]:
    """The tiles of some rows in all blocks, with what is no candidate at minus infinity."""
    judge = problem.judge
    if judge is not None:
        judging = vectors if judge.vectors is None else judge.vectors
        own = _own(judging, problem, rows)[:, None]
    for number, block in enumerate(problem.blocks):
        excluded = _within(block.excluded, rows)
        hard = None if judge is None or number else _within(judge.hard, rows)
        judged = () if judge is None or judging is vectors else _scored(judging, block, rows)
        judged, first = iter(judged), 0
        for tile in _scored(vectors, block, rows):
            columns = slice(first, first + tile.logits.shape[1])
            first, pairs = columns.stop, excluded(columns, vectors)
            tile.masked = vectors.new_zeros(2)
            false = None
            if judge is not None:
                scores = tile.logits if judging is vectors else next(judged).logits
                false = scores > own + judge.margin
                if hard is not None:
                    places = hard(columns, vectors)
                    false[places] = scores[places] > own[places[0], 0] + judge.hard_margin
                false[pairs] = False  # no candidates in the first place
                if hard is not None:  # counted where every passage stands
                    tile.masked[1] = false[places].sum()
                    tile.masked[0] = false.sum() - tile.masked[1]
            tile.logits.div_(problem.temperature)
            tile.logits[pairs] = -torch.inf
            if false is not None:
                tile.logits.masked_fill_(false, -torch.inf)
            yield tile


def _own(vectors: torch.Tensor, problem: ContrastiveProblem, rows: slice) -> torch.Tensor:
    """(b,) cosines of each query and its positive."""
    return (vectors[problem.query[rows]] * vectors[problem.positive[rows]]).sum(dim=1)


def _within(pairs: Pairs, rows: slice) -> Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """columns -> the pairs of some rows in these columns, both counted from the tile's first."""
    low, high = np.searchsorted(pairs[0], [rows.start, rows.stop])
    row, column = pairs[0][low:high] - rows.start, pairs[1][low:high]

    def of(columns: slice, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        here = (column >= columns.start) & (column < columns.stop)
        return to_device(row[here], like), to_device(column[here] - columns.start, like)

    return of
