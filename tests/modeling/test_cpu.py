"""Encoding on every core and with packed weights: the same vectors as by plain modules, and nothing left changed."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from e5ft.modeling import cpu
from e5ft.modeling.encoder import Encoder, EncoderSpec
from tests.conftest import make_encoder
from tests.modeling.test_encoder import random_texts


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_freed_memory_is_given_back():
    def resident() -> int:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return int(status["VmRSS"].split()[0]) * 1024

    # Smaller than what the C library maps by itself, with something that stays between them.
    held = [torch.ones(2**18 // 4) for _ in range(600)], [torch.ones(2**10) for _ in range(600)]
    kept = []
    for large, small in zip(*held, strict=True):
        kept.append(small)
        kept.append(torch.ones(len(large) // 512))
    full = resident()
    del held, large, small
    cpu.release_freed_memory()
    assert full - resident() > 1e8 and len(kept) == 1200


@pytest.fixture
def always_packed(monkeypatch):
    monkeypatch.setattr(cpu, "PACK_FROM", 0)


@pytest.mark.parametrize(
    ("threads", "tokens", "limit", "expected"),
    [
        (1, 100, 16384, cpu.FEWEST),
        (1, 4000, 16384, 4000),
        (1, 5000, 16384, 2500),
        (4, 33_000, 16384, 2750),  # three rounds of four
        (4, 10_000, 64, 16),
        (4, 10_000, 2, 1),
        (100, 32_768, 16384, 1024),  # more cores than threads of Python pay for
        (1, 0, 16384, cpu.FEWEST),
    ],
)
def test_tokens_of_a_pass(threads, tokens, limit, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert cpu.batch_tokens(tokens, limit) == expected


def test_every_batch_runs_once_on_one_thread_without_gradient(two_threads):
    seen = []

    def work(batch):
        seen.append((tuple(batch), torch.get_num_threads(), torch.is_grad_enabled()))

    cpu.on_every_core(work, [[1], [2, 3], [4], [5]])
    assert sorted(seen) == [((1,), 1, False), ((2, 3), 1, False), ((4,), 1, False), ((5,), 1, False)]
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()


def test_an_error_in_a_thread_is_raised_and_threads_are_as_before(two_threads):
    def work(batch):
        if batch == [3]:
            raise MemoryError("three")

    with pytest.raises(MemoryError, match="three"):
        cpu.on_every_core(work, [[n] for n in range(50)])
    assert torch.get_num_threads() == 2


def test_threads_give_the_vectors_of_one_thread(two_threads):
    encoder, texts, threads = make_encoder("xlm-roberta"), random_texts(40, longest=40), set()
    encoder.backbone.register_forward_pre_hook(lambda *_: threads.add(threading.current_thread().name))
    vectors = encoder.encode(texts, "passage", batch_tokens=128)
    assert threads and threads <= {"encode_0", "encode_1"}
    torch.set_num_threads(1)
    np.testing.assert_allclose(vectors, encoder.encode(texts, "passage", batch_tokens=128), atol=1e-6)
    assert threading.current_thread().name in threads


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("padded", [False, True])
def test_packed_layers_give_the_vectors_of_plain_ones(activation, padded, always_packed, monkeypatch):
    config = AutoConfig.for_model(
        "bert", vocab_size=210, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, hidden_act=activation,
    )  # fmt: skip
    torch.manual_seed(0)
    other = make_encoder()
    encoder = Encoder(AutoModel.from_config(config), other.tokenizer, EncoderSpec(text=other.spec.text), padded or None)
    for layer in encoder.backbone.encoder.layer:  # wide values: where one activation differs from the other
        torch.nn.init.normal_(layer.intermediate.dense.weight)
    packed = encoder.encode(random_texts(), "query")
    monkeypatch.setattr(cpu, "PACK_FROM", 10**9)
    np.testing.assert_allclose(packed, encoder.encode(random_texts(), "query"), atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_packed_layers_in_bfloat16(autocast, always_packed):
    encoder = make_encoder()
    exact = encoder.encode(random_texts(), "query")
    if autocast:  # as accelerate wraps a model while training in bf16
        plain = encoder.forward
        encoder.forward = lambda *inputs: torch.autocast("cpu", dtype=torch.bfloat16)(plain)(*inputs)
    else:
        encoder = encoder.bfloat16()
    vectors = encoder.encode(random_texts(), "query")
    assert not np.array_equal(vectors, exact), "bfloat16 it was"
    assert ((exact * vectors).sum(axis=1) > 0.999).all()


def _misfit(*_):
    raise RuntimeError("expected at most 5 arguments")


@pytest.mark.parametrize("operators", [{}, {"_linear_pointwise": _misfit, "_reorder_linear_weight": _misfit}])
def test_without_onednns_operators_the_plain_layers_do_the_work(operators, always_packed, monkeypatch):
    encoder, texts = make_encoder(), random_texts()
    packed, vectors = encoder.encode(texts, "query"), torch.randn(5, 8)
    products = cpu.product(vectors, vectors)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
    np.testing.assert_allclose(encoder.encode(texts, "query"), packed, atol=1e-6)
    torch.testing.assert_close(cpu.product(vectors, vectors), products, rtol=1e-5, atol=1e-5)


def test_changed_weights_are_seen(always_packed):
    encoder = make_encoder()
    before = encoder.encode(["w1 w2 w3"], "query")
    with torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.weight.mul_(2)
    after = encoder.encode(["w1 w2 w3"], "query")
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, encoder(*_flat(encoder, "w1 w2 w3")).detach().numpy(), atol=1e-6)


def test_modules_are_as_they_were_also_after_an_error(always_packed):
    encoder = make_encoder()
    with pytest.raises(RuntimeError, match="stop"), cpu.packed(encoder, 1):
        assert any("forward" in module.__dict__ for module in encoder.modules())
        raise RuntimeError("stop")
    assert not any("forward" in module.__dict__ for module in encoder.modules())


def test_with_gradient_layers_are_plain(always_packed):
    encoder = make_encoder()
    with cpu.packed(encoder, 1):
        encoder(*_flat(encoder, "w1 w2 w3"))[0, 0].backward()
    inner = encoder.backbone.encoder.layer[0].intermediate.dense.weight.grad
    assert inner is not None and inner.abs().max() > 0


def _flat(encoder, text):
    (ids,) = encoder.tokenize([text], "query")
    return torch.tensor(ids), [len(ids)]


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (0, 4, 3), (4, 0, 3), (300, 500, 64)])
def test_product(shape):
    torch.manual_seed(0)
    left, right = torch.randn(shape[0], shape[2]), torch.randn(shape[1], shape[2])
    found = cpu.product(left, right)
    assert found.shape == shape[:2]
    torch.testing.assert_close(found.double(), left.double() @ right.double().T, rtol=1e-5, atol=1e-5)
    wide = torch.randn(shape[1], 2 * shape[2])[:, : shape[2]]  # rows that do not touch
    torch.testing.assert_close(cpu.product(left, wide), left @ wide.T, rtol=1e-5, atol=1e-5)
