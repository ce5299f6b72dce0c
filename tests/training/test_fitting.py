"""The largest micro-batch that fits: found on the worst that can come, and nothing but the cut is changed."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from e5ft.errors import ConfigurationError, DataError, OutOfMemoryError
from e5ft.training import fitting
from e5ft.training.fitting import cuts, fit_micro_batch, measure_step, out_of_memory, worst_step
from e5ft.training.losses import InfoNCE
from e5ft.training.trainer import ContrastiveTrainer
from tests.conftest import make_rows
from tests.training import two_processes
from tests.training.conftest import losses_of, make_trainer, weights_of


class Small(ContrastiveTrainer):
    """As if the memory held `room` tokens of one forward pass."""

    room = 10**9

    def _embed(self, batch, number, model=None):
        if len(batch.input_ids) > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(batch.input_ids)} GiB.")
        return super()._embed(batch, number, model)


def small(room: int) -> type[Small]:
    return type("Small", (Small,), {"room": room})


def test_what_says_that_memory_did_not_suffice():
    for allocate in (torch.empty, np.empty):  # as torch's CPU allocator and NumPy say it
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            allocate(2**58)
        assert out_of_memory(raised.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("The size of tensor a (3) must match")) and not out_of_memory(OSError("out of memory"))


def test_cuts_keep_the_product_and_go_down():
    assert cuts(16, 2) == [(16, 2), (8, 4), (4, 8), (2, 16), (1, 32)]
    assert cuts(15, 2) == [(15, 2), (10, 3), (6, 5), (5, 6), (3, 10), (2, 15), (1, 30)]
    assert cuts(1, 7) == [(1, 7)]


@pytest.mark.parametrize("cut", [(16, 2), (8, 4), (32, 1)])
@pytest.mark.parametrize("positives", ["sample", "all"])
def test_no_micro_batch_is_larger_than_the_one_that_is_tried(rows_file, tmp_path, cut, positives):
    rows = two_processes.several_positives(rows_file)
    trainer = make_trainer(rows, tmp_path, batch=cut[0], accumulation=cut[1], positives=positives)
    trainer.train_dataset.limit = 1
    worst = worst_step(trainer, *cut)
    assert [len(batch.rows) for batch in worst] == [cut[0]] * cut[1]
    tokens = len(worst[0].input_ids)
    assert tokens == max(len(batch.input_ids) for batch in worst)
    loader = trainer.get_train_dataloader()
    for epoch in range(4):
        trainer.sampler.set_epoch(epoch)
        assert max(len(batch.input_ids) for batch in loader) <= tokens


def test_the_largest_cut_that_fits_is_taken(rows_file, tmp_path):
    """At every size of the memory: the chosen micro-batch fits it and the next larger one does not."""
    trainer = make_trainer(rows_file, tmp_path, batch=16, accumulation=2)
    needed = {cut: len(worst_step(trainer, *cut)[0].input_ids) for cut in cuts(16, 2)}
    assert list(needed.values()) == sorted(needed.values(), reverse=True)
    for room in sorted({*needed.values(), *(tokens + 1 for tokens in needed.values())}):
        trainer = make_trainer(rows_file, tmp_path, batch=16, accumulation=2, cls=small(room))
        wanted = next(cut for cut, tokens in needed.items() if tokens <= room)
        assert fit_micro_batch(trainer) == wanted
        assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == wanted


def test_where_one_query_does_not_fit_the_remedies_are_named(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=1, cls=small(3))
    with pytest.raises(OutOfMemoryError, match="one query does not fit.*activation_checkpointing"):
        fit_micro_batch(trainer)
    assert trainer.args.per_device_train_batch_size == 4


@pytest.mark.parametrize("batch, accumulation", [(32, 1), (16, 2)])
def test_training_in_the_cut_that_was_found_is_the_same_training(rows_file, tmp_path, batch, accumulation):
    runs = []
    for room in (10**9, 400):
        trainer = make_trainer(rows_file, tmp_path, batch=batch, accumulation=accumulation, steps=5, cls=small(room))
        trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.1})  # AdamW makes much of a gradient that is all rounding
        cut, first = fit_micro_batch(trainer), weights_of(trainer)
        trainer.train()
        runs.append((losses_of(trainer), weights_of(trainer)))
    assert cut[0] < batch and cut[0] * cut[1] == batch * accumulation
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=0, atol=1e-6)
    assert len(runs[0][0]) == 5 and (runs[0][1] - first).abs().max() > 1e-3


def test_memory_is_that_of_the_largest_micro_batch_and_time_that_of_a_usual_one(rows_file, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(fitting, "_run", lambda trainer, batches: ran.append([len(batch.input_ids) for batch in batches]))
    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=4)
    assert measure_step(trainer).seconds > 0
    worst, usual, again = ran
    assert usual == again  # what is quick is done twice: the first time pays for what libraries do once
    assert worst == [len(batch.input_ids) for batch in worst_step(trainer, 8, 4)]
    assert len(usual) == 4 and sum(usual) == pytest.approx(32 * trainer.train_dataset.most_tokens.mean(), rel=0.1)


@pytest.mark.parametrize(("negatives", "passes"), [("step", 4 + 3 * 0.25), ("micro_batch", 4)])
def test_a_step_is_all_its_passes_and_the_optimizer_s(rows_file, tmp_path, monkeypatch, negatives, passes):
    """Of 4 micro-batches all but the first are embedded twice, where they share negatives; here a pass back takes 1 s, embedding .25."""
    clock = {"now": 0.0}
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: clock["now"])
    kinds = {"_run": 1.0, "_embed_only": 0.25}
    for name, seconds in kinds.items():
        monkeypatch.setattr(fitting, name, lambda *_, seconds=seconds: clock.update(now=clock["now"] + seconds))
    monkeypatch.setattr(fitting, "_optimizer_seconds", lambda _: 0.125)
    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=4, options={"negatives": negatives})
    monkeypatch.setattr(
        trainer.model, "encode_tokens", lambda texts: clock.update(now=clock["now"] + 2, tokens=sum(map(len, texts)))
    )
    cost = measure_step(trainer)
    assert cost.seconds == pytest.approx(passes + 0.125, rel=0.1)  # a step of average length
    assert cost.encoded_per_second == clock["tokens"] / 2 and 4096 <= clock["tokens"] < 4096 * 16 + 100


def test_the_optimizer_is_timed_on_weights_of_its_own(rows_file, tmp_path, monkeypatch):
    made = []

    class Counted(torch.optim.SGD):
        def __init__(self, params, **options):
            super().__init__(params, **options)
            made.append((sum(p.numel() for p in params), options))

    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=1)
    trainer.optimizer_cls_and_kwargs, weights = (Counted, {"lr": 0.5}), weights_of(trainer)
    monkeypatch.setattr(fitting, "_TRIED_WEIGHTS", 1000)
    assert fitting._optimizer_seconds(trainer) > 0 and made == [(1000, {"lr": 0.5})]
    assert torch.equal(weights_of(trainer), weights)


def test_the_memory_of_a_step_is_the_process_s_peak_and_the_optimizer_s_state(rows_file, tmp_path, monkeypatch):
    status = "VmHWM:\t  700 kB\nVmRSS:\t  300 kB\n"
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=1)
    monkeypatch.setattr(fitting.Path, "read_text", lambda *_, **__: status)
    cost = measure_step(trainer)
    state = 8 * sum(parameter.numel() for parameter in trainer.model.parameters())
    assert cost.memory == int(1.1 * (700 * 1024 + state)) and cost.growth == cost.memory - 300 * 1024

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(fitting.Path, "read_text", lambda *_, **__: "VmRSS:\t  300 kB\n")  # as gVisor's
    assert measure_step(trainer).memory is None
    monkeypatch.setattr(fitting.Path, "read_text", absent)
    assert measure_step(trainer).memory is None


def test_a_gpu_s_peak_is_that_of_the_step_and_not_of_a_larger_one_tried_before(monkeypatch):
    peak = [900]
    for name, stand_in in {
        "reset_peak_memory_stats": lambda device: peak.append(300),
        "max_memory_allocated": lambda device: peak[-1],
        "memory_allocated": lambda device: 300,
        "synchronize": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    step = [SimpleNamespace(input_ids=[1, 2, 3])]
    for name in ("_micro_batches", "worst_step"):
        monkeypatch.setattr(fitting, name, lambda *_: step)
    for name in ("_optimizer_seconds", "_encoding_speed"):
        monkeypatch.setattr(fitting, name, lambda *_: 1.0)
    monkeypatch.setattr(fitting, "_untouched", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(fitting, "_run", lambda *_: peak.append(max(peak[-1], 500)))
    args = SimpleNamespace(device=torch.device("cuda"), per_device_train_batch_size=2, gradient_accumulation_steps=1)
    cost = measure_step(SimpleNamespace(args=args, train_dataset=SimpleNamespace(most_tokens=np.arange(4))))
    assert (cost.memory, cost.growth) == (500, 200)


def test_a_hundred_megabytes_more_are_seen(rows_file, tmp_path, monkeypatch):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=1)
    before, held = measure_step(trainer), []

    def run(*_):
        words = Path("/proc/self/status").read_text().split()
        below = int(words[words.index("VmHWM:") + 1]) - int(words[words.index("VmRSS:") + 1])  # what earlier tests had held
        held.append(np.ones((1024 * below + 2**27) // 8))

    monkeypatch.setattr(fitting, "_run", run)
    assert measure_step(trainer).memory - before.memory > 1e8


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_trying_leaves_nothing_behind(rows_file, tmp_path, dropout):
    loss = InfoNCE(0.05, false_negatives="margin")
    trainer = make_trainer(rows_file, tmp_path, batch=16, accumulation=2, dropout=dropout, cls=small(600), loss=loss)
    trainer.model.eval()
    weights, states = weights_of(trainer), (torch.random.get_rng_state(), np.random.get_state()[1].copy())
    cut = fit_micro_batch(trainer)
    assert cut[0] < 16
    assert measure_step(trainer).encoded_per_second > 0
    assert torch.equal(weights_of(trainer), weights)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert not trainer.model.training and trainer.loss.statistics == {} and trainer.optimizer is None
    assert trainer.state.global_step == 0 and trainer._log_sums.sums == {} and trainer.tokens_seen == 0


@pytest.mark.parametrize("options", [{"bf16": True}, {"activation_checkpointing": True}], ids=str)
def test_what_is_tried_is_what_is_trained(rows_file, tmp_path, options):
    """Under autocast and with activation checkpointing, with other models' vectors and a loss over several cuts."""
    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=2, steps=1, **two_processes.guided(), **options)
    assert fit_micro_batch(trainer) == (8, 2)
    trainer.train()
    assert np.isfinite(losses_of(trainer)).all()


