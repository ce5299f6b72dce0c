"""Running out of memory: exit code 5, and overrides that leave the step as it is, with this run's numbers."""

import gc
import json

import pytest
import torch

from e5ft.app.runs.stopping import out_of_memory_explained as explained
from e5ft.errors import OutOfMemoryError
from e5ft.files import digest_of_file, read_json
from e5ft.modeling.encoder import Encoder
from e5ft.training.trainer import ContrastiveTrainer

SETTINGS = ("training.max_steps=4", "training.save_steps=1", "training.eval_steps=1", "evaluation.bm25=null")


def full_from_step(step: int):
    plain = ContrastiveTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        if self.state.global_step >= step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return plain(self, *args, **kwargs)

    return compute_loss


def test_in_training_the_message_says_what_keeps_the_step_and_going_on_works(trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "compute_loss", full_from_step(2))
        with pytest.raises(OutOfMemoryError) as raised:
            trained(*SETTINGS, run_dir="outputs/full")
    message, raised = str(raised.value), None
    gc.collect()  # the traceback held the run's folder, and with it the lock that going on needs
    assert message.startswith("out of memory while training: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
    smaller = ("training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=2")
    for override in (
        " ".join(smaller),
        "training.fit_micro_batch=true",
        "training.activation_checkpointing=true",
        "training.bf16=true",
        "loss.chunk_size=8",
        "resume=true",
    ):
        assert override in message
    assert "batch_tokens" not in message and "GPU 0" not in message
    folder = tmp_path / "outputs/full"
    status = read_json(folder / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 5)
    weights = folder / "checkpoint-2/model.safetensors"
    digest = digest_of_file(weights)
    _, folder = trained(*SETTINGS, *smaller, "resume=true", run_dir="outputs/full")
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


def raised_by(config) -> str:
    with pytest.raises(OutOfMemoryError) as raised, explained(config):
        raise MemoryError
    return str(raised.value)


def test_what_is_on_already_or_changes_the_meaning_is_not_named(composed):
    message = raised_by(
        composed("train", "step.negatives=micro_batch", "training.bf16=true", "training.activation_checkpointing=true")
    )
    assert "train_batch_size" not in message and "fit_micro_batch" not in message and "fewer negatives" in message
    assert "bf16=true" not in message and "activation_checkpointing=true" not in message
    one = raised_by(composed("train", "training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=8"))
    assert "train_batch_size" not in one and "loss.chunk_size=4" in one
    odd = raised_by(composed("train", "training.per_device_train_batch_size=15", "training.gradient_accumulation_steps=2"))
    assert "per_device_train_batch_size=6 training.gradient_accumulation_steps=5" in odd
    assert "loss.chunk_size" not in raised_by(composed("train", "loss=triplet"))


@pytest.mark.parametrize(("script", "field"), [("eval", "evaluation.batch_tokens=2048"), ("mine", "batch_tokens=2048")])
def test_the_other_scripts_name_theirs(composed, script, field):
    named = ["model.path=."] if script == "eval" else []
    message = raised_by(composed(script, *named))
    assert field in message and "training." not in message and "resume" not in message


def test_other_errors_and_typed_ones_pass(composed):
    config = composed("train")
    with pytest.raises(RuntimeError, match="shapes"), explained(config):
        raise RuntimeError("shapes")
    with pytest.raises(OutOfMemoryError, match="^as it is$"), explained(config):
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
    assert read_json(whole / "definition.json") == read_json(fitted / "definition.json")
    lines = [map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) for folder in (whole, fitted)]
    losses = [[entry["loss"] for entry in entries if "loss" in entry] for entries in lines]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4) and len(losses[0]) == 4
