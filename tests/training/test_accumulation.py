"""Exact accumulation: a step has one loss however it is cut, and both passes over a micro-batch see the same dropout."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nested._internal import nested_tensor, sdpa

from e5ft.data.step import join
from e5ft.modeling.compact import compact
from e5ft.training.accumulation import CachedMicroBatch, first_pass, surrogate
from e5ft.training.distillation import Distillation
from e5ft.training.losses import BLOCKS, InfoNCE
from e5ft.training.trainer import ContrastiveTrainer
from tests.training import two_processes
from tests.training.conftest import Gradients, gradient_of, losses_of, make_trainer, micro_batches_of, norms_of, weights_of

CUTS = ((32, 1), (16, 2), (8, 4), (4, 8))


def test_a_step_is_the_same_however_it_is_cut(rows_file, tmp_path):
    """(32x1) = (16x2) = (8x4) = (4x8): loss, gradient norm, weights; all four blocks, and with a clipping that bites."""
    runs = {}
    for batch, accumulation in CUTS:
        trainer = make_trainer(
            rows_file, tmp_path / str(batch), batch=batch, accumulation=accumulation, steps=5, max_grad_norm=0.05,
            loss=InfoNCE(0.05, BLOCKS, chunk_size=10),
        )  # fmt: skip
        trainer.train()
        runs[batch] = losses_of(trainer), norms_of(trainer), weights_of(trainer)
    whole = runs.pop(32)
    assert whole[0][-1] < whole[0][0] and min(whole[1]) > 0.05
    for losses, norms, weights in runs.values():
        torch.testing.assert_close(losses, whole[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(norms, whole[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, whole[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["guided", "margin"])
def test_a_masked_step_is_the_same_however_it_is_cut(rows_file, tmp_path, kind):
    """(32x1) = (8x4), some but not all negatives masked: losses, norms, weights and masked shares.

    guided: guide mask, distillation over the step, Matryoshka, divergence from the base, all positives of a row, noised queries.
    """
    guided = kind == "guided"
    rows = two_processes.several_positives(rows_file) if guided else rows_file
    runs = []
    for batch, accumulation in ((32, 1), (8, 4)):
        more = two_processes.guided() if guided else {"loss": two_processes.margin_mask()}
        trainer = make_trainer(rows, tmp_path / str(batch), batch=batch, accumulation=accumulation, steps=3, **more)
        trainer.train()
        shares = [entry["false_negative_share"] for entry in trainer.state.log_history if "loss" in entry]
        runs.append((losses_of(trainer), norms_of(trainer), weights_of(trainer), shares))
    assert min(shares) > (0 if guided else 0.3) and max(shares) < (1 if guided else 0.95)
    for whole, cut in zip(*runs, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-4)


def test_the_step_with_dropout_is_the_plain_computation(rows_file, tmp_path):
    """Loss and gradient of 4 micro-batches with dropout: embed all with the seeds that the trainer uses, one loss, backward."""
    gradients = Gradients()
    trainer = make_trainer(
        rows_file, tmp_path, batch=4, accumulation=4, steps=1, dropout=0.2, callbacks=[gradients], max_grad_norm=0.0
    )
    encoder, batches = trainer.model.train(), micro_batches_of(trainer)
    embeddings = torch.cat([trainer._embed(batch, number) for number, batch in enumerate(batches)])
    loss = trainer.loss(embeddings, join([batch.step for batch in batches]))
    loss.backward()
    wanted = gradient_of(encoder)
    encoder.zero_grad()
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(gradients.steps[0], wanted, rtol=1e-4, atol=1e-6)


def test_micro_batch_negatives_are_plain_accumulation(rows_file, tmp_path):
    """The step's loss and gradient are the means over its micro-batches, each alone; another number than the exact one."""
    gradients, run = Gradients(), dict.fromkeys(("step", "micro_batch"))
    for negatives in run:
        trainer = make_trainer(
            rows_file, tmp_path / negatives, batch=8, accumulation=4, steps=1, max_grad_norm=0.0, callbacks=[gradients],
            options={"negatives": negatives},
        )  # fmt: skip
        encoder, batches = trainer.model, micro_batches_of(trainer)
        wanted = torch.stack([trainer.loss(encoder(batch.input_ids, batch.lengths), batch.step) for batch in batches]).mean()
        wanted.backward()
        wanted_gradient = gradient_of(encoder)
        encoder.zero_grad()
        trainer.train()
        run[negatives] = losses_of(trainer)[0]
    assert run["micro_batch"] == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradients.steps[1], wanted_gradient, rtol=1e-4, atol=1e-6)
    assert run["step"] > wanted.item() + 0.1  # four times as many negatives
    assert not torch.allclose(gradients.steps[0], wanted_gradient, rtol=0.1, atol=1e-3)


class Recorder(ContrastiveTrainer):
    """Keeps every training forward by step and micro-batch: whether it had a gradient, and its vectors."""

    passes = None

    def _embed(self, batch, number, model=None):
        embeddings = super()._embed(batch, number, model)
        self.passes = self.passes or {}
        passes = self.passes.setdefault((self.state.global_step, number), [])
        passes.append((torch.is_grad_enabled(), embeddings.detach().clone()))
        return embeddings


