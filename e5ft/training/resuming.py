"""Saving whole checkpoints and going on from one as if nothing had happened: what `ContrastiveTrainer` builds upon."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_callback import ExportableState
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

SKIPPED_IN_A_ROW = 25  # the scaler begins at 2**16 and halves its scale each time: by then it is far below 1


class ResumableTrainer(Trainer):
    """transformers' Trainer whose checkpoints are complete or not there, and whose resumed runs log what uninterrupted ones do.

    It trains an `Encoder`; what a step is, a subclass says, and adds to `_log_sums` what its log lines are to show.

    Args:
        args, kwargs: as of transformers' Trainer.

    Attributes:
        saving: whether a checkpoint is being written.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.saving = False
        self._log_sums = LogSums()
        self._resumed: Path | None = None  # the checkpoint that this call of train() goes on from
        self._counted = 0  # the last step that `_log_sums` has counted as taken or skipped
        self._saved: int | None = None  # the last step of which this process wrote a checkpoint
        self._unsharded: UnshardedCopy | None = None  # where the model is sharded

    def _some_rows(self) -> str:
        """Rows of the step under way, for messages."""
        raise NotImplementedError

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's, for what this trainer knows how to shard.

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
                "FSDP: version 2 is needed (training.fsdp_config.version=2, or fsdp_version: 2 for accelerate)"
            )
        plugin = self.accelerator.state.fsdp_plugin
        # Every process has read the weights already, and this would ask the compact table for a whole one.
        plugin.cpu_ram_efficient_loading = False
        # Else the vectors would leave the encoder in half precision: at cosine .8 that rounds a logit by .4. Autocast does the rest.
        plugin.mixed_precision_policy = None

    def _prepare_for_training(self, *args, **kwargs) -> tuple:
        if self.is_fsdp_enabled and self._unsharded is None:
            self._unsharded = UnshardedCopy(self.model)
        return super()._prepare_for_training(*args, **kwargs)

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[Encoder]:
        """The encoder with all of its weights, to evaluate or to save; where it is sharded all processes come here together."""
        if self._unsharded is None:
            yield self.model
            return
        with self._unsharded.whole() as encoder:
            yield encoder

    def _precision(self) -> contextlib.AbstractContextManager:
        """What a forward pass runs in. accelerate wraps that of the model in autocast, but not where it shards it."""
        return contextlib.nullcontext() if self._unsharded is None else self.accelerator.autocast()

    def trained(self) -> Encoder:
        """The encoder after training, with the weights as they are and all of its work in float32; called by all processes."""
        if self._unsharded is not None:
            return self._unsharded.gather()
        # accelerate leaves the forward pass wrapped in autocast.
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        """As Trainer's; what it logs after a resume is what it would have logged without the interruption.

        Args:
            resume_from_checkpoint: a checkpoint that `e5ft.training.checkpoint.newest` found whole.
            kwargs: Trainer's own.
        """
        self._resumed = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, **kwargs)

    def _run_epoch(self, *, epoch: int, **kwargs) -> None:
        if self._resumed is not None:
            self._log_sums = LogSums.load(self._resumed, self.args.process_index)
            self._tr_loss.fill_(self._log_sums.loss)
            self._globalstep_last_logged = self._log_sums.logged
            self._resumed = None
            # Trainer looks only after a step whether it was the last: going on from the last one would make one more.
            if self.state.global_step >= self.state.max_steps or self._patience_is_over():
                self.control.should_training_stop = True
                return
        super()._run_epoch(epoch=epoch, **kwargs)

    @property
    def _scaled(self) -> bool:
        """fp16: a scaler skips a step whose gradient is not finite, and lowers its scale; now and then that is normal."""
        return getattr(self.accelerator, "scaler", None) is not None

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self._scaled and self.state.global_step != self._counted:  # at the end of an epoch Trainer comes here twice
            self._counted = self.state.global_step
            in_a_row = self._log_sums.step_done(self.accelerator.optimizer_step_was_skipped)
            if in_a_row > SKIPPED_IN_A_ROW:
                raise NonFiniteError(
                    f"step {self.state.global_step}: fp16 gave no finite gradient in {in_a_row} steps, however low its scale. The "
                    f"weights are as they were before them. Rows of the last step: {self._some_rows()}. "
                    "Likely remedies: training.bf16=true instead of fp16, a lower optimizer.lr, a higher loss.temperature."
                )
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the steps since the last line looked like, on average."""
        logs = {name: value for name, value in logs.items() if name != "train_loss"}  # a mean since the last interruption
        if "loss" in logs:
            logs = {**logs, **self._log_sums.means()}
            if self._scaled:
                logs["skipped_steps"] = self._log_sums.skipped
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better and self.args.load_best_model_at_end:
            self.control.should_save = True  # also where training.save_steps would not: the best weights must be there at the end
        return better

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        # Not Trainer's, which writes into the visible folder, file by file.
        step, run = self.state.global_step, Path(self.args.output_dir)
        if self._saved == step:  # at the end of an epoch Trainer asks twice
            return
        self.store_flos()
        best = checkpoint.path_of(run, self.state.best_global_step) if self.state.best_global_step else None
        self.state.best_model_checkpoint = None if best is None else str(best)
        self.saving = True
        try:
            self._write_checkpoint(run, step)
        finally:
            self.saving = False
        self._saved = step
        if self.args.should_save:
            checkpoint.rotate(run, self.args.save_total_limit, best)

    def _write_checkpoint(self, run: Path, step: int) -> None:
        with contextlib.ExitStack() as stack:
            # What processes do together comes before what one of them may fail at: the others would wait for it.
            encoder = stack.enter_context(self.whole_model())
            sharded = None if self._unsharded is None else optimizer_state(self.optimizer)
            folder = stack.enter_context(checkpoint.writing(run, step))
            self._save_encoder(encoder, folder)
            if sharded is None:
                self._save_optimizer_and_scheduler(str(folder))
            elif self.args.should_save:
                torch.save(sharded, folder / checkpoint.OPTIMIZER)
                torch.save(self.lr_scheduler.state_dict(), folder / checkpoint.SCHEDULER)
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self._log_sums.loss, self._log_sums.logged = float(self._tr_loss), self._globalstep_last_logged
            self._log_sums.save(folder, self.args.process_index)
            if self.args.should_save:
                self._keep_callback_states()
                self.state.save_to_json(str(folder / checkpoint.STATE))

    def _keep_callback_states(self) -> None:
        for stateful in (c for c in [*self.callback_handler.callbacks, self.control] if isinstance(c, ExportableState)):
            self.state.stateful_callbacks[type(stateful).__name__] = stateful.state()

    def _load_callback_state(self) -> None:
        # Trainer's own is all or nothing: it would restore "stop now" of a run that was stopped, too.
        for stopping in self._early_stopping():
            kept = self.state.stateful_callbacks.get(type(stopping).__name__, {})
            for name, value in kept.get("attributes", {}).items():
                setattr(stopping, name, value)

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]

    def _patience_is_over(self) -> bool:
        return any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in self._early_stopping())

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Not Trainer's: it would add training_args.bin, a pickle that holds the hub token in clear.
        with self.whole_model() as encoder:
            self._save_encoder(encoder, Path(output_dir or self.args.output_dir))

    def _save_encoder(self, encoder: Encoder, folder: Path) -> None:
        if self.args.should_save:
            save_encoder(encoder, folder)
            save_adapters(encoder, folder)
            save_scale(encoder, folder)

    def _load_optimizer_and_scheduler(self, resumed: str | None) -> None:
        if self._unsharded is None or resumed is None:
            return super()._load_optimizer_and_scheduler(resumed)
        read = {name: torch.load(Path(resumed) / name, map_location="cpu", weights_only=True) for name in checkpoint.STATES}
        load_optimizer_state(self.optimizer, read[checkpoint.OPTIMIZER])
        self.lr_scheduler.load_state_dict(read[checkpoint.SCHEDULER])

    def _load_weights(self, folder: str | Path) -> None:
        if self._unsharded is None:
            load_weights(self.model, folder)
        else:
            self._unsharded.load(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self._load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        best = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint).name  # the run may have been moved
        reason = check_manifest(best)
        if reason is not None:
            raise StorageError(
                f"{best}: the best checkpoint is damaged ({reason}); resume=true makes it again from an earlier one"
            )
        self._load_weights(best)
