"""Exact accumulation: a step has one loss however it is cut, and both passes over a micro-batch see the same dropout."""

import pytest
import torch

from e5ft.data.step import join
from e5ft.training.accumulation import CachedMicroBatch, first_pass, surrogate
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


def test_a_step_with_other_models_vectors_is_the_same_however_it_is_cut(rows_file, tmp_path):
    """Guide mask, distillation over the step, Matryoshka, the pull to the base, all positives of a row: (32x1) = (8x4)."""
    rows = two_processes.several_positives(rows_file)
    runs = {}
    for batch, accumulation in ((32, 1), (8, 4)):
        trainer = make_trainer(
            rows, tmp_path / str(batch), batch=batch, accumulation=accumulation, steps=3, **two_processes.guided()
        )
        trainer.train()
        shares = [entry["false_negative_share"] for entry in trainer.state.log_history if "loss" in entry]
        runs[batch] = losses_of(trainer), norms_of(trainer), weights_of(trainer), shares
    assert min(runs[32][3]) > 0 and max(runs[32][3]) < 1
    for ours, theirs in zip(runs[8], runs[32], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_models_own_mask_is_the_same_however_the_step_is_cut(rows_file, tmp_path):
    """The margin mask, some but not all negatives masked: (32x1) = (8x4), losses, norms, weights and masked shares."""
    runs = {}
    for batch, accumulation in ((32, 1), (8, 4)):
        trainer = make_trainer(
            rows_file, tmp_path / str(batch), batch=batch, accumulation=accumulation, steps=3, loss=two_processes.margin_mask()
        )
        trainer.train()
        shares = [entry["false_negative_share"] for entry in trainer.state.log_history if "loss" in entry]
        runs[batch] = losses_of(trainer), norms_of(trainer), weights_of(trainer), shares
    assert min(runs[32][3]) > 0.3 and max(runs[32][3]) < 0.95
    for ours, theirs in zip(runs[8], runs[32], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


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
    """Keeps every training forward: its step, its micro-batch, whether with gradient, and what came out."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.forwards = []

    def _embed(self, batch, number, model=None):
        embeddings = super()._embed(batch, number, model)
        self.forwards.append((self.state.global_step, number, torch.is_grad_enabled(), embeddings.detach().clone()))
        return embeddings

    def passes(self) -> dict:
        found = {}
        for step, number, graph, embeddings in self.forwards:
            found.setdefault((step, number), []).append((graph, embeddings))
        return found


class Unseeded(Recorder):
    def _embed(self, batch, number, model=None):
        embeddings = (self.model_wrapped if model is None else model)(batch.input_ids, batch.lengths)
        self.forwards.append((self.state.global_step, number, torch.is_grad_enabled(), embeddings.detach().clone()))
        return embeddings


class ForgetsTrainMode(Recorder):
    def get_batch_samples(self, *args):
        self.model.train = lambda mode=True: self.model  # hides the method while the first half of the step runs
        try:
            return super().get_batch_samples(*args)
        finally:
            del self.model.train


def run_with_evaluations(cls, rows_file, folder, **arguments):
    def evaluator(encoder):
        encoder.eval()  # and leaves it so, as Trainer's own evaluation does
        return {"score": 0.0}

    trainer = make_trainer(
        rows_file, folder, batch=4, accumulation=4, steps=3, dropout=0.2, evaluator=evaluator, cls=cls, eval_strategy="steps",
        eval_steps=1, **arguments,
    )  # fmt: skip
    trainer.model.eval()  # as load_encoder hands it over
    trainer.train()
    return trainer.passes()


@pytest.mark.parametrize("bf16", [False, True])
def test_the_second_pass_sees_the_dropout_of_the_first(rows_file, tmp_path, bf16):
    passes = run_with_evaluations(Recorder, rows_file, tmp_path, bf16=bf16)
    assert set(passes) == {(step, number) for step in range(3) for number in range(4)}
    for (_, number), found in passes.items():
        # The first micro-batch's graph is kept; the others are embedded without, then with one.
        assert [graph for graph, _ in found] == ([True] if number == 0 else [False, True])
        assert torch.equal(found[0][1], found[-1][1])


def test_the_two_passes_differ_without_seeds(rows_file, tmp_path):
    passes = run_with_evaluations(Unseeded, rows_file, tmp_path)
    assert not any(torch.equal(found[0][1], found[1][1]) for (_, number), found in passes.items() if number)


def test_the_two_passes_differ_without_train_mode(rows_file, tmp_path):
    passes = run_with_evaluations(ForgetsTrainMode, rows_file, tmp_path)
    assert not any(torch.equal(found[0][1], found[1][1]) for (_, number), found in passes.items() if number)


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


def test_the_shares_add_up_to_the_loss(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=4)
    batches = micro_batches_of(trainer)
    shares, step = first_pass(batches, trainer._embed, trainer.loss)
    embeddings = torch.cat([trainer._embed(batch, number) for number, batch in enumerate(batches)])
    assert step.local_rows == (0, 16) and len(step.text_id) == len(embeddings)
    assert sum(share.loss.item() for share in shares) == pytest.approx(trainer.loss(embeddings, step).item(), rel=1e-6)
    assert [share.number for share in shares] == [0, 1, 2, 3]
    assert [share.embeddings is not None for share in shares] == [True, False, False, False]
    assert all(share.gradient.shape == (len(share.micro_batch.lengths), 32) for share in shares)
