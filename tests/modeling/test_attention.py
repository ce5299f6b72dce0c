"""Attention over texts laid end to end, against the plain formula on each text alone in float64; gradients included."""

from itertools import accumulate

import pytest
import torch
from torch._subclasses import FakeTensorMode

from e5ft.modeling.attention import _cuda, unpadded_attention
from tests.conftest import make_encoder

HEADS, SIZE, LENGTHS = 2, 4, (3, 3, 1, 5, 2, 2, 2)
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.02)]


def attend(query, key, value, *, lengths=LENGTHS, train=True, **options):
    """(H, T, d) three times -> (T, H, d)."""
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    inputs = (x.unsqueeze(0) for x in (query, key, value))
    output, _ = unpadded_attention(
        torch.nn.Identity().train(train), *inputs, None, cu_seq_lens_q=borders, max_length_q=max(lengths), text_lengths=lengths, **options
    )  # fmt: skip
    return output[0]


def plain(query, key, value, *, lengths=LENGTHS, scaling=0.5):
    """Vaswani et al. 2017, equation 1."""
    texts = zip(*(x.double().split(lengths, dim=1) for x in (query, key, value)), strict=True)
    return torch.cat([torch.softmax(q @ k.transpose(1, 2) * scaling, dim=-1) @ v for q, k, v in texts], dim=1).transpose(0, 1)


def random_inputs(dtype, lengths=LENGTHS, scale=1.0):
    torch.manual_seed(0)
    return [(torch.randn(HEADS, sum(lengths), SIZE) * scale).to(dtype).requires_grad_() for _ in range(3)]


def with_gradients(output, inputs, weight):
    return output, *torch.autograd.grad((output * weight.to(output.dtype)).sum(), inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_output_and_gradients_equal_the_plain_formula(dtype, tolerance):
    inputs, weight = random_inputs(dtype), torch.randn(sum(LENGTHS), HEADS, SIZE)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = with_gradients(plain(*exact), exact, weight)
    with torch.no_grad():  # 1 / sqrt(d) is the scaling unless another is given
        assert torch.equal(attend(*inputs, scaling=0.5), attend(*inputs))
    for ours, theirs in zip(with_gradients(attend(*inputs, scaling=0.5), inputs, weight), expected, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs, rtol=2 * tolerance, atol=2 * tolerance)


def test_with_dropout_the_gradient_is_that_of_the_output_and_the_mean_output_is_the_plain_one():
    def dropped(*inputs, seed=5):
        torch.manual_seed(seed)
        return attend(*inputs, dropout=0.3, scaling=0.5)

    inputs = random_inputs(torch.float64)
    assert torch.autograd.gradcheck(dropped, inputs)
    with torch.no_grad():
        mean = torch.stack([dropped(*inputs, seed=seed) for seed in range(4000)]).mean(dim=0)
        torch.testing.assert_close(mean, plain(*inputs), rtol=0, atol=0.06)
        assert not torch.allclose(dropped(*inputs), mean, atol=0.3)


def test_with_dropout_bfloat16_stays_near_float64():
    inputs, weight, results = random_inputs(torch.bfloat16), torch.randn(sum(LENGTHS), HEADS, SIZE), []
    for dtype in (torch.bfloat16, torch.float64):
        copies = [x.detach().to(dtype).requires_grad_() for x in inputs]
        torch.manual_seed(5)
        results.append(with_gradients(attend(*copies, dropout=0.3, scaling=0.5), copies, weight))
    for half, exact in zip(*results, strict=True):
        torch.testing.assert_close(half.double(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("size", [36.0, 44.0, 300.0])
def test_large_scores_in_bfloat16_neither_overflow_nor_vanish(size):
    torch.manual_seed(0)
    query, key, value = (torch.nn.functional.normalize(torch.randn(HEADS, sum(LENGTHS), SIZE), dim=-1) for _ in range(3))
    inputs = [x.bfloat16().requires_grad_() for x in (query * size, key, value)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    weight = torch.randn(sum(LENGTHS), HEADS, SIZE) * 1e-6
    output, *gradients = with_gradients(attend(*inputs, scaling=1.0), inputs, weight)
    expected, *_, of_value = with_gradients(plain(*exact, scaling=1.0), exact, weight)
    rounded = size / 256  # of a score near `size` in bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=0.02, atol=rounded)
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, train=False, scaling=1.0), output, rtol=0.02, atol=rounded)
    torch.testing.assert_close(gradients[2].double(), of_value, rtol=0.02, atol=1e-6 * max(rounded, 0.02))
    assert all(torch.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES[1:])
def test_without_gradient_each_text_is_attended_to_by_itself_at_every_length(dtype, tolerance):
    lengths = (3, 3, 39, 40, 40, 20, 20, 130, 512, 513)  # below, at and above where bfloat16 changes its way
    inputs = random_inputs(dtype, lengths)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        output = attend(*inputs, lengths=lengths, train=False, scaling=0.5)
        expected = plain(*inputs, lengths=lengths)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)


def test_under_autocast_query_key_and_value_are_made_of_one_cast(monkeypatch):
    def vectors_and_inputs(dtype):
        encoder, inputs = make_encoder(), []
        for name in ("query", "key", "value"):
            layer = getattr(encoder.backbone.encoder.layer[0].attention.self, name)
            layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return encoder(torch.arange(4, 12), [5, 3]), inputs

    vectors, inputs = vectors_and_inputs(torch.bfloat16)
    assert {(x.dtype, x.data_ptr()) for x in inputs} == {(torch.bfloat16, inputs[0].data_ptr())} and len(inputs) == 3
    assert vectors_and_inputs(torch.float32)[1][0].dtype == torch.float32
    monkeypatch.setattr("e5ft.modeling.encoder.with_one_cast", lambda model: None)
    assert torch.equal(vectors_and_inputs(torch.bfloat16)[0], vectors), "the same vectors as with a cast each"


def on_gpu(query, key, value, **options):
    """The GPU's way, (H, T, d) three times -> (T, H, d); it works on a CPU too, but for the kernel of half precision."""
    borders = torch.tensor([0, *accumulate(LENGTHS)])
    return _cuda(*(x.unsqueeze(0) for x in (query, key, value)), borders.int(), borders, LENGTHS, **options)[0]


def test_a_gpu_s_way_equals_the_plain_formula_and_drops_with_torch_s_seed():
    inputs, weight = random_inputs(torch.float32), torch.randn(sum(LENGTHS), HEADS, SIZE)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found = with_gradients(on_gpu(*inputs, dropout=0.0, scaling=0.5), inputs, weight)
    for ours, theirs in zip(found, with_gradients(plain(*exact), exact, weight), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-5)
    dropped = []
    for gradient, seed in ((True, 5), (False, 5), (False, 6)):  # as in the two passes of exact accumulation
        torch.manual_seed(seed)
        with torch.set_grad_enabled(gradient):
            dropped.append(on_gpu(*inputs, dropout=0.3, scaling=None))
    assert torch.equal(dropped[0], dropped[1]) and not torch.allclose(dropped[1], dropped[2], atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gpu_s_kernel_of_half_precision_takes_these_arguments(dtype):
    """Shapes alone: the kernel itself is for GPUs."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = random_inputs(dtype)
        output = on_gpu(*inputs, dropout=0.0, scaling=0.5)
        gradients = torch.autograd.grad(output.sum(), inputs)
    assert output.shape == (sum(LENGTHS), HEADS, SIZE) and {x.dtype for x in (output, *gradients)} == {dtype}
    assert {x.shape for x in gradients} == {(HEADS, sum(LENGTHS), SIZE)}
