"""Checkpoints and resuming: a resumed run is the uninterrupted one, to the last bit."""

from pathlib import Path

import pytest
import torch
from transformers import EarlyStoppingCallback

from e5ft.errors import ConfigurationError, NonFiniteError
from e5ft.training import checkpoint
from tests.training.conftest import evaluated, losses_of, make_trainer, norms_of, weights_of


def test_a_resumed_run_equals_the_uninterrupted_one(rows_file, tmp_path):
    """k = 4 with dropout, 3 steps an epoch, 5 steps: resumed within the first epoch, between epochs, within the second."""

    def run(folder, checkpoint=None, save="no"):
        trainer = make_trainer(
            rows_file, folder, batch=8, accumulation=4, steps=5, dropout=0.2, save_strategy=save, save_steps=1,
            lr_scheduler_type="linear", options={"group_by_length": True},
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole", save="steps")
    for step in (1, 3, 4):
        resumed = run(tmp_path / f"from-{step}", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert losses_of(resumed) == losses_of(whole)
        assert norms_of(resumed) == norms_of(whole)
        assert torch.equal(weights_of(resumed), weights_of(whole))
        assert resumed.state.log_history[-2]["learning_rate"] == whole.state.log_history[-2]["learning_rate"]
    assert len(set(losses_of(whole))) == 5


def test_resuming_shows_the_rows_that_are_due(rows_file, tmp_path):
    """Three steps an epoch: resumed at step 4, the second step of the second epoch's order comes, not of the first's."""

    def run(folder, checkpoint=None, save="no"):
        seen = []
        trainer = make_trainer(rows_file, folder, batch=8, accumulation=4, steps=6, save_strategy=save, save_steps=4)
        fetch = trainer.get_batch_samples

        def record(*args):
            batches = fetch(*args)
            seen.append(tuple(trainer._rows_in_step))
            return batches

        trainer.get_batch_samples = record
        trainer.train(resume_from_checkpoint=checkpoint)
        return seen

    whole = run(tmp_path / "whole", save="steps")
    assert run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-4")) == whole[4:]
    assert len(set(whole)) == 6


def test_a_checkpoint_holds_what_resuming_needs_and_no_pickled_arguments(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=2, steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert "training_args.bin" not in names and not list(tmp_path.rglob("training_args.bin"))
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert names == model | {
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "progress_0.json", "manifest.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "model").iterdir()} == model


def test_damaged_weights_are_not_resumed_from(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path / "a", batch=4, accumulation=1, steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    file = Path(tmp_path / "a" / "checkpoint-1" / "model.safetensors")
    file.write_bytes(file.read_bytes()[:5000])
    other = make_trainer(rows_file, tmp_path / "b", batch=4, accumulation=1)
    weights = weights_of(other)
    with pytest.raises(ConfigurationError, match="model.safetensors: cannot be read"):
        other.train(resume_from_checkpoint=str(file.parent))
    assert torch.equal(weights_of(other), weights)


class NotANumber(torch.nn.Module):
    def forward(self, embeddings, step):
        return embeddings.sum() * float("nan")


def scaled(trainer, scale, fused=True):
    """fp16's scaler, which works on a CPU too; the arithmetic stays float32. A fused optimizer is called also to skip a step."""
    trainer.optimizer_cls_and_kwargs = torch.optim.AdamW, {"lr": 1e-3, "fused": fused}
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


@pytest.mark.parametrize("fused", [True, False])
def test_steps_that_the_scaler_skips_are_counted_and_training_goes_on(rows_file, tmp_path, fused):
    trainer = scaled(make_trainer(rows_file, tmp_path, batch=8, accumulation=1, steps=8), 2.0**127, fused)
    trainer.train()
    skipped = [entry["skipped_steps"] for entry in trainer.state.log_history if "skipped_steps" in entry]
    assert skipped == sorted(skipped) and 0 < skipped[-1] < 8  # the scale was halved until the gradient was finite


def test_a_resumed_run_goes_on_with_the_scale_and_counts_on(rows_file, tmp_path):
    options = dict(batch=8, accumulation=1, steps=8, save_strategy="steps", save_steps=2)
    whole = scaled(make_trainer(rows_file, tmp_path, **options), 2.0**127)
    whole.train()
    resumed = scaled(make_trainer(rows_file, tmp_path, **options), 2.0**127)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.accelerator.scaler.get_scale() == whole.accelerator.scaler.get_scale() < 2.0**126
    skipped = [[e["skipped_steps"] for e in t.state.log_history if "skipped_steps" in e] for t in (whole, resumed)]
    assert skipped[0] == skipped[1] and torch.equal(weights_of(whole), weights_of(resumed))


@pytest.mark.parametrize("fused", [True, False])
def test_only_a_row_of_skipped_steps_ends_a_run_in_fp16(rows_file, tmp_path, fused):
    trainer = scaled(make_trainer(rows_file, tmp_path, batch=8, accumulation=1, steps=60, loss=NotANumber()), 2.0**16, fused)
    before = weights_of(trainer)
    with pytest.raises(NonFiniteError, match=r"step 26: fp16 gave no finite gradient in 26 steps.*rows.jsonl:\d+"):
        trainer.train()
    torch.testing.assert_close(weights_of(trainer), before, rtol=0, atol=0)


def test_log_lines_that_cover_an_interruption_are_the_uninterrupted_ones(rows_file, tmp_path):
    options = dict(batch=4, accumulation=2, steps=8, dropout=0.1, logging_steps=3, save_strategy="steps", save_steps=2)
    whole = make_trainer(rows_file, tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(rows_file, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert [entry for entry in resumed.state.log_history if "loss" in entry] == [
        e for e in whole.state.log_history if "loss" in e
    ]


def test_resuming_from_the_last_step_makes_none(rows_file, tmp_path):
    options = dict(batch=4, accumulation=1, steps=3, save_strategy="steps", save_steps=3)
    whole = make_trainer(rows_file, tmp_path, **options)
    whole.train()
    again = make_trainer(rows_file, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 3
    torch.testing.assert_close(weights_of(again), weights_of(whole), rtol=0, atol=0)


@pytest.mark.parametrize("step", [1, 2])
def test_early_stopping_counts_on_after_a_resume(rows_file, tmp_path, step):
    """Patience 2, and every step is worse than the base: no run goes beyond step 2, also one resumed from there."""
    whole = evaluated(rows_file, tmp_path, [0.5, 0.4, 0.3, 0.2], callbacks=[EarlyStoppingCallback(2)])
    resumed = evaluated(
        rows_file,
        tmp_path,
        [0.3, 0.2],
        checkpoint=f"checkpoint-{step}",
        callbacks=[EarlyStoppingCallback(2)],
        eval_on_start=False,
    )
    assert whole.state.global_step == resumed.state.global_step == 2
    assert torch.equal(weights_of(resumed), weights_of(whole))


def test_a_run_that_was_moved_ends_with_the_best_weights(rows_file, tmp_path):
    """Killed after its last step, before its end: resumed at another place it makes no further step."""
    first, moved = tmp_path / "first", tmp_path / "moved"
    whole = evaluated(rows_file, first, [0.1, 0.9, 0.3, 0.2])
    first.rename(moved)
    resumed = evaluated(rows_file, moved, [], checkpoint="checkpoint-3", eval_on_start=False)
    assert resumed.is_over and resumed.state.best_global_step == 1
    assert torch.equal(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("limit", [None, 1])
def test_a_run_that_ends_with_its_last_weights_needs_no_best_checkpoint(rows_file, tmp_path, limit):
    """Step 1 is the best and is not saved."""
    options = dict(load_best_model_at_end=False, greater_is_better=True, save_steps=2, save_total_limit=limit, steps=4)
    trainer = evaluated(rows_file, tmp_path, [0.1, 0.9, 0.3, 0.2, 0.1], **options)
    assert trainer.state.best_global_step == 1 and trainer.state.best_model_checkpoint is None
    assert checkpoint.newest(tmp_path) == (tmp_path / "checkpoint-4", [])


def test_with_a_limit_of_one_the_newest_stays_beside_the_best(rows_file, tmp_path):
    trainer = evaluated(rows_file, tmp_path, [0.1, 0.9, 0.3, 0.2], save_total_limit=1)
    assert [path.name for path in checkpoint.visible(tmp_path)] == ["checkpoint-1", "checkpoint-3"]
    assert trainer.save_total_limit == 1
