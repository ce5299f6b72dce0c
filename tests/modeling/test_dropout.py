"""Cheap masks: the right share, the right scale, the same for the same seed, nothing while measuring."""

import pytest
import torch

from e5ft.modeling.dropout import Dropout, drop, keep_mask, mark_dropped, with_cheap_masks


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_the_probability_and_neighbours_are_independent(probability):
    torch.manual_seed(0)
    dropped = keep_mask((1000, 1003), probability) == 0
    spread = (probability * (1 - probability) / dropped.numel()) ** 0.5  # of a mean of independent draws
    assert abs(dropped.double().mean() - probability) < 5 * spread
    for shift in range(1, 9):  # four elements share one 64-bit number
        both = (dropped[:, shift:] & dropped[:, :-shift]).double().mean()
        assert abs(both - probability**2) < 0.002


def test_a_seed_decides_the_mask_and_draws_differ():
    torch.manual_seed(3)
    first, second = keep_mask((50, 50), 0.5), keep_mask((50, 50), 0.5)
    torch.manual_seed(3)
    assert torch.equal(keep_mask((50, 50), 0.5), first) and not torch.equal(first, second)


def test_forward_and_backward_share_the_mask_and_the_scale():
    torch.manual_seed(0)
    values = torch.randn(40, 25, requires_grad=True)
    found = Dropout(0.2).train()(values)
    found.sum().backward()
    kept = found != 0
    torch.testing.assert_close(found[kept], values[kept] / 0.8)
    torch.testing.assert_close(values.grad, kept / 0.8)
    assert 0.6 < kept.double().mean() < 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_mask_drops_and_marks_the_same_elements_in_every_dtype(dtype):
    torch.manual_seed(0)
    values, mask = torch.rand(30, 41).to(dtype), keep_mask((30, 41), 0.3)
    values[0, 0] = 0
    kept = values * (mask != 0)
    torch.testing.assert_close(drop(values, mask, 0.3), kept * (1 / 0.7))
    marked = mark_dropped(values.clone(), mask)
    assert torch.equal(marked.abs(), values) and torch.equal(marked.relu(), kept)


def test_nothing_is_dropped_in_eval_mode_or_at_probability_0():
    values = torch.randn(7, 3)
    assert Dropout(0.5).eval()(values) is values and Dropout(0.0).train()(values) is values


def test_every_dropout_of_a_model_is_replaced():
    model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Sequential(torch.nn.Dropout(0.1))).eval()
    with_cheap_masks(model)
    assert isinstance(model[0], Dropout) and isinstance(model[1][0], Dropout)
    assert model[0].p == 0.3 and model[1][0].p == 0.1 and not model[0].training
