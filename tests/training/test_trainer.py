"""The trainer: resuming, whole steps, refusals, the base model as a candidate, precision, checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError, DataError, NonFiniteError
from e5ft.training.losses import InfoNCE, Triplet
from tests.conftest import make_rows
from tests.training.conftest import Gradients, losses_of, make_trainer, micro_batches_of, norms_of, weights_of


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
        first_pass = trainer.get_batch_samples

        def record(*args):
            result = first_pass(*args)
            seen.append(tuple(trainer._rows_in_step))
            return result

        trainer.get_batch_samples = record
        trainer.train(resume_from_checkpoint=checkpoint)
        return seen

    whole = run(tmp_path / "whole", save="steps")
    assert run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-4")) == whole[4:]
    assert len(set(whole)) == 6


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (4, 4)])
def test_the_number_of_steps_does_not_depend_on_the_cut(write_rows, tmp_path, batch, accumulation):
    """41 rows are two steps of 16 an epoch; the 9 that are left make none."""
    rows_file = write_rows(make_rows(41))
    trainer = make_trainer(rows_file, tmp_path, batch=batch, accumulation=accumulation, steps=-1, num_train_epochs=2)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.epoch == 2.0


def test_too_few_rows_for_a_step_are_refused(write_rows, tmp_path):
    trainer = make_trainer(write_rows(make_rows(15)), tmp_path, batch=4, accumulation=4)
    with pytest.raises(DataError, match="15 training rows.*16 rows"):
        trainer.train()


class BreaksAtStep(InfoNCE):
    """NaN (or a finite loss with a NaN gradient) from the third call on."""

    def __init__(self, kind: str):
        super().__init__(0.05)
        self.kind, self.calls = kind, 0

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        self.calls += 1
        loss = super().forward(embeddings, step)
        if self.calls < 3:
            return loss
        return loss * float(self.kind) if self.kind != "gradient" else loss + (0 * loss).sqrt()  # d sqrt(0) = inf, times 0


class WeightsAfterStep(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        self.step = state.global_step


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(("kind", "message", "clip"), [
    ("nan", "the loss is nan", 1.0),
    ("inf", "the loss is inf", 1.0),
    ("gradient", "norm is nan", 1.0),
    ("gradient", "norm is nan", 0.0),
])  # fmt: skip
def test_a_non_finite_step_is_refused_before_the_weights_change(rows_file, tmp_path, kind, message, accumulation, clip):
    after = WeightsAfterStep()
    trainer = make_trainer(
        rows_file, tmp_path, batch=16 // accumulation, accumulation=accumulation, loss=BreaksAtStep(kind), callbacks=[after],
        max_grad_norm=clip,
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match=f"step 3: .*{message}.* optimizer.lr") as raised:
        trainer.train()
    assert after.step == trainer.state.global_step == 2
    assert torch.equal(weights_of(trainer), after.weights) and torch.isfinite(after.weights).all()
    rows = [row for batch in list(trainer.sampler)[2 * accumulation : 3 * accumulation] for row, _ in batch]
    assert ", ".join(f"{rows_file}:{row + 1}" for row in rows[:8]) + " and 8 more" in str(raised.value)


def evaluated(rows_file, folder, scores, **arguments):
    """A run of 3 steps whose n-th evaluation says scores[n]."""
    scores = iter(scores)
    trainer = make_trainer(
        rows_file, folder, batch=4, accumulation=2, steps=3, evaluator=lambda encoder: {"ndcg@10": next(scores)},
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="ndcg@10", eval_on_start=True, **arguments,
    )  # fmt: skip
    trainer.train()
    return trainer


def test_the_base_is_the_first_candidate(rows_file, tmp_path):
    trainer = evaluated(rows_file, tmp_path, [0.5, 0.4, 0.3, 0.2])
    assert trainer.state.best_metric == 0.5
    assert trainer.state.best_model_checkpoint is None and trainer.state.best_global_step in (None, 0)
    assert [entry["eval_ndcg@10"] for entry in trainer.state.log_history if "eval_ndcg@10" in entry] == [0.5, 0.4, 0.3, 0.2]


def test_the_best_checkpoint_beats_the_base_and_is_loaded(rows_file, tmp_path):
    trainer = evaluated(rows_file, tmp_path, [0.5, 0.4, 0.6, 0.55])
    assert trainer.state.best_metric == 0.6
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.backbone.state_dict().items())


def test_a_score_that_nobody_measures_is_refused(rows_file, tmp_path):
    with pytest.raises(ConfigurationError, match="metric_for_best_model=mrr.*ndcg@10"):
        trainer = make_trainer(
            rows_file, tmp_path, batch=4, accumulation=1, evaluator=lambda encoder: {"ndcg@10": 0.5}, eval_strategy="steps",
            eval_on_start=True, metric_for_best_model="mrr",
        )  # fmt: skip
        trainer.train()


@pytest.mark.parametrize("accumulation", [1, 4])
def test_bf16_trains_on_a_cpu(rows_file, tmp_path, accumulation):
    types, runs = set(), {}
    for bf16 in (False, True):
        trainer = make_trainer(
            rows_file, tmp_path / str(bf16), batch=16 // accumulation, accumulation=accumulation, steps=4, bf16=bf16
        )
        layer = trainer.model.backbone.encoder.layer[0].intermediate.dense
        handle = layer.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
        trainer.train()
        handle.remove()
        runs[bf16] = losses_of(trainer)
    assert types == {torch.float32, torch.bfloat16}  # autocast was on in one of the two
    assert trainer.model.device.type == "cpu" and weights_of(trainer).dtype == torch.float32
    assert runs[True][-1] < runs[True][0]
    assert runs[True][0] == pytest.approx(runs[False][0], rel=0.02) and runs[True] != runs[False]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_activation_checkpointing_changes_no_gradient(rows_file, tmp_path, accumulation):
    """With dropout on: the recomputed layers must drop what the first computation dropped."""
    gradients, calls = Gradients(), []
    for number, checkpointing in enumerate((False, True)):
        trainer = make_trainer(
            rows_file, tmp_path / str(number), batch=8, accumulation=accumulation, steps=2, dropout=0.2, callbacks=[gradients],
            activation_checkpointing=checkpointing,
        )  # fmt: skip
        calls.append(0)

        def count(module, inputs, number=number):
            calls[number] += 1

        trainer.model.backbone.encoder.layer[0].attention.register_forward_pre_hook(count)
        trainer.train()
    # Each step computes its graphs (one a micro-batch) a second time.
    assert calls[1] == calls[0] + 2 * accumulation
    for plain, checkpointed in zip(gradients.steps[:2], gradients.steps[2:], strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


def test_a_checkpoint_holds_what_resuming_needs_and_no_pickled_arguments(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=2, steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert "training_args.bin" not in names and not list(tmp_path.rglob("training_args.bin"))
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names == model | {
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "progress_0.json", "manifest.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "model").iterdir()} == model


class OneMinusCosine(torch.nn.Module):
    """A loss as a user writes it: vectors and a step, no base class of ours."""

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        start, stop = step.local_rows
        query, positive = embeddings[step.query[start:stop]], embeddings[step.positive[start:stop]]
        return (1 - (query * positive).sum(dim=1)).mean()


@pytest.mark.parametrize("loss", [OneMinusCosine(), Triplet(0.3)], ids=["user's own", "triplet"])
def test_other_losses_train_and_accumulate(rows_file, tmp_path, loss):
    runs = []
    for batch, accumulation in ((16, 1), (4, 4)):
        trainer = make_trainer(rows_file, tmp_path / str(batch), batch=batch, accumulation=accumulation, steps=5, loss=loss)
        trainer.train()
        runs.append((losses_of(trainer), weights_of(trainer)))
    assert runs[0][0][-1] < runs[0][0][0]
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=0, atol=1e-4)


def test_a_loss_that_would_need_training_itself_is_refused(rows_file, tmp_path):
    loss = OneMinusCosine()
    loss.temperature = torch.nn.Parameter(torch.tensor(0.05))
    with pytest.raises(ConfigurationError, match="OneMinusCosine has parameters"):
        make_trainer(rows_file, tmp_path, batch=4, accumulation=1, loss=loss)


def test_an_unknown_meaning_of_negatives_is_refused(rows_file, tmp_path):
    with pytest.raises(ConfigurationError, match="loss.negatives='batch'"):
        make_trainer(rows_file, tmp_path, batch=4, accumulation=1, options={"negatives": "batch"})


@pytest.mark.parametrize("negatives", ["step", "micro_batch"])
def test_the_trainer_does_not_divide_the_loss_again(rows_file, tmp_path, negatives):
    """`labels` in a batch, or an unset loss_is_scaled_for_ga, would change the size of the gradient with k."""
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=4, options={"negatives": negatives})
    assert trainer.loss_is_scaled_for_ga is True
    shares, items = trainer.get_batch_samples(iter(micro_batches_of(trainer)), 4, trainer.args.device)
    assert items is None and len(shares) == 4
    assert not any("labels" in {*vars(share), *vars(share.micro_batch), *vars(share.micro_batch.step)} for share in shares)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_tokens_are_counted_once(rows_file, tmp_path, accumulation):
    trainer = make_trainer(
        rows_file, tmp_path, batch=16 // accumulation, accumulation=accumulation, steps=1, include_num_input_tokens_seen="all"
    )
    tokens = sum(len(batch.input_ids) for batch in micro_batches_of(trainer))
    trainer.train()
    assert trainer.tokens_seen == trainer.state.num_input_tokens_seen == tokens
    dense = sum(p.numel() for name, p in trainer.model.named_parameters() if "embeddings" not in name)
    assert trainer.state.total_flos == 6 * tokens * dense


def test_the_log_says_what_a_step_looked_like(rows_file, tmp_path):
    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=2, steps=1)
    batches = micro_batches_of(trainer)
    trainer.train()
    entry = trainer.state.log_history[0]
    rows = [(batch.step, i) for batch in batches for i in range(8)]
    passages = {int(b.step.text_id[i]) for b in batches for i in {*b.step.positive, *b.step.negative}}
    starts = [[0, *step.known_count.cumsum()] for step, _ in rows]
    known = [set(step.known[s[i] : s[i + 1]].tolist()) for (step, i), s in zip(rows, starts, strict=True)]
    masked = sum(len(answers & passages) for answers in known)
    assert entry["negatives_per_query"] == pytest.approx((16 * len(passages) - masked) / 16)
    assert entry["masked_share"] == pytest.approx((masked - 16) / (16 * len(passages) - 16))
    assert masked > 16  # the rows hold queries with several answers


def test_workers_change_nothing(rows_file, tmp_path):
    runs = []
    for workers in (0, 1):
        trainer = make_trainer(
            rows_file, tmp_path / str(workers), batch=4, accumulation=2, steps=2, dataloader_num_workers=workers
        )
        trainer.train()
        runs.append(losses_of(trainer))
    assert runs[0] == runs[1]


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


def scaled(trainer, scale):
    """fp16's scaler, which works on a CPU too; the arithmetic stays float32."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


def test_steps_that_the_scaler_skips_are_counted_and_training_goes_on(rows_file, tmp_path):
    trainer = scaled(make_trainer(rows_file, tmp_path, batch=8, accumulation=1, steps=8), 2.0**127)
    trainer.train()
    skipped = [entry["skipped_steps"] for entry in trainer.state.log_history if "skipped_steps" in entry]
    assert skipped == sorted(skipped) and 0 < skipped[-1] < 8  # the scale was halved until the gradient was finite


def test_only_a_row_of_skipped_steps_ends_a_run_in_fp16(rows_file, tmp_path):
    trainer = scaled(make_trainer(rows_file, tmp_path, batch=8, accumulation=1, steps=60, loss=NotANumber()), 2.0**16)
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


def test_going_on_from_the_last_step_makes_none(rows_file, tmp_path):
    options = dict(batch=4, accumulation=1, steps=3, save_strategy="steps", save_steps=3)
    whole = make_trainer(rows_file, tmp_path, **options)
    whole.train()
    again = make_trainer(rows_file, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 3
    torch.testing.assert_close(weights_of(again), weights_of(whole), rtol=0, atol=0)


def test_a_schedule_that_warm_up_leaves_no_step_is_refused_before_the_first(rows_file, tmp_path):
    """transformers' polynomial divides by the steps after warm-up, at the end of the last step."""
    options = dict(batch=16, accumulation=1, steps=2, lr_scheduler_type="polynomial", warmup_steps=2)
    with pytest.raises(ConfigurationError, match="warm-up takes all 2 steps"):
        make_trainer(rows_file, tmp_path, **options).train()
