"""What ends a run early.

Signals are one request however often they come at once, the end at the next, but never amid a checkpoint. Running out of memory
is exit code 5, and overrides that leave the step as it is, with this run's numbers.
"""

import json
import os
import signal
import types

import pytest
import torch
from transformers import TrainerControl

from e5ft.app.runs import stopping
from e5ft.app.runs.stopping import SIGNALS, StopAtStepEnd, out_of_memory_explained, stopping_at_once
from e5ft.errors import OutOfMemoryError, TerminatedError
from e5ft.files import digest_of_file, read_json
from e5ft.modeling.encoder import Encoder
from e5ft.training.checkpoint import definition_of
from e5ft.training.trainer import ContrastiveTrainer

ARGS = types.SimpleNamespace(device=torch.device("cpu"))
SETTINGS = ("training.max_steps=4", "training.save_steps=1", "training.eval_steps=1", "evaluation.bm25=null")


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize(("later", "saving", "ended"), [(4.0, False, False), (6.0, False, True), (6.0, True, False)])
def test_a_repeated_signal_is_one_request_and_a_later_one_the_end(monkeypatch, first, later, saving, ended):
    killed, clock = [], [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    before = signal.getsignal(signal.SIGTERM)
    with StopAtStepEnd(lambda: saving) as stop:
        signal.raise_signal(first)
        monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
        clock[0] += later
        signal.raise_signal(first)
        assert killed == ([(os.getpid(), signal.SIGTERM)] if ended else [])
        control = TrainerControl()
        stop.on_step_end(ARGS, None, control)
        assert control.should_save and control.should_training_stop and stop.stopped == first.name
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_after_the_last_step_is_for_what_comes_next():
    with pytest.raises(TerminatedError, match="SIGTERM"), stopping_at_once("name=run resume=true"):
        with StopAtStepEnd(lambda: False):
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal was lost")


@pytest.mark.parametrize("number", [None, signal.SIGUSR1])
def test_a_signal_amid_a_save_stops_without_another_step(number):
    with StopAtStepEnd(lambda: True) as stop:
        control = TrainerControl()
        stop.on_step_end(ARGS, None, control)
        if number is not None:
            signal.raise_signal(number)
        stop.on_save(ARGS, None, control)
        assert control.should_training_stop == (number is not None) and not control.should_save
        assert stop.stopped == (number and number.name)


def test_a_step_that_is_no_new_best_is_saved_when_a_signal_stops_it(trained, tmp_path, monkeypatch):
    """training.save_strategy=best; the signal comes within step 2, whose evaluation is worse than the first."""
    plain, scores = ContrastiveTrainer.compute_loss, iter([0.1, 0.9, 0.3])

    def compute_loss(self, *args, **kwargs):
        if self.state.global_step == 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(ContrastiveTrainer, "compute_loss", compute_loss)
    monkeypatch.setattr("e5ft.app.commands.train.evaluator", lambda *_: lambda encoder: {"ndcg@10": next(scores)})
    with pytest.raises(TerminatedError, match="at step 2, after saving"):
        trained(*SETTINGS, "training.save_strategy=best", run_dir="outputs/stopped")
    assert (tmp_path / "outputs/stopped/checkpoint-2").is_dir()


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_training_a_signal_ends_the_job_with_a_status(number):
    before = signal.getsignal(number)
    with pytest.raises(TerminatedError, match=f"{number.name}.*name=run resume=true"), stopping_at_once("name=run resume=true"):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def full_from_step(step: int):
    plain = ContrastiveTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        if self.state.global_step >= step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return plain(self, *args, **kwargs)

    return compute_loss


def test_in_training_the_message_says_what_keeps_the_step_and_resuming_works(trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "compute_loss", full_from_step(2))
        with pytest.raises(OutOfMemoryError) as raised:
            trained(*SETTINGS, run_dir="outputs/full")
    message = str(raised.value)
    assert message.startswith("out of memory while training: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
    smaller = ("training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=2")
    others = ("fit_micro_batch=true", "activation_checkpointing=true", "bf16=true", "loss.chunk_size=8", "resume=true")
    assert all(override in message for override in (" ".join(smaller), *others))
    assert "not with resume=true" in next(line for line in message.splitlines() if "bf16=true" in line)
    assert "batch_tokens" not in message and "GPU 0" not in message
    folder = tmp_path / "outputs/full"
    status = read_json(folder / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 5)
    weights = folder / "checkpoint-2/model.safetensors"
    digest = digest_of_file(weights)
    _, folder = trained(*SETTINGS, *smaller, "loss.chunk_size=8", "resume=true", run_dir="outputs/full")
    assert read_json(folder / "status.json")["state"] == "finished"
    assert not weights.exists() or digest_of_file(weights) == digest


def test_while_encoding_the_message_names_the_tokens_of_a_forward_pass(trained, monkeypatch):
    """The evaluation before step 1 is the first thing that does not fit."""
    plain = Encoder.forward

    def forward(self, input_ids, lengths):
        if len(input_ids) > 1500:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory")
        return plain(self, input_ids, lengths)

    monkeypatch.setattr(Encoder, "forward", forward)
    with pytest.raises(OutOfMemoryError, match="while encoding: .*DefaultCPUAllocator") as raised:
        trained(*SETTINGS)
    assert "evaluation.batch_tokens=2048" in str(raised.value) and "train_batch_size" not in str(raised.value)


def advice_for(settings) -> str:
    with pytest.raises(OutOfMemoryError) as raised, out_of_memory_explained(settings):
        raise MemoryError
    return str(raised.value)


def test_what_is_on_already_or_changes_the_meaning_is_not_named(composed):
    message = advice_for(
        composed("train", "step.negatives=micro_batch", "training.bf16=true", "training.activation_checkpointing=true")
    )
    assert "train_batch_size" not in message and "fit_micro_batch" not in message and "fewer negatives" in message
    assert "bf16=true" not in message and "activation_checkpointing=true" not in message
    one = advice_for(composed("train", "training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=8"))
    assert "train_batch_size" not in one and "loss.chunk_size=4" in one
    odd = advice_for(composed("train", "training.per_device_train_batch_size=15", "training.gradient_accumulation_steps=2"))
    assert "per_device_train_batch_size=6 training.gradient_accumulation_steps=5" in odd
    assert "loss.chunk_size" not in advice_for(composed("train", "loss=triplet"))
    auto = advice_for(composed("train", "training.gradient_accumulation_steps=auto"))  # mini's micro-batch is 64
    assert "  training.per_device_train_batch_size=32 training.gradient_accumulation_steps=auto  the same step in smaller" in auto


@pytest.mark.parametrize(("script", "field"), [("eval", "evaluation.batch_tokens=2048"), ("mine", "batch_tokens=2048")])
def test_the_other_scripts_name_theirs(composed, script, field):
    message = advice_for(composed(script, "model.path=."))
    assert field in message and "training." not in message and "resume" not in message


def test_other_errors_and_typed_ones_pass(composed):
    config = composed("train")
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_explained(config):
        raise RuntimeError("shapes")
    with pytest.raises(OutOfMemoryError, match="^as it is$"), out_of_memory_explained(config):
        raise OutOfMemoryError("as it is")


def test_a_run_takes_the_largest_cut_that_fits(trained, monkeypatch, capsys):
    """And says so; the record has the cut that was used, what defines the training is as without it."""
    plain = ContrastiveTrainer._embed

    def embed(self, batch, number, model=None):
        if len(batch.rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, batch, number, model)

    dropout = ("model.dropout=0", "model.attention_dropout=0")
    _, whole = trained(*SETTINGS, *dropout, run_dir="outputs/whole")
    monkeypatch.setattr(ContrastiveTrainer, "_embed", embed)
    _, fitted = trained(*SETTINGS, *dropout, "training.fit_micro_batch=true", run_dir="outputs/fitted")
    printed = capsys.readouterr().out
    assert "micro-batch 4 x 4, the largest that fits (asked: 16 x 1, the same step)" in printed
    assert "of 16 queries (4 x 4)" in printed
    assert definition_of(whole / "checkpoint-4") == definition_of(fitted / "checkpoint-4")
    lines = [map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) for folder in (whole, fitted)]
    losses = [[entry["loss"] for entry in entries if "loss" in entry] for entries in lines]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4) and len(losses[0]) == 4


def test_after_fitting_the_advice_starts_from_the_cut_in_use(trained, monkeypatch):
    monkeypatch.setattr("e5ft.app.commands.train.fit_micro_batch", lambda trainer: (4, 4))

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(ContrastiveTrainer, "training_step", full)
    with pytest.raises(OutOfMemoryError) as raised:
        trained(*SETTINGS, "training.fit_micro_batch=true")
    assert "training.per_device_train_batch_size=2 training.gradient_accumulation_steps=8" in str(raised.value)
    assert "fit_micro_batch=true" not in str(raised.value)
