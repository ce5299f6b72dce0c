"""The trainer: whole steps, refusals, the base model as a candidate, precision."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_utils import seed_worker

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError, NonFiniteError
from e5ft.modeling import cpu
from e5ft.training.losses import InfoNCE, Triplet
from tests.conftest import make_rows
from tests.training.conftest import Gradients, evaluated, losses_of, make_trainer, micro_batches_of, weights_of


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (4, 4)])
def test_the_number_of_steps_does_not_depend_on_the_cut(write_rows, tmp_path, batch, accumulation):
    """41 rows are two steps of 16 an epoch; the 9 that are left make none."""
    rows_file = write_rows(make_rows(41))
    trainer = make_trainer(rows_file, tmp_path, batch=batch, accumulation=accumulation, steps=-1, num_train_epochs=2)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.epoch == 2.0


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


def test_the_base_is_the_first_candidate(rows_file, tmp_path):
    trainer = evaluated(rows_file, tmp_path, [0.5, 0.4, 0.3, 0.2])
    assert trainer.state.best_metric == 0.5
    assert trainer.state.best_model_checkpoint is None and trainer.state.best_global_step in (None, 0)
    assert [entry["eval_ndcg@10"] for entry in trainer.state.log_history if "eval_ndcg@10" in entry] == [0.5, 0.4, 0.3, 0.2]


@pytest.mark.parametrize(("scores", "save_steps", "best"), [([0.5, 0.4, 0.6, 0.55], 1, 2), ([0.5, 0.6, 0.4, 0.3], 3, 1)])
def test_the_best_checkpoint_beats_the_base_and_is_loaded(rows_file, tmp_path, scores, save_steps, best):
    """The best step is saved also where it lies between two saves."""
    trainer = evaluated(rows_file, tmp_path, scores, save_steps=save_steps)
    assert trainer.state.best_metric == 0.6
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    saved = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.backbone.state_dict().items())


@pytest.mark.parametrize(("scores", "lowered"), [([0.1, 0.2, 0.3, 0.4], False), ([0.4, 0.3, 0.2, 0.1], True)])
def test_a_rate_that_follows_the_score_falls_where_the_score_does(rows_file, tmp_path, scores, lowered):
    schedule = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}}
    trainer = evaluated(rows_file, tmp_path, scores, **schedule)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert (rates[-1] < rates[0]) == lowered


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


def test_what_cannot_be_trained_is_refused(rows_file, tmp_path):
    loss = OneMinusCosine()
    loss.temperature = torch.nn.Parameter(torch.tensor(0.05))
    with pytest.raises(ConfigurationError, match="OneMinusCosine has parameters"):
        make_trainer(rows_file, tmp_path, batch=4, accumulation=1, loss=loss)


@pytest.mark.parametrize("negatives", ["step", "micro_batch"])
def test_the_trainer_does_not_divide_the_loss_again(rows_file, tmp_path, negatives):
    """`labels` in a batch, or an unset loss_is_scaled_for_ga, would change the size of the gradient with k."""
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=4, options={"negatives": negatives})
    assert trainer.loss_is_scaled_for_ga is True
    cached, items = trainer.get_batch_samples(iter(micro_batches_of(trainer)), 4, trainer.args.device)
    assert items is None and len(cached) == 4
    assert not any("labels" in {*vars(each), *vars(each.micro_batch), *vars(each.micro_batch.step)} for each in cached)


def test_freed_memory_is_given_back_every_ten_steps(rows_file, tmp_path, monkeypatch):
    trainer, steps = make_trainer(rows_file, tmp_path, batch=4, accumulation=1, steps=21), []
    monkeypatch.setattr(cpu, "release_freed_memory", lambda: steps.append(trainer.state.global_step))
    trainer.train()
    assert steps == [0, 10, 20]


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


def test_the_loader_gets_every_field_of_the_arguments(rows_file, tmp_path):
    """Except for the order: batches as workers finish them would mix the micro-batches of neighbouring steps."""
    fields = {"num_workers": 2, "prefetch_factor": 3, "persistent_workers": True, "multiprocessing_context": "spawn"}
    arguments = {f"dataloader_{name}": value for name, value in (fields | {"in_order": False}).items()}
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=1, **arguments)
    loader = trainer.get_train_dataloader()
    assert loader.in_order
    assert loader.multiprocessing_context.get_start_method() == fields.pop("multiprocessing_context")
    assert {name: getattr(loader, name) for name in fields} == fields
    assert loader.worker_init_fn.func is seed_worker and loader.worker_init_fn.keywords == {"num_workers": 2, "rank": 0}
    trainer.args.dataloader_num_workers = 0  # for which torch takes none of the others
    assert trainer.get_train_dataloader().multiprocessing_context is None


def test_workers_change_nothing(rows_file, tmp_path):
    runs = []
    for workers in (0, 1):
        trainer = make_trainer(
            rows_file, tmp_path / str(workers), batch=4, accumulation=2, steps=2, dataloader_num_workers=workers
        )
        trainer.train()
        runs.append(losses_of(trainer))
    assert runs[0] == runs[1]


def test_a_schedule_that_warm_up_leaves_no_step_is_refused_before_the_first(rows_file, tmp_path):
    """transformers' polynomial divides by the steps after warm-up, at the end of the last step."""
    options = dict(batch=16, accumulation=1, steps=2, lr_scheduler_type="polynomial", warmup_steps=2)
    with pytest.raises(ConfigurationError, match="warm-up takes all 2 steps"):
        make_trainer(rows_file, tmp_path, **options).train()
