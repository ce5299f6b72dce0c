"""Cuts of the vectors: the sum of the loss over them, each normalised again."""

import pytest
import torch
from torch.nn.functional import normalize

from e5ft.errors import ConfigurationError
from e5ft.training.losses import InfoNCE, Triplet
from e5ft.training.matryoshka import Matryoshka
from tests.training.test_losses import make_step, random_rows, value_and_gradient, vectors


@pytest.fixture
def step_and_vectors():
    rows, text_ids = random_rows(3)
    return make_step(rows, text_ids), vectors(len(text_ids), 3, dimension=8)


@pytest.mark.parametrize("inner", [InfoNCE(0.2), Triplet(0.5)], ids=["infonce", "triplet"])
def test_the_sum_over_the_cuts(step_and_vectors, inner):
    step, embeddings = step_and_vectors
    loss = Matryoshka(inner, [8, 4, 2], [1.0, 0.5, 0.25])
    value, gradient = value_and_gradient(lambda e: loss(e, step), embeddings)

    def plainly(e):
        return sum(w * inner(normalize(e[:, :d].float(), dim=1), step) for d, w in ((8, 1.0), (4, 0.5), (2, 0.25)))

    wanted, slope = value_and_gradient(plainly, embeddings)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient, slope)


def test_without_weights_each_counts_one_and_the_log_names_them(step_and_vectors):
    step, embeddings = step_and_vectors
    loss = Matryoshka(InfoNCE(0.2, false_negatives="margin"), [4, 8])
    value = loss(embeddings, step)
    assert float(value) == pytest.approx(float(loss.statistics["loss_4"] + loss.statistics["loss_8"]))
    assert "false_negative_share" in loss.statistics
    whole = InfoNCE(0.2, false_negatives="margin")
    whole(embeddings, step)
    assert float(loss.statistics["false_negative_share"]) == float(whole.statistics["false_negative_share"])


@pytest.mark.parametrize(
    ("dimensions", "weights", "message"),
    [
        ([], None, "dimensions=\\[\\]"),
        ([4, 4], None, "different"),
        ([0], None, "at least 1"),
        ([True], None, "whole numbers"),
        ([4, 2], [1], "matryoshka.weights=\\[1\\].*2 numbers"),
        ([4], [-1], "matryoshka.weights"),
        ([4], [0], "above 0"),
    ],
)
def test_dimensions_that_are_refused(dimensions, weights, message):
    with pytest.raises(ConfigurationError, match=message):
        Matryoshka(InfoNCE(0.2), dimensions, weights)


def test_more_dimensions_than_the_model_has(step_and_vectors):
    step, embeddings = step_and_vectors
    with pytest.raises(ConfigurationError, match="vectors have 8"):
        Matryoshka(InfoNCE(0.2), [16, 4])(embeddings, step)


def test_needs_are_the_inner_losss():
    assert Matryoshka(InfoNCE(0.2, false_negatives="guide"), [4]).needs == {"guide"}
