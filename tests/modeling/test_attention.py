"""Attention with a written gradient, against autograd over the plain formula with the same masks."""

import pytest
import torch

from e5ft.modeling.attention import _by_length, _masks, _runs, _TextByText

HEADS, SIZE, LENGTHS = 2, 4, (3, 3, 1, 5, 2, 2, 2)


def _plain(query, key, value, masks, dropout, scale):
    """Text by text as in Vaswani et al. 2017, equation 1, with dropout on the weights."""
    pieces, start, runs = [], 0, _runs(LENGTHS)
    for (length, count), mask in zip(runs, masks or [None] * len(runs), strict=True):
        for place in range(count):
            q, k, v = (x[:, start : start + length] for x in (query, key, value))
            weights = torch.softmax(q @ k.transpose(1, 2) * scale, dim=-1)
            if mask is not None:
                weights = weights * -mask.view(HEADS, count, length, length)[:, place] / (1 - dropout)
            pieces.append(weights @ v)
            start += length
    return torch.cat(pieces, dim=1).transpose(0, 1)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_output_and_gradient_equal_the_plain_formula(dropout):
    torch.manual_seed(0)
    given = [torch.randn(sum(LENGTHS), HEADS, SIZE, dtype=torch.float64) for _ in range(3)]
    ours, theirs = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    weight = torch.randn(sum(LENGTHS), HEADS, SIZE, dtype=torch.float64)
    torch.manual_seed(5)
    masks = _masks(_runs(LENGTHS), HEADS, dropout)
    torch.manual_seed(5)
    found = _TextByText.apply(*(x.transpose(0, 1) for x in ours), _runs(LENGTHS), dropout, 0.5)
    wanted = _plain(*(x.transpose(0, 1) for x in theirs), masks, dropout, 0.5)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_bfloat16_stays_near_float64():
    torch.manual_seed(0)
    given = [torch.randn(sum(LENGTHS), HEADS, SIZE).bfloat16().requires_grad_() for _ in range(3)]
    found = _TextByText.apply(*(x.transpose(0, 1) for x in given), _runs(LENGTHS), 0.0, 0.5)
    assert found.dtype == torch.bfloat16
    exact = [x.detach().double().requires_grad_() for x in given]
    wanted = _plain(*(x.transpose(0, 1) for x in exact), None, 0.0, 0.5)
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)
    found.sum().backward()
    wanted.sum().backward()
    for mine, other in zip(given, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_without_gradient_each_text_is_attended_to_by_itself_at_every_length(dtype, tolerance):
    lengths = (3, 3, 63, 64, 64, 130)  # below, at and above where bfloat16 changes its way
    torch.manual_seed(0)
    query, key, value = (torch.randn(HEADS, sum(lengths), SIZE).to(dtype) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        found = _by_length(query, key, value, lengths, 0.5)
    pieces = zip(*(x.double().split(lengths, dim=1) for x in (query, key, value)), strict=True)
    wanted = torch.cat([torch.softmax(q @ k.transpose(1, 2) * 0.5, dim=-1) @ v for q, k, v in pieces], dim=1).transpose(0, 1)
    assert found.dtype == dtype and found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
