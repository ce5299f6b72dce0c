"""Exact accumulation beside the usual one that forgets the other micro-batches: time, and memory as the step grows."""

from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainingArguments

from benchmarks.bench.models import our_encoder, write_model
from benchmarks.bench.texts import write_rows
from benchmarks.bench.turns import Clock, run_in_turns
from e5ft.data.collator import TrainingRows
from e5ft.data.rows import Columns
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.training.losses import InfoNCE
from e5ft.training.trainer import ContrastiveTrainer


def compare(folder: Path, *, shape: str, data: str, micro_batch: int, k: int, steps: int) -> dict:
    """Steps of k micro-batches in turn, negatives from the step ("exact") and from the micro-batch ("plain")."""
    model = write_model(shape, folder)
    _rows(folder, model, micro_batch * k * (steps + 1), data)
    makers = {
        name: partial(_trainer, folder, model, micro_batch, k, steps + 1, meaning)
        for name, meaning in (("exact", "step"), ("plain", "micro_batch"))
    }
    clocks = run_in_turns(makers, warmup=1)
    return {"wall": {n: c.wall for n, c in clocks.items()}, "cpu": {n: c.cpu for n, c in clocks.items()}}


def memory(folder: Path, *, shape: str, data: str, micro_batch: int, rows: int) -> dict:
    """The peak of a process (measured outside) that trains one exact step of so many rows, and the step's seconds."""
    model = write_model(shape, folder)
    _rows(folder, model, rows, data)
    clock = run_in_turns({"exact": partial(_trainer, folder, model, micro_batch, rows // micro_batch, 1, "step")}, warmup=1)
    return {"loss": clock["exact"].losses}


def _rows(folder: Path, model: Path, count: int, data: str) -> None:
    write_rows(folder / "rows.jsonl", our_encoder(model).tokenizer, count, data)


def _trainer(folder: Path, model: Path, micro_batch: int, k: int, steps: int, negatives: str, clock: Clock):
    encoder = our_encoder(model, 0.1, 0.1)
    store = load_rows(str(folder / "rows.jsonl"), Columns(), folder / "cache")
    dataset = TrainingRows(store, tokenize_rows(store, encoder.tokenizer, encoder.spec.text, folder / "cache"), 1)
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), per_device_train_batch_size=micro_batch, gradient_accumulation_steps=k, max_steps=steps,
        use_cpu=True, seed=0, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        remove_unused_columns=False, learning_rate=2e-5,
    )  # fmt: skip
    optimizer = (torch.optim.AdamW, {"lr": 2e-5, "fused": True})
    trainer = ContrastiveTrainer(
        encoder, arguments, dataset, InfoNCE(temperature=0.01), negatives=negatives, callbacks=[clock],
        optimizer_cls_and_kwargs=optimizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer
