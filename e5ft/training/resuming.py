"""Atomic checkpoints and exact resume: what `ContrastiveTrainer` builds upon."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import TrainOutput

from e5ft.errors import ConfigurationError, NonFiniteError, StorageError
from e5ft.files import check_manifest
from e5ft.modeling.compact import save_scale
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_weights, save_encoder
from e5ft.modeling.lora import save_adapters
from e5ft.training import checkpoint
from e5ft.training.log_sums import LogSums
from e5ft.training.sharding import NO_DEEPSPEED, NO_FSDP, UnshardedCopy, load_optimizer_state, optimizer_state
from e5ft.training.trainer_internals import TrainerInternals

SKIPPED_IN_A_ROW = 25  # the scaler begins at 2**16 and halves its scale at each skipped step: 2**-9 by then


class ResumableTrainer(TrainerInternals):
    """transformers' Trainer with checkpoints that are complete or absent, and resumed runs that log what uninterrupted ones log.

    It trains an `Encoder`. A subclass defines the step, adds to `_log_sums` what log lines show, and has two methods:
    `begin_epoch(epoch)`, called before an epoch's first step, and `rows_of_step()`, a description for messages.

    Args:
        args, kwargs: as of transformers' Trainer.

    Attributes:
        saving: whether a checkpoint is being written.
        save_total_limit: how many checkpoints may stay; None keeps all.
        definition: what makes the training what it is, as plain values; every checkpoint's manifest has it.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.saving = False
        self.definition: dict | None = None
        self._log_sums = LogSums()
        self._scale = math.inf  # fp16's, after the last step
        self._resumed: Path | None = None  # the checkpoint from which train() resumes, until its sums are read
        self.is_over = False  # whether it was resumed from the last step
        self._saved: int | None = None  # the last step of which this process wrote a checkpoint
        self._unsharded: UnshardedCopy | None = None  # where the model is sharded
        # Kept from Trainer, which with a limit of 1 removes all but the best at its end, the one just saved on a signal too.
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.args.restore_callback_states_from_checkpoint = False  # it would restore "stop now" of a stopped run, too
        self.add_callback(_Events(self))

    # -- sharding ----------------------------------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's, for the ways of sharding that are supported.

        Raises:
            ConfigurationError: DeepSpeed, FSDP1, or FSDP where accelerate would not shard.
        """
        super().create_accelerator_and_postprocess()
        self._check_sharding()

    def _check_sharding(self) -> None:
        if self.is_deepspeed_enabled:
            raise ConfigurationError(f"DeepSpeed: {NO_DEEPSPEED}")
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise ConfigurationError(f"training.fsdp: {NO_FSDP}")
        if not self.is_fsdp_enabled:
            return
        if not self.accelerator.is_fsdp2:
            raise ConfigurationError(
                "FSDP: must be version 2 (training.fsdp_config.version=2, or fsdp_version: 2 for accelerate)"
            )
        plugin = self.accelerator.state.fsdp_plugin
        # Every process has read the weights already, and this would ask the compact table for a whole one.
        plugin.cpu_ram_efficient_loading = False
        # Else the vectors would leave the encoder in half precision: at cosine .8 that rounds a logit by .4. Autocast does the rest.
        plugin.mixed_precision_policy = None

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """As Trainer's; the last moment before accelerate shards the model."""
        if self.is_fsdp_enabled and self._unsharded is None:
            self._unsharded = UnshardedCopy(self.model)
        return super().create_optimizer(*args, **kwargs)

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[Encoder]:
        """Yield the encoder with all of its weights, to evaluate or to save. If it is sharded, every rank must call this."""
        if self._unsharded is None:
            yield self.model
            return
        with self._unsharded.whole() as encoder:
            yield encoder

    def _precision(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass: accelerate wraps the model's in autocast, but not where it shards the model."""
        return contextlib.nullcontext() if self._unsharded is None else self.accelerator.autocast()

    def trained(self) -> Encoder:
        """Return the encoder after training, with its current weights, computing in float32. Every rank must call this."""
        if self._unsharded is not None:
            return self._unsharded.gather()
        # accelerate leaves the forward pass wrapped in autocast.
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    # -- resuming ----------------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        """As Trainer's; after a resume it logs what it would have logged without the interruption.

        Args:
            resume_from_checkpoint: a checkpoint that `e5ft.training.checkpoint.newest` found complete.
            kwargs: Trainer's own.
        """
        self._resumed = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        self.is_over = False
        return super().train(resume_from_checkpoint, **kwargs)

    def _resume(self) -> None:
        """Read what Trainer does not restore: the sums of the next log line, and the counter of early stopping."""
        self._scale = self.accelerator.scaler.get_scale() if self._scaled else math.inf
        if self._resumed is None:
            return
        self._log_sums, self._resumed = LogSums.load(self._resumed, self.args.process_index), None
        self._name_best()  # Trainer forgets one that is not where it was, and the run may have been moved
        self.log_state = self._log_sums.loss, self._log_sums.logged
        stoppers = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        for stopper in stoppers:
            saved = self.state.stateful_callbacks.get(type(stopper).__name__, {})
            vars(stopper).update(saved.get("attributes", {}))
        patience_is_over = any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in stoppers)
        if self.state.global_step >= self.state.max_steps or patience_is_over:
            self.is_over = self.control.should_training_stop = True

    # -- logging -----------------------------------------------------------------------------------------------------------

    @property
    def _scaled(self) -> bool:
        """Whether fp16 scales the loss: its scaler skips a step with a non-finite gradient and lowers the scale, which is normal."""
        return getattr(self.accelerator, "scaler", None) is not None

    def _count_skipped(self) -> None:
        # By the scale: accelerate says whether step() was called, and torch calls a fused optimizer's also to skip.
        before, self._scale = self._scale, self.accelerator.scaler.get_scale() if self._scaled else math.inf
        in_a_row = self._log_sums.step_done(self._scale < before)
        if in_a_row > SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"step {self.state.global_step}: fp16 gave no finite gradient in {in_a_row} steps, however low its scale. The "
                f"weights are as they were before them. Rows of the last step: {self.rows_of_step()}. "
                "Likely remedies: training.bf16=true instead of fp16, a lower optimizer.lr, a higher loss.temperature."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the step statistics since the last line."""
        logs = {name: value for name, value in logs.items() if name != "train_loss"}  # a mean since the last interruption
        if "loss" in logs:
            logs = {**logs, **self._log_sums.means()}
            if self._scaled:
                logs["skipped_steps"] = self._log_sums.skipped
        super().log(logs, start_time)

    # -- saving and loading ------------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write the checkpoint of the current step, whole or not at all, and remove the ones that are too many."""
        step, run = self.state.global_step, Path(self.args.output_dir)
        if self._saved == step:  # at the end of an epoch Trainer asks twice
            return
        self.store_flos()
        best = self._name_best()
        self.saving = True
        try:
            self._write_checkpoint(run, step)
        finally:
            self.saving = False
        self._saved = step
        if self.args.should_save:
            checkpoint.rotate(run, self.save_total_limit, best)

    def _name_best(self) -> Path | None:
        """Put the best step's checkpoint, in the run's folder as it is now, into the state; return it.

        None where the run ends with its last weights: only `load_best_model_at_end` sees to it that the best step is saved.
        """
        step = self.state.best_global_step if self.args.load_best_model_at_end else None
        best = checkpoint.path_of(Path(self.args.output_dir), step) if step else None
        self.state.best_model_checkpoint = None if best is None else str(best)
        return best

    def _write_checkpoint(self, run: Path, step: int) -> None:
        with contextlib.ExitStack() as stack:
            # Collective calls come before anything at which one process may fail: the others would wait for it.
            encoder = stack.enter_context(self.whole_model())
            optimizer = self.optimizer.state_dict() if self._unsharded is None else optimizer_state(self.optimizer)
            folder = stack.enter_context(checkpoint.writing(run, step, self.definition))
            self._save_encoder(encoder, folder)
            if self.args.should_save:
                torch.save(optimizer, folder / checkpoint.OPTIMIZER)
                torch.save(self.lr_scheduler.state_dict(), folder / checkpoint.SCHEDULER)
            self.save_random_state(folder)
            self._log_sums.loss, self._log_sums.logged = self.log_state
            self._log_sums.save(folder, self.args.process_index)
            if self.args.should_save:
                for stopper in (c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)):
                    self.state.stateful_callbacks[type(stopper).__name__] = stopper.state()
                self.state.save_to_json(str(folder / checkpoint.STATE))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the encoder. Trainer's would add training_args.bin, a pickle that holds the hub token in clear."""
        with self.whole_model() as encoder:
            self._save_encoder(encoder, Path(output_dir or self.args.output_dir))

    def _save_encoder(self, encoder: Encoder, folder: Path) -> None:
        if self.args.should_save:
            for save in (save_encoder, save_adapters, save_scale):
                save(encoder, folder)

    def load_optimizer(self, folder: Path) -> None:
        """Load the states of the optimizer and of the scheduler; each process keeps its shard."""
        optimizer, scheduler = (torch.load(folder / name, map_location="cpu", weights_only=True) for name in checkpoint.STATES)
        load_optimizer_state(self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)

    def load_weights(self, folder: str | Path) -> None:
        """Load the model's weights from a checkpoint."""
        if self._unsharded is None:
            load_weights(self.model, folder)
        else:
            self._unsharded.load(folder)

    def load_best(self) -> None:
        """Load the weights of the best checkpoint.

        Raises:
            StorageError: it is damaged.
        """
        best = Path(self.state.best_model_checkpoint)
        reason = check_manifest(best)
        if reason is not None:
            raise StorageError(
                f"{best}: the best checkpoint is damaged ({reason}); resume=true makes it again from an earlier one"
            )
        self.load_weights(best)


class _Events(TrainerCallback):
    """Calls the trainer where Trainer has an event for it."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, *_, **__) -> None:
        self.trainer._resume()

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.begin_epoch(state.global_step // self.trainer.sampler.steps)

    def on_step_end(self, *_, **__) -> None:
        self.trainer._count_skipped()
