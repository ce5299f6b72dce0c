"""A training step in both real trainers: time, memory, and the share of the machine's own rate."""

import resource
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import PrinterCallback, TrainingArguments

from benchmarks.bench.flops import matmul_rate, training_flops
from benchmarks.bench.lines import check_same
from benchmarks.bench.models import our_encoder, their_model, write_model
from benchmarks.bench.texts import write_rows
from benchmarks.bench.turns import Clock, run_in_turns
from e5ft.data.collator import TrainingRows
from e5ft.data.rows import Columns
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.training.losses import InfoNCE
from e5ft.training.trainer import ContrastiveTrainer

TEMPERATURE = 0.01  # E5's
OURS, PLAIN, CACHED = "e5ft", "MNRL", "cached MNRL"
SAME_LOSS = 1e-3
_LEARNING = {"learning_rate": 2e-5, "weight_decay": 0.01, "max_grad_norm": 1.0, "optim": "adamw_torch_fused"}


def compare(
    folder: Path, *, shape: str, data: str, bf16: bool, attention_dropout: float, steps: int, rows: int, contenders: list[str]
) -> dict:
    """Steps in turn, the same rows in the same step for all; dropout .1.

    Returns:
        {"wall", "cpu": contender -> seconds of each timed step, "flops": of each of ours, "rate": FLOP/s of the machine}.
    """
    cell = _Cell(folder, shape, data, bf16, 0.1, attention_dropout, steps + 1, rows)
    dense = sum(p.numel() for name, p in cell.encoder().named_parameters() if "embeddings" not in name)
    config = cell.encoder().config
    flops = [
        training_flops(dense, config.num_hidden_layers, config.hidden_size, lengths) for lengths in cell.lengths_by_step()[1:]
    ]
    tokens = int(np.mean([sum(lengths) for lengths in cell.lengths_by_step()]))
    rate = partial(matmul_rate, tokens, config.hidden_size, torch.bfloat16 if bf16 else torch.float32)
    before = rate()
    clocks = run_in_turns({name: partial(cell.trainer, name) for name in contenders}, warmup=1)
    return {
        "wall": {name: clock.wall for name, clock in clocks.items()},
        "cpu": {name: clock.cpu for name, clock in clocks.items()},
        "flops": flops,
        "tokens": tokens,
        "rate": max(before, rate()),
    }


def check(folder: Path, *, shape: str, data: str, rows: int, contenders: list[str]) -> dict:
    """Step 1 without dropout, in fp32: all contenders' losses.

    Raises:
        Void: they differ by more than 1e-3.
    """
    cell = _Cell(folder, shape, data, False, 0.0, 0.0, 1, rows)
    losses = {}
    for name in contenders:
        clock = run_in_turns({name: partial(cell.trainer, name)}, warmup=1)[name]
        losses[name] = clock.losses[0]
        check_same(f"{shape}, {data}: loss of step 1, e5ft against {name}", losses[contenders[0]], losses[name], SAME_LOSS)
    return {"losses": losses}


def memory(folder: Path, *, shape: str, data: str, bf16: bool, steps: int, rows: int, contender: str, model: str) -> dict:
    """The peak of one contender's process over a few steps, made from a finished model folder."""
    cell = _Cell(folder, shape, data, bf16, 0.1, 0.1, steps, rows, Path(model))
    run_in_turns({contender: partial(cell.trainer, contender)}, warmup=1)
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class _Cell:
    """Model, rows and trainers of one comparison."""

    def __init__(
        self, folder: Path, shape: str, data: str, bf16: bool, dropout: float, attention_dropout: float, steps: int, rows: int,
        model: Path | None = None,
    ):  # fmt: skip
        self.folder, self.bf16, self.steps, self.rows = folder, bf16, steps, rows
        self.dropouts = dropout, attention_dropout
        self.model = model if model is not None else write_model(shape, folder)
        self.file = folder / "rows.jsonl"
        self._encoder = self.encoder()
        self.texts = write_rows(self.file, self._encoder.tokenizer, steps * rows, data)

    def encoder(self):
        """A new encoder of the cell's weights."""
        return our_encoder(self.model, *self.dropouts)

    def lengths_by_step(self) -> list[list[int]]:
        """Tokens of every text of each step, in the order of the steps."""
        dataset = self._dataset(self._encoder)
        order = self._order(dataset)
        return [
            [len(text) for row in step for text in _texts(dataset.tokens[int(row)])] for step in order.reshape(-1, self.rows)
        ]

    def trainer(self, name: str, clock: Clock):
        """The contender's own trainer."""
        trainer = self._ours(clock) if name == OURS else self._theirs(name, clock)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _arguments(self, kind: type = TrainingArguments, **more):
        return kind(
            output_dir=str(self.folder / "out"), per_device_train_batch_size=self.rows, max_steps=self.steps, bf16=self.bf16,
            use_cpu=True, seed=0, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, **_LEARNING, **more,
        )  # fmt: skip

    def _dataset(self, encoder) -> TrainingRows:
        store = load_rows(str(self.file), Columns(), self.folder / "cache")
        return TrainingRows(store, tokenize_rows(store, encoder.tokenizer, encoder.spec.text, self.folder / "cache"), 1)

    def _order(self, dataset: TrainingRows) -> np.ndarray:
        """The order in which our sampler deals the rows; theirs get them in the same one."""
        from e5ft.data.sampler import StepSampler

        return StepSampler(len(dataset), self.rows, seed=0).epoch_steps(0).reshape(-1)

    def _ours(self, clock: Clock) -> ContrastiveTrainer:
        encoder = self.encoder()
        optimizer = (torch.optim.AdamW, {"lr": _LEARNING["learning_rate"], "weight_decay": _LEARNING["weight_decay"], "fused": True})
        arguments = self._arguments(remove_unused_columns=False)
        loss = InfoNCE(temperature=TEMPERATURE)
        dataset = self._dataset(encoder)
        return ContrastiveTrainer(encoder, arguments, dataset, loss, callbacks=[clock], optimizer_cls_and_kwargs=optimizer)

    def _theirs(self, name: str, clock: Clock):
        import datasets
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

        model = their_model(self.model, *self.dropouts)
        text = self._encoder.spec.text
        rows = [self.texts[int(i)] for i in self._order(self._dataset(self._encoder))]
        columns = {
            "anchor": [text.query(row["query"]) for row in rows],
            "positive": [text.passage(row["document"]) for row in rows],
            "negative": [text.passage(row["hard_negative"]) for row in rows],
        }
        losses = {PLAIN: MultipleNegativesRankingLoss, CACHED: CachedMultipleNegativesRankingLoss}
        return SentenceTransformerTrainer(
            model=model,
            args=self._arguments(SentenceTransformerTrainingArguments, batch_sampler=_in_order),
            train_dataset=datasets.Dataset.from_dict(columns),
            loss=losses[name](model, scale=1 / TEMPERATURE),
            callbacks=[clock],
        )


def _in_order(dataset, batch_size: int, drop_last: bool, **_: object) -> BatchSampler:
    """sentence-transformers' batches in the order of the rows."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def _texts(tokens: dict) -> list:
    return [tokens["query"], *tokens["positives"], *tokens["negatives"]]


def write(folder: Path, *, shape: str, target: str) -> dict:
    """Make the weights once for several processes that measure memory."""
    write_model(shape, Path(target))
    return {}


