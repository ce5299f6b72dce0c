"""The private interface of transformers' `Trainer` that training depends on, and a check that the installed release still has it.

No other module overrides, calls, reads or writes a private name of `Trainer`. The check runs when a trainer class is defined, so
that a release that renames a method is an error and never a wrong epoch or an incomplete checkpoint.
"""

import dis
import inspect
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import Trainer

from e5ft.errors import ConfigurationError

TESTED = "5.23"
OVERRIDDEN = (
    "_run_epoch",
    "_save_checkpoint",
    "_load_from_checkpoint",
    "_load_best_model",
    "_load_optimizer_and_scheduler",
    "_track_num_input_tokens",
    "_get_grad_norm",
)
# The arguments with which the methods below call Trainer's.
CALLED = {
    "_get_grad_norm": (("model",), {"grad_norm": None}),
    "_save_scaler": (("folder",), {}),
    "_save_rng_state": (("folder",), {}),
}
ASSIGNED = ("_tr_loss", "_globalstep_last_logged", "_train_batch_size")


def check_internals(base: type, ours: type) -> None:
    """Refuse a `Trainer` whose private interface is not the one that `TrainerInternals` was written for.

    Args:
        base: transformers' Trainer.
        ours: a subclass of `TrainerInternals`.

    Raises:
        ConfigurationError: a method is missing, no longer called or takes other arguments, or an attribute is no longer assigned.
    """
    functions = [inspect.unwrap(f) for cls in base.__mro__ for f in vars(cls).values() if inspect.isfunction(f)]
    for name in (*OVERRIDDEN, *CALLED):
        if not inspect.isfunction(getattr(base, name, None)):
            raise _untested(name, "is missing")
        if not any(name in f.__code__.co_names for f in functions):
            raise _untested(name, "is no longer called")
    for name in OVERRIDDEN:
        taken = [p for p in inspect.signature(getattr(base, name)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        required = [p.name for p in taken if p.default is p.empty]
        by_name = {p.name: None for p in taken[1:]}
        calls = ([p.name for p in taken], {}), (required, {}), (["self"], by_name)
        if not all(_fits(getattr(ours, name), *call) for call in calls):
            raise _untested(name, f"takes other arguments: {', '.join(by_name)}")
    for name, (arguments, named) in CALLED.items():
        if not _fits(getattr(base, name), ["self", *arguments], named):
            raise _untested(name, f"takes other arguments: {inspect.signature(getattr(base, name))}")
    for name in ASSIGNED:
        if not any(name in f.__code__.co_names and _assigns(f, name) for f in functions):
            raise _untested(name, "is no longer assigned")


def _fits(function: Callable, arguments: list, named: dict) -> bool:
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError:
        return False
    return True


def _assigns(function: Callable, attribute: str) -> bool:
    return any(i.opname == "STORE_ATTR" and i.argval == attribute for i in dis.get_instructions(function))


def _untested(name: str, fault: str) -> ConfigurationError:
    return ConfigurationError(
        f"transformers {transformers.__version__}: Trainer.{name} {fault}. Training was tested with transformers {TESTED}: "
        f"pip install 'transformers=={TESTED}.*'"
    )


class TrainerInternals(Trainer):
    """transformers' Trainer, which calls public methods of a subclass in place of its own private ones.

    The subclass has `is_over` (bool: whether training has to end before the next epoch), `save_checkpoint()`,
    `load_weights(folder)`, `load_best()`, `load_optimizer(folder)` and `check_step(norm)` (called before the optimizer's step).
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        check_internals(Trainer, cls)

    # -- private methods ---------------------------------------------------------------------------------------------------

    def _run_epoch(self, *args, **kwargs) -> None:
        if not self.is_over:  # Trainer asks this only after a step: a run resumed from its last step would make one more
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        self.save_checkpoint()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self.load_best()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.load_optimizer(Path(checkpoint))

    def _track_num_input_tokens(self, inputs: object) -> None:
        pass  # Trainer's looks for keys in a dictionary; `floating_point_ops` counts the tokens, which are never padding

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: object = None) -> object:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.check_step(norm)
        return norm

    def save_random_state(self, folder: Path) -> None:
        """Write the scaler's state and this process's random states into a checkpoint."""
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))

    # -- private attributes --------------------------------------------------------------------------------------------------

    @property
    def log_state(self) -> tuple[float, int]:
        """Sum of this process's losses since the last log line, and the step of that line."""
        return float(self._tr_loss), self._globalstep_last_logged

    @log_state.setter
    def log_state(self, state: tuple[float, int]) -> None:
        self._tr_loss.fill_(state[0])
        self._globalstep_last_logged = state[1]

    def set_micro_batch(self, size: int, accumulation: int) -> None:
        """Divide a step into other micro-batches."""
        self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps = size, accumulation
        self._train_batch_size = self.args.train_batch_size  # Trainer keeps a copy
