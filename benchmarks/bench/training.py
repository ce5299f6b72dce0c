"""A training step in both real trainers, and in ours with either meaning of accumulation."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import AutoTokenizer, PrinterCallback, TrainingArguments

from benchmarks.bench.flops import matmul_rate, training_flops
from benchmarks.bench.models import our_encoder, their_model, write_model
from benchmarks.bench.processes import hand_over
from benchmarks.bench.texts import TOKENIZER, write_rows
from benchmarks.bench.turns import Clock
from e5ft.data.collator import TrainingRows
from e5ft.data.sampler import StepSampler
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.data.text import TextSpec
from e5ft.files import read_json, write_json
from e5ft.modeling.compact import compact
from e5ft.training.losses import InfoNCE
from e5ft.training.trainer import ContrastiveTrainer

TEMPERATURE = 0.01  # E5's
OURS, PLAIN, CACHED = "e5ft", "MNRL", "cached MNRL"
_ADAMW = {"lr": 2e-5, "weight_decay": 0.01}
COMMON = {
    "seed": 0, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    "learning_rate": _ADAMW["lr"], "weight_decay": _ADAMW["weight_decay"], "max_grad_norm": 1.0, "optim": "adamw_torch_fused",
}  # fmt: skip


def prepare(folder: Path, *, target: str, shape: str, data: str, steps: int, rows: int) -> dict:
    """Write weights and rows for several processes.

    Returns:
        {"flops": of each step of `rows` rows, "tokens": of a step on average, "hidden": the model's width, "rows": as given}.
    """
    place = Path(target)
    place.mkdir(parents=True, exist_ok=True)
    encoder = our_encoder(write_model(shape, place))
    write_rows(place / "rows.jsonl", encoder.tokenizer, steps * rows, data)
    dense = sum(p.numel() for name, p in encoder.named_parameters() if "embeddings" not in name)
    shape_of = {"weights": dense, "layers": encoder.config.num_hidden_layers, "hidden": encoder.config.hidden_size}
    write_json(place / "shape.json", shape_of)
    costs = costs_of_steps(place, steps, rows)
    tokens = int(np.mean([cost["tokens"] for cost in costs]))
    return {"flops": [cost["flops"] for cost in costs], "tokens": tokens, "hidden": shape_of["hidden"], "rows": rows}


def costs_of_steps(place: Path, steps: int, rows: int) -> list[dict]:
    """{"flops", "tokens"} of the first steps of `rows` rows over what `prepare` wrote."""
    dataset, shape = _dataset(place), read_json(place / "shape.json")
    order = _order(dataset, rows)[: steps * rows].reshape(steps, rows)
    tokens = [[dataset.tokens[int(row)] for row in step] for step in order]
    lengths = [[len(t) for row in step for t in (row["query"], *row["positives"], *row["negatives"])] for step in tokens]
    return [{"flops": training_flops(**shape, lengths=step), "tokens": sum(step)} for step in lengths]


def rate(folder: Path, *, tokens: int, hidden: int, bf16: bool, turns: int) -> dict:
    """The machine's own rate at the model's shape, once a turn: what disturbs the machine disturbs it, too."""
    found = []
    for _ in range(turns):
        found.append(matmul_rate(tokens, hidden, torch.bfloat16 if bf16 else torch.float32))
        hand_over()
    return {"rates": found}


def contender(
    folder: Path, *, target: str, name: str, steps: int, rows: int, k: int = 1, negatives: str = "step", bf16: bool = False,
    fp16: bool = False, dropout: float = 0.1, attention_dropout: float = 0.1, device: str = "cpu", kernel: str | None = None,
) -> dict:  # fmt: skip
    """Train with one trainer on what `prepare` wrote, a turn a step; `rows` of one forward pass, k of them a step.

    `kernel` is the other side's attention, by transformers' name.
    """
    clock, place = Clock(), Path(target)
    common = {**COMMON, "output_dir": str(folder), "max_steps": steps, "bf16": bf16, "fp16": fp16, "use_cpu": device == "cpu"}
    common |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": k}
    if name == OURS:
        trainer = our_trainer(place, common, [clock], dropouts=(dropout, attention_dropout), negatives=negatives)
    else:
        model = their_model(place / "model", dropout, attention_dropout, device, kernel)
        trainer = _theirs(place, common, name, clock, model)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.record()


def our_trainer(
    place: Path, common: dict, callbacks: list, *, dropouts: tuple[float, float] = (0.1, 0.1), negatives: str = "step",
) -> ContrastiveTrainer:  # fmt: skip
    """Our trainer of what `prepare` wrote, with transformers' arguments `common`."""
    encoder, (dataset, vocabulary) = our_encoder(place / "model", *dropouts, "cpu" if common["use_cpu"] else "cuda"), _rows(place)
    # As train.py does. The shipped tokenizer has few pieces; a tenth of mE5's is what a Korean training set meets.
    compact(encoder, {*vocabulary, *range(encoder.config.vocab_size // 10)})
    return ContrastiveTrainer(
        encoder,
        TrainingArguments(**common, remove_unused_columns=False),
        dataset,
        InfoNCE(temperature=TEMPERATURE),
        negatives=negatives,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=(torch.optim.AdamW, {**_ADAMW, "fused": True}),
    )


def _theirs(place: Path, common: dict, name: str, clock: Clock, model):
    import datasets
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

    text, dataset = TextSpec(), _dataset(place)
    store = load_rows(str(place / "rows.jsonl"), Columns(), place / "cache").rows
    rows = [store[int(row)] for row in _order(dataset, common["per_device_train_batch_size"])]
    columns = {
        "anchor": [text.query(row["query"]) for row in rows],
        "positive": [text.passage(row["positives"][0]) for row in rows],
        "negative": [text.passage(row["negatives"][0]) for row in rows],
    }
    loss = {PLAIN: MultipleNegativesRankingLoss, CACHED: CachedMultipleNegativesRankingLoss}[name]
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**common, batch_sampler=_in_order),
        train_dataset=datasets.Dataset.from_dict(columns),
        loss=loss(model, scale=1 / TEMPERATURE),
        callbacks=[clock],
    )


def _dataset(place: Path) -> TrainingRows:
    return _rows(place)[0]


def _rows(place: Path) -> tuple[TrainingRows, np.ndarray]:
    """The rows, and the token ids that occur in them."""
    store = load_rows(str(place / "rows.jsonl"), Columns(), place / "cache")
    tokens = tokenize_rows(store, AutoTokenizer.from_pretrained(TOKENIZER), TextSpec(), place / "cache")
    return TrainingRows(store, tokens, 1), tokens.vocabulary()


def _order(dataset: TrainingRows, rows: int) -> np.ndarray:
    """The order in which our sampler deals the rows out; theirs get them in the same one."""
    return StepSampler(len(dataset), rows, seed=0).epoch_steps(0).reshape(-1)


def _in_order(dataset, batch_size: int, drop_last: bool, **_: object) -> BatchSampler:
    """sentence-transformers' batches in the order of the rows."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)
