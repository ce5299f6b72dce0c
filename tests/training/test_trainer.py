"""Exact accumulation inside the Trainer, seeded dropout, resuming, whole steps."""

import pytest
import torch

from tests.conftest import make_rows
from tests.training.conftest import losses_of, make_trainer, norms_of, weights_of


@pytest.fixture
def rows_file(write_rows):
    return write_rows(make_rows(100))


def test_a_step_is_the_same_however_it_is_cut(rows_file, tmp_path):
    """(32x1) = (16x2) = (8x4) = (4x8): loss, gradient norm, weights."""
    runs = {}
    for batch, accumulation in ((32, 1), (16, 2), (8, 4), (4, 8)):
        trainer = make_trainer(rows_file, tmp_path / f"{batch}", batch=batch, accumulation=accumulation)
        trainer.train()
        runs[batch] = losses_of(trainer), norms_of(trainer), weights_of(trainer)
    whole = runs.pop(32)
    assert whole[0][-1] < whole[0][0]
    for losses, norms, weights in runs.values():
        torch.testing.assert_close(losses, whole[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(norms, whole[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, whole[2], rtol=0, atol=1e-4)