@pytest.mark.parametrize("bf16", [False, True])
def test_the_second_pass_sees_the_dropout_of_the_first(rows_file, tmp_path, bf16):
    def evaluator(encoder):
        encoder.eval()  # and leaves it so, as Trainer's own evaluation does
        return {"score": 0.0}

    trainer = make_trainer(
        rows_file, tmp_path, batch=4, accumulation=4, steps=3, dropout=0.2, evaluator=evaluator, cls=Recorder,
        eval_strategy="steps", eval_steps=1, bf16=bf16,
    )  # fmt: skip
    trainer.model.eval()  # as load_encoder hands it over
    trainer.train()
    assert set(trainer.passes) == {(step, number) for step in range(3) for number in range(4)}
    for (_, number), passes in trainer.passes.items():
        # The first micro-batch's graph is kept; the others are embedded without, then with one.
        assert [graph for graph, _ in passes] == ([True] if number == 0 else [False, True])
        assert torch.equal(passes[0][1], passes[-1][1])


def test_dropout_differs_between_steps_micro_batches_and_seeds(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=1, dropout=0.2)
    (batch,) = micro_batches_of(trainer)
    trainer.model.train()
    before = torch.random.get_rng_state()
    first = trainer._embed(batch, 0)
    assert torch.equal(trainer._embed(batch, 0), first)
    assert not torch.allclose(trainer._embed(batch, 1), first, atol=1e-3)
    trainer.state.global_step = 1
    assert not torch.allclose(trainer._embed(batch, 0), first, atol=1e-3)
    trainer.state.global_step, trainer.args.seed = 0, 6
    assert not torch.allclose(trainer._embed(batch, 0), first, atol=1e-3)
    assert torch.equal(torch.random.get_rng_state(), before)  # and nothing is drawn from the global state


def test_the_surrogate_is_float32_under_bf16_autocast(rows_file, tmp_path):
    """Value: the share of the loss. Gradient: the one it was given. Half precision would keep 8 bits of both."""
    torch.manual_seed(0)
    gradient = torch.randn(20, 32) * 1e-3
    share = CachedMicroBatch(None, 0, torch.tensor(1.2345678), gradient)
    weight, texts = torch.randn(32, 32, requires_grad=True), torch.randn(20, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = (texts @ weight).float()
        scalar = surrogate(embeddings, share)
        (found,) = torch.autograd.grad(scalar, embeddings, retain_graph=True)
    assert scalar.dtype == found.dtype == torch.float32
    assert scalar.item() == pytest.approx(1.2345678, abs=1e-7)
    assert torch.equal(found, gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # vectors of half precision come in as they are
        assert surrogate(embeddings.bfloat16(), share).dtype == torch.float32


def test_the_losses_of_the_micro_batches_add_up_to_the_loss(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=4)
    batches = micro_batches_of(trainer)
    cached, step = first_pass(batches, trainer._embed, trainer.loss)
    embeddings = torch.cat([trainer._embed(batch, number) for number, batch in enumerate(batches)])
    assert step.local_rows == (0, 16) and len(step.text_id) == len(embeddings)
    assert sum(each.loss.item() for each in cached) == pytest.approx(trainer.loss(embeddings, step).item(), rel=1e-6)
    assert [each.number for each in cached] == [0, 1, 2, 3]
    assert [each.embeddings is not None for each in cached] == [True, False, False, False]
    assert all(each.gradient.shape == (len(each), 32) for each in cached)


LOSSES = {
    "blocks": lambda: InfoNCE(0.05, BLOCKS),
    "margin": lambda: InfoNCE(0.05, false_negatives="margin"),
    "guide": lambda: InfoNCE(0.05, false_negatives="guide"),
    "distillation": lambda: Distillation(0.05, teacher="guide", candidates="step"),
}


@pytest.mark.parametrize(
    ("loss", "dropout", "again"), [*((name, 0.1, False) for name in LOSSES), ("blocks", 0.0, False), ("blocks", 0.1, True)]
)
def test_nothing_on_the_host_meets_what_is_on_a_gpu(rows_file, tmp_path, monkeypatch, loss, dropout, again):
    """A step on a second device that is not there: shapes and places alone are followed ("lazy" is one that needs no build)."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which this device does not have
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "lazy", SimpleNamespace(), raising=False)  # a module of random states, which are not kept here
    monkeypatch.setattr(sdpa, "_select_sdp_backend", lambda *_: sdpa.SDPBackend.FLASH_ATTENTION)  # the one of half precision
    nested_tensor._nt_view_dummy()  # made once in a process, and not as a fake
    loss = LOSSES[loss]()
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=2, dropout=dropout, loss=loss, guide_seed=3)
    batches, encoder = micro_batches_of(trainer), trainer.model.train()
    compact(encoder, range(20))
    if again:
        encoder.activation_checkpointing_enable({"preserve_rng_state": False})
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        encoder.to_empty(device="lazy")
        cached, _ = first_pass([b.to(encoder.device) for b in batches], lambda b, _: encoder(b.input_ids, b.lengths), loss)
        for part in cached:
            batch = part.micro_batch
            embeddings = encoder(batch.input_ids, batch.lengths) if part.embeddings is None else part.embeddings
            surrogate(embeddings, part).backward()
    places = {parameter.grad.device.type for parameter in encoder.parameters() if parameter.grad is not None}
    assert embeddings.device.type == "lazy" and places == {"lazy"}
