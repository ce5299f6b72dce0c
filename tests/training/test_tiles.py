"""Tiles: no result depends on them, and memory never holds more scores than one."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from e5ft.training import tiles
from e5ft.training.distillation import Distillation, Regularised
from e5ft.training.losses import BLOCKS, InfoNCE
from e5ft.training.matryoshka import Matryoshka
from tests.training.test_losses import make_step, random_rows, value_and_gradient, vectors


@pytest.mark.parametrize("columns", [1, 3, 1024])
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
def test_infonce_does_not_depend_on_the_tiles(chunk_size, columns, monkeypatch):
    rows, text_ids = random_rows(3)
    embeddings, step = vectors(len(text_ids)).float(), make_step(rows, text_ids)
    whole = value_and_gradient(lambda e: InfoNCE(0.1, BLOCKS)(e, step), embeddings)
    monkeypatch.setitem(tiles.COLUMNS, "cpu", columns)
    cut = value_and_gradient(lambda e: InfoNCE(0.1, BLOCKS, chunk_size)(e, step), embeddings)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, forward and backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


def test_with_a_chunk_size_the_score_matrix_never_stands_whole(monkeypatch):
    """64 rows x 192 passages are 12,288 scores; of 8 rows 1,536. Nor do the vectors of all passages (768 numbers) where a tile has fewer."""
    rows = [(i, 64 + i, [128 + i, 192 + i], i, [64 + i]) for i in range(64)]
    step, embeddings = make_step(rows, list(range(256))), vectors(256, dimension=4).float()

    def largest(chunk_size):
        saved = []

        def pack(tensor):
            saved.append(tensor.numel())
            return tensor

        leaf = embeddings.clone().requires_grad_()
        with LargestTensor() as mode:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                value = InfoNCE(0.1, chunk_size=chunk_size)(leaf, step)
            value.backward()
        return max(saved), mode.elements

    saved, made = largest(8)
    assert saved <= 256 * 4  # the vectors: no chunk's scores outlive it
    assert made == 8 * 192
    assert largest(64) == (saved, 64 * 192)
    monkeypatch.setitem(tiles.COLUMNS, "cpu", 16)
    assert largest(64) == (saved, 256 * 4)  # the gradient


@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: Matryoshka(loss, [4])], ids=["loss", "matryoshka"])
@pytest.mark.parametrize(
    "kind", [InfoNCE, lambda *a, **b: Distillation(*a, "guide", candidates="step", **b)], ids=["infonce", "distill"]
)
def test_the_divergence_from_the_base_has_the_losses_chunk_size(kind, wrap):
    """Otherwise lowering loss.chunk_size would not lower the memory of a loss with keep.weight."""
    rows = [(i, 64 + i, [128 + i, 192 + i], i, [64 + i]) for i in range(64)]
    step, embeddings = make_step(rows, list(range(256))), vectors(256, dimension=4).float()
    step.side["base"] = step.side["guide"] = np.asarray(vectors(256, 9, dimension=4).float())
    largest = {}
    for chunk_size in (8, 64):
        loss = Regularised(wrap(kind(0.1, chunk_size=chunk_size)), weight=1.0, temperature=0.1)
        with LargestTensor() as mode:
            loss(embeddings.clone().requires_grad_(), step).backward()
        largest[chunk_size] = mode.elements
    assert largest == {8: 8 * 192, 64: 64 * 192}


def test_the_divergence_s_gradient_counts_rows_by_their_weight():
    """That of a weighted sum is the weighted sum of the rows' own."""
    ours, others = vectors(8, dimension=4).float(), vectors(8, 9, dimension=3).float()
    weights, candidates = torch.tensor([0.25, 1.0, 0.5]), torch.arange(3, 8)

    def divergence(e, rows, weight):
        return tiles.kl_sum(e, tiles.Block(torch.tensor(rows), candidates), others, (0.3, 0.7), weight, 2)

    single = [value_and_gradient(lambda e, row=row: divergence(e, [row], torch.ones(1)), ours) for row in range(3)]
    found = value_and_gradient(lambda e: divergence(e, [0, 1, 2], weights), ours)
    for value, parts in zip(found, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(value, sum(weight * part for weight, part in zip(weights, parts, strict=True)))