def test_the_loss_is_tried_too(rows_file, tmp_path):
    """The scores of a step do not depend on the cut: where they do not fit, no cut does."""

    class Large(InfoNCE):
        def forward(self, embeddings, step):
            if step.local_rows[1] > 8:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return super().forward(embeddings, step)

    with pytest.raises(OutOfMemoryError):
        fit_micro_batch(make_trainer(rows_file, tmp_path, batch=8, accumulation=2, loss=Large(0.05)))
    assert fit_micro_batch(make_trainer(rows_file, tmp_path, batch=4, accumulation=2, loss=Large(0.05))) == (4, 2)


def test_other_errors_are_not_taken_for_a_full_memory(rows_file, tmp_path):
    class Broken(ContrastiveTrainer):
        def _embed(self, *_):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        fit_micro_batch(make_trainer(rows_file, tmp_path, batch=8, accumulation=2, cls=Broken))


def test_a_micro_batch_that_is_part_of_the_loss_is_not_cut(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=2, options={"negatives": "micro_batch"})
    with pytest.raises(ConfigurationError, match="fewer negatives"):
        fit_micro_batch(trainer)


def test_fewer_rows_than_a_step_are_refused_before_anything_is_tried(write_rows, tmp_path):
    with pytest.raises(DataError, match="15 training rows"):
        fit_micro_batch(make_trainer(write_rows(make_rows(15)), tmp_path, batch=4, accumulation=4, cls=small(0)))
