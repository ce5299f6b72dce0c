"""`ContrastiveTrainer`: transformers' Trainer with whole steps, exact accumulation and retrieval evaluation."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import seed_worker

from e5ft import distributed, gathering
from e5ft.data.collator import MicroBatch, TrainingRows, collate
from e5ft.data.mixing import MixSampler
from e5ft.data.sampler import DistributedStepSampler, StepSampler
from e5ft.data.settings import Mix
from e5ft.data.step import Step
from e5ft.errors import ConfigurationError, NonFiniteError
from e5ft.modeling import cpu
from e5ft.modeling.compact import apply_weight_decay_to_frozen_rows
from e5ft.modeling.encoder import Encoder
from e5ft.training.accumulation import CachedMicroBatch, first_pass, surrogate, whole_step
from e5ft.training.losses import WITH_NEGATIVES
from e5ft.training.negatives import check_negatives, without_negatives
from e5ft.training.resuming import ResumableTrainer
from e5ft.training.sharding import whole_tensor

log = logging.getLogger(__name__)
_STEPS_BETWEEN_RELEASES = 10  # of freed memory: each costs a third of a step, in which it is taken again (docs/log.md)


class ContrastiveTrainer(ResumableTrainer):
    """Fine-tune an encoder on steps of texts.

    Args:
        model: the encoder.
        args: transformers' arguments. `per_device_train_batch_size` rows are one forward pass;
            `gradient_accumulation_steps` of them, on every process, are one step with one softmax.
        train_dataset: the rows.
        loss: a module over (embeddings, step); see `e5ft.training.losses`.
        evaluator: encoder -> {"ndcg@10": ...}; run at every evaluation, on every process. None: no evaluation.
        negatives: "step": a query meets the passages of all micro-batches and processes; "micro_batch": those of its own
            micro-batch alone, the cheaper meaning that accumulation has elsewhere.
        group_by_length: whether rows of similar length meet in a step.
        mix: how the sources of the rows are mixed; None if the rows have one source.
        callbacks, optimizer_cls_and_kwargs: as in transformers.
    """

    def __init__(
        self,
        model: Encoder,
        args: TrainingArguments,
        train_dataset: TrainingRows | None,
        loss: torch.nn.Module,
        evaluator: Callable[[Encoder], dict[str, float]] | None = None,
        *,
        negatives: str = "step",
        group_by_length: bool = False,
        mix: Mix | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizer_cls_and_kwargs: tuple | None = None,
    ):
        if any(parameter.requires_grad for parameter in loss.parameters()):
            # The optimizer sees the encoder alone, and processes average no other gradient: they would stay as they are.
            raise ConfigurationError(f"loss: {type(loss).__name__} has parameters of its own; only the encoder is trained")
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, vectors=train_dataset.vectors if train_dataset is not None else None),
            train_dataset=train_dataset,
            eval_dataset=evaluator,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        if self.args.n_gpu > 1:
            raise ConfigurationError(
                f"{self.args.n_gpu} GPUs are visible to one process, and DataParallel would cut a step's row of texts in two. "
                f"Use them all: torchrun --nproc_per_node {self.args.n_gpu} train.py ...; or one: CUDA_VISIBLE_DEVICES=0"
            )
        self.loss = loss.to(self.args.device)
        self.negatives, self.group_by_length, self.mix = negatives, group_by_length, mix
        # The k losses of a step sum to the step's loss already: Trainer must not divide by k again.
        self.loss_is_scaled_for_ga = True
        self.sampler: DistributedStepSampler | None = None
        self.tokens_seen = 0  # by this process, in this call of train()
        self.evaluation_seconds = 0.0  # of evaluations after the first step, in this call of train()
        dense = [p for name, p in model.named_parameters() if "embeddings" not in name]
        self._flops_per_token = sum((6 if p.requires_grad else 4) * p.numel() for p in dense)  # operations a token
        self._rows_in_step: list[int] = []
        self._losses: list[torch.Tensor] = []  # of the step under way
        self._with_negatives: list[torch.Tensor | int] = []  # of the step under way: local rows that had a negative

    # -- which rows meet -------------------------------------------------------------------------------------------------

    def make_sampler(self) -> DistributedStepSampler:
        """Return the sampler of this process.

        Raises:
            DataError: fewer rows than one step, or no step could have a negative.
            ConfigurationError: a mix is to be grouped by length.
        """
        dataset, args = self.train_dataset, self.args
        cut = (args.per_device_train_batch_size, args.gradient_accumulation_steps)
        check_negatives(dataset, self.loss, cut[0] * (cut[1] * args.world_size if self.negatives == "step" else 1))
        seed = args.data_seed if args.data_seed is not None else args.seed
        # The loss of a whole step does not depend on how its rows are divided into micro-batches; that of each alone would.
        tokens = dataset.most_tokens if self.negatives == "step" and args.gradient_accumulation_steps > 1 else None
        process = {"world_size": args.world_size, "rank": args.process_index, "seed": seed, "tokens": tokens}
        if self.mix is None:
            return StepSampler(len(dataset), *cut, **process, lengths=dataset.lengths if self.group_by_length else None)
        if self.group_by_length:
            # A small source comes several times in a window of steps: sorted, its repeats would be in one step.
            raise ConfigurationError("training.group_by_length=true: not with data=mix; leave it false")
        return MixSampler(dataset.ids.with_format("numpy")["source"][:], self.mix, *cut, **process)

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of micro-batches of whole steps. accelerate does not get it: its shards would change which rows meet."""
        self.sampler = self.make_sampler()
        args, workers = self.args, self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            multiprocessing_context=args.dataloader_multiprocessing_context if workers else None,
            worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As Trainer's, and tried for the last step, where some schedules divide by the steps after warm-up.

        One that follows the score takes its direction from `greater_is_better`.

        Raises:
            ConfigurationError: warm-up takes every step.
        """
        if self.args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy") and self.args.greater_is_better:
            self.args.lr_scheduler_kwargs = {"mode": "max", **(self.args.lr_scheduler_kwargs or {})}  # its own default is min
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        try:
            for rate in getattr(scheduler, "lr_lambdas", ()):
                rate(num_training_steps)
        except ZeroDivisionError:
            raise ConfigurationError(
                f"training.warmup_steps={self.args.warmup_steps}: warm-up takes all {num_training_steps} steps, and "
                f"training.lr_scheduler_type={self.args.lr_scheduler_type.value} needs some after it; lower it"
            ) from None
        return scheduler

    def begin_epoch(self, epoch: int) -> None:
        """Choose the epoch's order. Trainer does not reach the sampler in every case."""
        self.sampler.set_epoch(epoch)

    # -- the step --------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, None]:
        """Fetch a step's micro-batches and, with accumulation, run the first half of the step (see accumulation.py)."""
        if device.type == "cpu" and self.state.global_step % _STEPS_BETWEEN_RELEASES == 0:
            cpu.release_freed_memory()
        batches = [batch.to(device) for batch in islice(epoch_iterator, num_batches)]
        self._rows_in_step = [row for batch in batches for row in batch.rows]
        if len(batches) <= 1 or self.negatives == "micro_batch":
            return [CachedMicroBatch(batch, number) for number, batch in enumerate(batches)], None
        # Trainer sets train mode only in training_step: without this the first pass after an evaluation had no dropout.
        self.model_wrapped.train()
        # The first micro-batch's graph is made here but used in Trainer's loop, which syncs at the last micro-batch.
        with self.accelerator.no_sync(self.model_wrapped):
            cached, step = first_pass(batches, self._embed, self.loss)
        self._record_statistics(cached[0].loss * len(cached), step)
        return cached, None

    def compute_loss(
        self, model: torch.nn.Module, inputs: CachedMicroBatch, return_outputs: bool = False, num_items_in_batch: object = None
    ) -> torch.Tensor | tuple[torch.Tensor, dict]:
        """Return the loss of one micro-batch of the step.

        Args:
            model: the encoder, wrapped as Trainer wraps it.
            inputs: a micro-batch and, with accumulation, its part of the step's gradient.
            return_outputs: also return {"embeddings": (N, D)}.
            num_items_in_batch: unused; part of Trainer's interface.

        Returns:
            A scalar; the k scalars of a step sum to its loss. `check_step` checks whether it is finite.
        """
        embeddings = inputs.embeddings
        if embeddings is None:
            embeddings = self._embed(inputs.micro_batch, inputs.number, model)
        if inputs.gradient is not None:
            loss = surrogate(embeddings, inputs)
        elif self.negatives == "micro_batch":
            loss = self.loss(embeddings, inputs.micro_batch.step) / self.current_gradient_accumulation_steps
            self._record_statistics(loss * self.current_gradient_accumulation_steps, inputs.micro_batch.step)
        else:
            step = whole_step([inputs.micro_batch.step])
            loss = self.loss(gathering.gather_rows(embeddings), step)
            self._record_statistics(loss, step)
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def _embed(self, batch: MicroBatch, number: int, model: torch.nn.Module | None = None) -> torch.Tensor:
        """Embed a micro-batch with the dropout of (seed, step, micro-batch, rank): the same in both passes and after a resume."""
        device = self.args.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), self._precision():
            torch.manual_seed(_seed(self.args.seed, self.state.global_step, number, self.args.process_index))
            return (self.model_wrapped if model is None else model)(batch.input_ids, batch.lengths)

    def _record_statistics(self, loss: torch.Tensor, step: Step) -> None:
        """Record a step's loss for `check_step` and its statistics for the log."""
        self._losses.append(loss.detach())
        rows = step.local_rows[1] - step.local_rows[0]
        pairs = rows * len(step.passage)
        statistics = {
            "negatives_per_query": step.negatives / rows,
            # A row's own positive is always masked; any further one would have been trained as a false negative.
            "masked_share": (len(step.answers[0]) - rows) / max(pairs - rows, 1),
            **getattr(self.loss, "statistics", {}),
        }
        if WITH_NEGATIVES in statistics:
            self._with_negatives.append(statistics.pop(WITH_NEGATIVES))
        for name, value in statistics.items():
            self._log_sums.add(name, value)

    def floating_point_ops(self, inputs: CachedMicroBatch) -> int:
        """Return 6 operations a token and weight outside the embedding tables (forward 2, backward 4, or 2 if it is frozen).

        Attention is left out. Trainer calls this once a micro-batch, so it also counts the tokens.
        """
        tokens = len(inputs.micro_batch.input_ids)
        self.tokens_seen += tokens
        if self.args.include_num_input_tokens_seen != "no":
            everyone = self.accelerator.gather(torch.tensor(tokens, device=self.args.device))
            self.state.num_input_tokens_seen += everyone.sum().item()
        return tokens * self._flops_per_token

    def rows_of_step(self) -> str:
        """Locations of the current step's first eight rows, for messages."""
        locations = ", ".join(self.train_dataset.place(row) for row in self._rows_in_step[:8])
        more = len(self._rows_in_step) - 8
        return locations + (f" and {more} more" if more > 0 else "")

    def check_step(self, norm: torch.Tensor | float | None) -> None:
        """Refuse a step whose loss or gradient is not finite. Checked here, once a step, to avoid an earlier device sync.

        Raises:
            NonFiniteError: the loss or the gradient norm is NaN or infinite.
        """
        self._count_without_negatives()
        losses, self._losses = self._losses, []
        if self._scaled or norm is None:
            return
        *losses, norm = torch.stack([*losses, whole_tensor(torch.as_tensor(norm)).to(losses[0])]).tolist()
        broken = [f"the loss is {loss}" for loss in losses if not math.isfinite(loss)]
        broken += [] if math.isfinite(norm) else [f"the gradient norm is {norm}"]
        if broken:
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: {broken[0]}. The weights are as they were before it. "
                f"Rows of the step: {self.rows_of_step()}. Likely remedies: a lower optimizer.lr, a higher loss.temperature."
            )

    def _count_without_negatives(self) -> None:
        alone, queries, self._with_negatives = self.negatives == "micro_batch", self._with_negatives, []
        count = without_negatives(queries, alone)
        if count and not self.without_negatives and distributed.is_main():
            log.warning(
                f"step {self.state.global_step + 1}: no query {'of a micro-batch ' * alone}has a negative, so it teaches nothing "
                "(said once, counted in summary.json); raise training.per_device_train_batch_size, mine hard negatives, or mask fewer (loss.margin, if set)"
            )
        self._log_sums.without_negatives += count

    @property
    def without_negatives(self) -> int:
        """How many steps so far, resumed ones included, had no negative; micro-batches where each is alone."""
        return self._log_sums.without_negatives

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each source's share of the rows so far to a line of losses."""
        if "loss" in logs and isinstance(self.sampler, MixSampler):
            shares = self.sampler.drawn_shares(self.state.global_step)
            logs = {**logs, **{f"share/{name}": share for name, share in shares.items()}}
        super().log(logs, start_time)

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """As Trainer's; rows that a compact embedding table leaves out get the same weight decay."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if new:
            apply_weight_decay_to_frozen_rows(self.model, optimizer)
        return optimizer

    # -- evaluation and checkpoints --------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: object = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rank a corpus with the current model.

        Before the first step the result becomes the score to beat: the base model is the first candidate for the best one.
        (Trainer starts from minus infinity, so that the base never competes.)

        Raises:
            ConfigurationError: training.metric_for_best_model is not measured.
        """
        start = time.monotonic()
        with self.whole_model() as encoder, self._precision():
            scores = self.eval_dataset(encoder)
        if self.state.global_step:
            self.evaluation_seconds += time.monotonic() - start
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in scores.items()}
        name = self.args.metric_for_best_model
        score = None if name is None else metrics.get(f"eval_{name.removeprefix('eval_')}")
        if name is not None and score is None:
            raise ConfigurationError(f"training.metric_for_best_model={name}: not measured; must be one of {', '.join(scores)}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if name is None:
            return metrics
        if self.state.global_step == 0:
            # After the callbacks: early stopping would count the base as no better than itself.
            self.state.best_metric = score
        elif self.args.load_best_model_at_end and self._is_best(score):
            self.control.should_save = True  # also where training.save_steps would not: the best weights must exist at the end
        return metrics

    def _is_best(self, score: float) -> bool:
        best = self.state.best_metric
        return best is None or (score > best if self.args.greater_is_better else score < best)


def _seed(*parts: int) -> int:
    """Return one 63-bit seed from several numbers (SplitMix64), so that neighbouring seeds share nothing."""
    state = 0
    for part in parts:
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
