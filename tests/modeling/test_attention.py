"""Attention with a written gradient, against autograd over the plain formula with the same masks."""

import pytest
import torch

from e5ft.modeling import attention
from e5ft.modeling.attention import SAFE_SCORE, _by_length, _masks, _runs, _TextByText
from tests.conftest import make_encoder

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


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_output_and_gradient_equal_the_plain_formula(dropout, bounded, monkeypatch):
    monkeypatch.setattr(attention, "_bounded", lambda *_: bounded)  # either way in float64, where it shows to the last digits
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


@pytest.mark.parametrize("size", [0.9 * SAFE_SCORE, 1.1 * SAFE_SCORE, 300.0])
def test_large_scores_in_bfloat16_neither_overflow_nor_vanish(size):
    torch.manual_seed(0)
    query, key, value = (torch.nn.functional.normalize(torch.randn(sum(LENGTHS), HEADS, SIZE), dim=-1) for _ in range(3))
    given = [x.bfloat16().requires_grad_() for x in (query * size, key, value)]
    assert attention._bounded(*(x.detach().transpose(0, 1) for x in given[:2]), 1.0) == (size < SAFE_SCORE)
    found = _TextByText.apply(*(x.transpose(0, 1) for x in given), _runs(LENGTHS), 0.0, 1.0)
    with torch.no_grad():
        again = _by_length(*(x.transpose(0, 1) for x in given), LENGTHS, 1.0)
    exact = [x.detach().double().requires_grad_() for x in given]
    wanted = _plain(*(x.transpose(0, 1) for x in exact), None, 0.0, 1.0)
    rounded = size / 256  # of a score near `size` in bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=rounded)
    torch.testing.assert_close(again, found, rtol=0.02, atol=rounded)
    weight = torch.randn_like(found)
    (found * weight * 1e-6).sum().backward()
    (wanted * weight * 1e-6).sum().backward()
    torch.testing.assert_close(given[2].grad.double(), exact[2].grad, rtol=0.02, atol=1e-6 * max(rounded, 0.02))
    assert all(torch.isfinite(x.grad).all() for x in given)


def test_no_number_and_float32_are_no_bound_on_scores():
    query = key = torch.full((HEADS, 60, SIZE), float("nan"), dtype=torch.bfloat16)
    assert not attention._bounded(query, key, 1.0)
    assert not attention._bounded(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), 1.0), "float32 has the faster softmax"


def test_under_autocast_query_key_and_value_are_made_of_one_cast():
    encoder = make_encoder()
    ids, given = torch.arange(4, 12), []
    layer = encoder.backbone.encoder.layer[0].attention.self
    for name in ("query", "key", "value"):
        getattr(layer, name).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(ids, [5, 3])
        for module in encoder.modules():
            if module is not layer and hasattr(module, "query"):
                module._forward_pre_hooks.clear()
        layer._forward_pre_hooks.clear()
        assert torch.equal(encoder(ids, [5, 3]), found), "the same vectors as with a cast each"
    first = given[:3]
    assert len(given) == 6 and all(x.dtype == torch.bfloat16 and x.data_ptr() == first[0].data_ptr() for x in first)
    assert given[3].dtype == torch.float32
    given.clear()
    encoder(ids, [5, 3])
    assert given[0].dtype == torch.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_without_gradient_each_text_is_attended_to_by_itself_at_every_length(dtype, tolerance):
    lengths = (3, 3, 39, 40, 40, 20, 20, 130, 512, 513)  # below, at and above where bfloat16 changes its way
    torch.manual_seed(0)
    query, key, value = (torch.randn(HEADS, sum(lengths), SIZE).to(dtype) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        found = _by_length(query, key, value, lengths, 0.5)
    pieces = zip(*(x.double().split(lengths, dim=1) for x in (query, key, value)), strict=True)
    wanted = torch.cat([torch.softmax(q @ k.transpose(1, 2) * 0.5, dim=-1) @ v for q, k, v in pieces], dim=1).transpose(0, 1)
    assert found.dtype == dtype and found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
