"""Steps without a negative: foreseen where it is certain, else taken with a gradient of 0, counted, and told once."""

import logging

import numpy as np
import pytest
import torch

from e5ft import distributed
from e5ft.errors import DataError
from e5ft.training.losses import InfoNCE, Triplet
from e5ft.training.negatives import without_negatives
from tests.conftest import make_rows
from tests.training import two_processes
from tests.training.conftest import Gradients, losses_of, make_trainer, weights_of


@pytest.fixture
def every_other(rows_file):
    """Twelve rows, every other with two hard negatives."""
    return two_processes.some_hard_negatives(rows_file)


@pytest.mark.parametrize(
    ("cut", "negatives", "loss", "message"),
    [
        ((1, 4), "micro_batch", InfoNCE(0.1), "per_device_train_batch_size=1: .*must be at least 2"),
        ((1, 1), "step", InfoNCE(0.1), "per_device_train_batch_size=1: .*must be at least 2"),
        ((4, 1), "step", Triplet(), "rows.jsonl: no row shows a hard negative.*mine them.*loss=infonce"),
    ],
)
def test_what_can_have_no_negative_is_refused_before_the_first_step(write_rows, tmp_path, cut, negatives, loss, message):
    options = dict(zip(("batch", "accumulation"), cut, strict=True), loss=loss, options={"negatives": negatives})
    with pytest.raises(DataError, match=message):
        make_trainer(write_rows(make_rows(20, negatives=False)), tmp_path, **options).make_sampler()
    make_trainer(write_rows(make_rows(20)), tmp_path, **options).make_sampler()


def test_one_row_is_told_as_such(write_rows, tmp_path):
    with pytest.raises(DataError, match="rows.jsonl: one training row without a hard negative.*must be at least 2"):
        make_trainer(write_rows(make_rows(1, negatives=False)), tmp_path, batch=1, accumulation=1).make_sampler()


def test_rows_that_meet_in_a_step_need_no_hard_negatives(write_rows, tmp_path):
    make_trainer(write_rows(make_rows(20, negatives=False)), tmp_path, batch=1, accumulation=2).make_sampler()


def test_a_limit_of_none_shows_no_negatives(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=1, accumulation=1)
    assert trainer.train_dataset.shows_negatives
    del trainer.train_dataset.shows_negatives
    trainer.train_dataset.limit = 0
    with pytest.raises(DataError, match="must be at least 2"):
        trainer.make_sampler()


def bare_steps(trainer) -> list[int]:
    """The steps of the first epoch, from 1, whose one row has no hard negative."""
    return [number for number, row in enumerate(trainer.sampler.epoch_steps(0)[:, 0], start=1) if row % 2]


def test_a_step_without_a_negative_is_taken_counted_and_told_once(every_other, tmp_path, caplog):
    """Also over a resume, which counts on and does not say it again."""
    caplog.set_level(logging.WARNING)
    gradients = Gradients()
    options = dict(batch=1, accumulation=1, steps=12, save_strategy="steps", save_steps=6, max_grad_norm=0.0)
    trainer = make_trainer(every_other, tmp_path / "whole", callbacks=[gradients], **options)
    trainer.train()
    bare = bare_steps(trainer)
    assert len(bare) == trainer.without_negatives == 6
    assert [number for number, each in enumerate(gradients.steps, start=1) if not each.any()] == bare
    (said,) = [record.getMessage() for record in caplog.records if "negative" in record.getMessage()]
    assert said.startswith(f"step {bare[0]}: no query has a negative") and "per_device_train_batch_size" in said
    caplog.clear()
    resumed = make_trainer(every_other, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert resumed.without_negatives == 6 and torch.equal(weights_of(resumed), weights_of(trainer))
    assert 0 < sum(step <= 6 for step in bare) < 6 and not caplog.records


def test_a_micro_batch_without_a_negative_leaves_its_step_the_others(every_other, tmp_path, caplog):
    """Of a step of twelve rows, each alone, six teach: its loss is a twelfth of their sum."""
    caplog.set_level(logging.WARNING)
    options = {"options": {"negatives": "micro_batch"}, "max_grad_norm": 0.0, "steps": 1}
    trainer = make_trainer(every_other, tmp_path, batch=1, accumulation=12, **options)
    encoder, losses = trainer.model, []
    with torch.no_grad():
        for batch in trainer.get_train_dataloader():
            losses.append(trainer.loss(encoder(batch.input_ids, batch.lengths), batch.step).item())
    trainer.train()
    assert trainer.without_negatives == sum(loss == 0 for loss in losses) == 6
    assert losses_of(trainer)[0] == pytest.approx(sum(losses) / 12, rel=1e-5)
    assert "no query of a micro-batch has a negative" in caplog.text


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2)])
def test_steps_whose_negatives_are_all_masked_are_counted(rows_file, tmp_path, caplog, batch, accumulation):
    caplog.set_level(logging.WARNING)
    loss = InfoNCE(0.1, false_negatives="margin", margin=-1.99)
    trainer = make_trainer(rows_file, tmp_path, batch=batch, accumulation=accumulation, steps=3, loss=loss)
    trainer.train()
    assert losses_of(trainer) == [0, 0, 0] and trainer.without_negatives == 3
    (said,) = [record.getMessage() for record in caplog.records if "negative" in record.getMessage()]
    assert said.startswith("step 1: ") and "loss.margin" in said
    unmasked = make_trainer(rows_file, tmp_path, batch=batch, accumulation=accumulation, steps=3, loss=InfoNCE(0.1))
    unmasked.train()
    assert unmasked.without_negatives == 0


def test_one_process_with_a_negative_is_enough_for_the_step_and_not_for_the_others_micro_batches(monkeypatch):
    other = np.array([1, 0, 0])
    monkeypatch.setattr(distributed, "gather_arrays", lambda array: [array, other])
    own = [0, torch.tensor(3), 0]
    assert without_negatives(own, alone=False) == 1
    assert without_negatives(own, alone=True) == 4
    assert without_negatives([], alone=False) == 0
