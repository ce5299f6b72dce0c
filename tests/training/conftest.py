"""A trainer over small rows, built the same way in one process and in several."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from e5ft.data.augmentation import make_augmentation
from e5ft.data.collator import TrainingRows
from e5ft.data.settings import Augment, Columns
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.retrieval.guide import guide_vectors
from e5ft.training.losses import InfoNCE
from e5ft.training.trainer import ContrastiveTrainer
from tests.conftest import make_encoder, make_rows


@pytest.fixture
def rows_file(write_rows):
    return write_rows(make_rows(100))


def make_dataset(
    rows_file: str,
    cache: Path,
    encoder,
    *,
    guide_seed: int | None = None,
    positives: str = "sample",
    augment: Augment | None = None,
) -> TrainingRows:
    """With `guide_seed`, steps carry the vectors of another random model ("guide") and of the encoder as it is ("base")."""
    store = load_rows(rows_file, Columns(), cache)
    vectors = {}
    if guide_seed is not None:
        models = {"guide": make_encoder(seed=guide_seed), "base": encoder}
        vectors = {name: guide_vectors(model, store, cache) for name, model in models.items()}
    how = store, encoder.tokenizer, encoder.spec.text, cache
    noise = make_augmentation(*how, augment or Augment(), seed=5)
    return TrainingRows(store, tokenize_rows(*how), positives=positives, vectors=vectors, augmentation=noise)


def make_trainer(
    rows_file: str, folder: Path, *, batch: int, accumulation: int, steps: int = 8, dropout: float = 0.0, encoder=None, loss=None,
    evaluator=None, cls=ContrastiveTrainer, options=None, callbacks=None, guide_seed=None, positives="sample", augment=None, **arguments,
):  # fmt: skip
    encoder = encoder if encoder is not None else make_encoder(dropout=dropout)
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=steps,
        learning_rate=1e-3, report_to="none", use_cpu=True, seed=5, disable_tqdm=True,
        remove_unused_columns=False, logging_nan_inf_filter=False, ddp_find_unused_parameters=False, ddp_broadcast_buffers=False,
        **{"save_strategy": "no", "logging_steps": 1, **arguments},
    )  # fmt: skip
    cache = Path(rows_file).parent / "cache"
    dataset = make_dataset(rows_file, cache, encoder, guide_seed=guide_seed, positives=positives, augment=augment)
    loss = loss if loss is not None else InfoNCE(temperature=0.05)
    return cls(
        encoder, args, dataset, loss, evaluator, optimizer_cls_and_kwargs=(torch.optim.AdamW, {"lr": 1e-3}),
        callbacks=callbacks, **(options or {}),
    )  # fmt: skip


def evaluated(rows_file, folder, scores, checkpoint=None, **arguments):
    """A run of 3 steps whose n-th evaluation returns scores[n]."""
    scores = iter(scores)
    fixed = dict(
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="ndcg@10", eval_on_start=True,
    )  # fmt: skip
    trainer = make_trainer(
        rows_file, folder, batch=4, accumulation=2, evaluator=lambda encoder: {"ndcg@10": next(scores)},
        **{"steps": 3, **fixed, **arguments},
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(folder / checkpoint))
    return trainer


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def norms_of(trainer) -> list[float]:
    return [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]


def weights_of(trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def gradient_of(encoder) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()])


class Gradients(TrainerCallback):
    """Keeps every step's gradient as the optimizer gets it, all parameters in one row."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(gradient_of(model))


def micro_batches_of(trainer, step: int = 0) -> list:
    """The micro-batches of one step of the first epoch."""
    k = trainer.args.gradient_accumulation_steps
    return list(trainer.get_train_dataloader())[step * k : (step + 1) * k]
