"""What training takes, measured by trying: a step's time and memory, encoding's time, and the largest micro-batch that fits.

With exact accumulation a step of B x k queries has one loss however it is divided, so its division may follow the memory. The trial
is the worst case of the sampler: the longest rows, no text shared, and the vectors and scores of a whole step.
"""

import contextlib
import dataclasses
import gc
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from e5ft import distributed
from e5ft.data.collator import Example, MicroBatch, TrainingRows, collate
from e5ft.data.sampler import balanced_partition
from e5ft.data.step import Step, join
from e5ft.errors import ConfigurationError, OutOfMemoryError
from e5ft.modeling import cpu
from e5ft.training.accumulation import CachedMicroBatch, surrogate

if TYPE_CHECKING:  # commands that do not train import this module too
    from e5ft.training.trainer import ContrastiveTrainer

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")
_OPTIMIZER_STATE = 2  # numbers a trained weight: AdamW's two moments
_QUICK = 1.0  # seconds; what takes less is timed once more, without what libraries do once
_TRIED_WEIGHTS = 2**23  # of which the time of the optimizer's step is measured, at most
_ENCODED_TOKENS = 16_384  # by which encoding is measured, at most
_HOLES = 1.1  # of a process's memory on a CPU: what freed memory leaves unused until it is given back (docs/log.md)


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What training takes on this process.

    Attributes:
        seconds: of a step of rows of all lengths: its passes, and the optimizer's step.
        encoded_per_second: tokens of texts that are embedded for ranking.
        memory: the most bytes that the process, on a GPU its tensors, will hold, the optimizer's state included; None if unknown.
        growth: bytes of it that are still to be taken.
    """

    seconds: float
    encoded_per_second: float
    memory: int | None
    growth: int = 0


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch, on any device, means that memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def cuts(batch: int, accumulation: int) -> list[tuple[int, int]]:
    """Return the divisions (micro-batch, accumulation) of one process's part of a step, in descending order of the micro-batch."""
    rows = batch * accumulation
    return [(size, rows // size) for size in range(batch, 0, -1) if rows % size == 0]


def fit_micro_batch(trainer: "ContrastiveTrainer") -> tuple[int, int]:
    """Divide the trainer's steps into the largest micro-batches that fit, at most the configured ones.

    Nothing else changes: neither weights nor gradients nor random states. All processes take the same division.

    Args:
        trainer: before `train()`; its arguments' micro-batch and accumulation are set to the result.

    Returns:
        (micro-batch, accumulation).

    Raises:
        ConfigurationError: the micro-batch is part of the loss's meaning.
        OutOfMemoryError: a micro-batch of one query does not fit.
    """
    args = trainer.args
    if trainer.negatives == "micro_batch":
        raise ConfigurationError(
            "training.fit_micro_batch=true with step.negatives=micro_batch: a smaller micro-batch would have fewer negatives; "
            "use step.negatives=step"
        )
    trainer.make_sampler()  # refuses fewer rows than one step
    for batch, accumulation in cuts(args.per_device_train_batch_size, args.gradient_accumulation_steps):
        if not distributed.any_process(not _fits(trainer, batch, accumulation)):
            trainer.set_micro_batch(batch, accumulation)
            return batch, accumulation
    raise OutOfMemoryError(
        "training.fit_micro_batch=true: a micro-batch of one query does not fit. These leave the step as it is: "
        "training.activation_checkpointing=true, training.bf16=true, model.lora.rank=16. "
        "Shorter texts (model.text.passage_max_length) and fewer negatives (data.negatives_per_query) change it."
    )


def measure_step(trainer: "ContrastiveTrainer") -> StepCost:
    """Run the passes of the largest micro-batch and of a usual one; neither weights nor gradients nor random states change.

    A step of k micro-batches embeds all but the first twice (see accumulation.py): once without gradient, once with.

    Args:
        trainer: before `train()`.
    """
    args, device = trainer.args, trainer.args.device
    cut = args.per_device_train_batch_size, args.gradient_accumulation_steps
    by_length, count = np.argsort(-trainer.train_dataset.most_tokens, kind="stable"), cut[0] * cut[1]
    usual = _micro_batches(trainer, by_length[(2 * np.arange(count) + 1) * len(by_length) // (2 * count)], cut[1])
    rows, first = trainer.train_dataset, usual[0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # a larger micro-batch may have been tried before
    with _untouched(trainer):
        _run(trainer, worst_step(trainer, *cut))  # the largest first: it pays for what libraries do once
        passes = cut[1] * _seconds(lambda: _run(trainer, usual), device)
        if cut[1] > 1 and trainer.negatives == "step":
            passes += (cut[1] - 1) * _seconds(lambda: _embed_only(trainer, first), device)
    memory = _memory(trainer)
    passes *= rows.most_tokens.mean() * cut[0] / len(first.input_ids)
    return StepCost(passes + _optimizer_seconds(trainer), _encoding_speed(trainer, usual), *memory)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long work takes; what is quick is done twice, and the second time counts."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        if seconds > _QUICK:
            break
    return seconds


def _embed_only(trainer: "ContrastiveTrainer", batch: MicroBatch) -> None:
    with torch.no_grad(), trainer.accelerator.autocast():
        trainer._embed(batch.to(trainer.args.device), 0)


def _optimizer_seconds(trainer: "ContrastiveTrainer") -> float:
    """Measure clipping and the optimizer's step on weights like the model's, where these are many on some for all."""
    kind, options = trainer.optimizer_cls_and_kwargs or (torch.optim.AdamW, {})
    sizes = [parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad]
    tried = np.diff(np.minimum(np.cumsum([0, *sizes]), _TRIED_WEIGHTS)).tolist()
    copies = [torch.zeros(count, device=trainer.args.device, requires_grad=True) for count in tried if count]
    for copy in copies:
        copy.grad = torch.ones_like(copy)
    optimizer = kind(copies, **options)

    def step() -> None:
        """Clip and step."""
        torch.nn.utils.clip_grad_norm_(copies, 1.0)
        optimizer.step()

    step()  # makes the state
    return _seconds(step, trainer.args.device) * sum(sizes) / sum(tried)


def _encoding_speed(trainer: "ContrastiveTrainer", micro_batches: Sequence[MicroBatch]) -> float:
    """Measure how many tokens a second are embedded for ranking, by texts of a step."""
    pieces = [ids for batch in micro_batches for ids in torch.as_tensor(batch.input_ids).cpu().split(list(batch.lengths))]
    limit = cpu.max_concurrent_tokens(_ENCODED_TOKENS) if trainer.args.device.type == "cpu" else _ENCODED_TOKENS
    texts, total = [], 0
    for ids in itertools.cycle(pieces):
        texts.append(ids.numpy())
        total += len(ids)
        if total >= limit:
            break
    return total / _seconds(lambda: trainer.model.encode_tokens(texts), trainer.args.device)


def _memory(trainer: "ContrastiveTrainer") -> tuple[int | None, int]:
    """Return the most bytes that the process will hold, None if unknown, and how many of them are still to be taken."""
    device = trainer.args.device
    if device.type == "cuda":
        peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        return peak, peak - held  # the trial took room for the optimizer's state too
    state = 4 * _OPTIMIZER_STATE * sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    cpu.release_freed_memory()
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak, held = (int(re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024 for name in ("VmHWM", "VmRSS"))
    except (OSError, TypeError):  # not Linux; some sandboxes tell no peak
        return None, 0
    memory = int(_HOLES * (peak + state))  # the trial's room for the optimizer's state was never written to
    return memory, memory - held


def worst_step(trainer: "ContrastiveTrainer", batch: int, accumulation: int) -> list[MicroBatch]:
    """Return the micro-batches of one process's part of the largest step, the largest micro-batch first.

    No micro-batch of the sampler has more tokens than the first one.
    """
    by_length = np.argsort(-trainer.train_dataset.most_tokens, kind="stable")
    return _micro_batches(trainer, by_length[: batch * accumulation], accumulation)


def _micro_batches(trainer: "ContrastiveTrainer", chosen: np.ndarray, accumulation: int) -> list[MicroBatch]:
    """Return a step of the chosen rows, each with its longest texts, as micro-batches, the largest first."""
    rows = trainer.train_dataset
    tokens = rows.most_tokens
    parts = balanced_partition(chosen, tokens, accumulation)
    parts = parts[np.argsort(-tokens[parts].sum(axis=1), kind="stable")]
    vectors = {name: _Constant(rows, name) for name in rows.vectors}
    numbers = iter(range(len(chosen)))
    return [collate([(int(row), _largest(rows, int(row), next(numbers))) for row in part], vectors) for part in parts]


def _largest(rows: TrainingRows, row: int, number: int) -> Example:
    """Return a row with its longest texts, under identities that only this number has, so that no text counts for two."""
    tokens = rows.tokens[row]
    positives = sorted(tokens["positives"], key=len, reverse=True)[: 1 if rows.positives == "sample" else None]
    negatives = sorted(tokens["negatives"], key=len, reverse=True)[: rows.limit]
    first = number << 24
    positive_ids = range(first, first + len(positives))
    scored = bool(rows.ids[row]["scores"])
    return Example(
        query=tokens["query"] if rows.augmentation is None else rows.augmentation.longest_query(row, tokens["query"]),
        positives=positives,
        negatives=negatives,
        query_id=first,
        positive_ids=positive_ids,
        negative_ids=range(positive_ids.stop, positive_ids.stop + len(negatives)),
        known=np.array(positive_ids),
        positive_scores=[0.0] * len(positives) if scored else None,
        negative_scores=[0.0] * len(negatives) if scored else None,
    )


class _Constant:
    """Stands in for another model's vectors of identities that it does not know."""

    def __init__(self, rows: TrainingRows, name: str):
        first = rows.ids[0]
        self.like = rows.vectors[name].of("query", np.array([first["query_id"]]), first.get("source", 0))  # (1, D')

    def of(self, role: str, ids: np.ndarray, source: int = 0) -> np.ndarray:
        """Return (n, D') float32."""
        return np.repeat(self.like, len(ids), axis=0)


def _fits(trainer: "ContrastiveTrainer", batch: int, accumulation: int) -> bool:
    """Whether the worst step fits on this process. It makes no collective call: one process may fail where others do not."""
    micro_batches = worst_step(trainer, batch, accumulation)
    try:
        with _untouched(trainer):
            _run(trainer, micro_batches)
        return True
    except Exception as error:  # not kept: its traceback holds the tensors
        if not out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
        if trainer.args.device.type == "cuda":
            torch.cuda.empty_cache()


def _run(trainer: "ContrastiveTrainer", micro_batches: Sequence[MicroBatch]) -> None:
    """Run forward and backward of the first micro-batch with the loss of the whole step and invented vectors of the others."""
    device, processes = trainer.args.device, trainer.args.world_size
    weights = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    # Memory that is taken from the second step on: the optimizer's state, and DDP's copy of the gradient.
    beside = [torch.empty_like(weight) for weight in weights for _ in range(_OPTIMIZER_STATE + (processes > 1))]
    with trainer.accelerator.autocast():
        first = trainer._embed(micro_batches[0].to(device), 0)
    step = _everyones(join([batch.step for batch in micro_batches]), processes)
    if len(micro_batches) == 1:
        loss = trainer.loss(torch.cat([first, *[first.detach()] * (processes - 1)]), step)
    else:
        others = torch.nn.functional.normalize(first.new_ones(sum(len(b.lengths) for b in micro_batches[1:]), first.shape[1]))
        leaf = torch.cat([first.detach(), others]).float().requires_grad_()
        value = trainer.loss(torch.cat([leaf] * processes), step)
        (gradient,) = torch.autograd.grad(value, leaf)
        loss = surrogate(
            first, CachedMicroBatch(micro_batches[0], 0, value.detach() / len(micro_batches), gradient[: len(first)])
        )
    torch.autograd.grad(loss, weights, allow_unused=True)
    del beside


def _everyones(local: Step, processes: int) -> Step:
    """Return the step of all processes, each of which has as many rows as this one."""
    moved = [
        dataclasses.replace(local, **{name: getattr(local, name) + (rank << 48) for name in ("text_id", "query_id", "known")})
        for rank in range(processes)
    ]
    return local if processes == 1 else join(moved, local=0)


@contextlib.contextmanager
def _untouched(trainer: "ContrastiveTrainer") -> Iterator[None]:
    """Set the model up as in training; at the end restore its mode, the loss's statistics and the random states."""
    args, encoder, training = trainer.args, trainer.model, trainer.model.training
    statistics = getattr(trainer.loss, "statistics", None)
    if args.activation_checkpointing:  # Trainer switches it on only in train()
        encoder.activation_checkpointing_enable(args.activation_checkpointing_kwargs)
    try:
        with torch.random.fork_rng(devices=[args.device] if args.device.type == "cuda" else []):
            encoder.train()
            yield
    finally:
        encoder.train(training)
        if statistics is not None:
            trainer.loss.statistics = statistics
