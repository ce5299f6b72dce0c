"""The check that the installed transformers still has the private interface that training depends on."""

import subprocess
import sys
import types

import pytest
from transformers import Trainer

from e5ft.errors import ConfigurationError
from e5ft.training.trainer import ContrastiveTrainer
from e5ft.training.trainer_internals import ASSIGNED, OVERRIDDEN, TESTED, TrainerInternals, check_internals


class Missing:
    """As if a release had removed a method."""

    def __get__(self, *_):
        raise AttributeError


def stand_in(**changes) -> type:
    return type("Trainer", (Trainer,), changes)


def without(name: str) -> type:
    """Trainer, with another name wherever its methods use this one."""
    methods = {}
    for key, f in vars(Trainer).items():
        if isinstance(f, types.FunctionType):
            names = tuple("other" if each == name else each for each in f.__code__.co_names)
            code = f.__code__.replace(co_names=names)
            methods[key] = types.FunctionType(code, f.__globals__, key, f.__defaults__, f.__closure__)
    return type("Trainer", (), methods)


def more(self, model, trial, folder):
    """_save_checkpoint with one more argument."""


def fewer(self):
    """_save_checkpoint without arguments, or _save_scaler."""


def renamed(self, model, norm=None):
    """_get_grad_norm with another name for an argument."""


@pytest.mark.parametrize(("base", "message"), [
    *((stand_in(**{name: Missing()}), f"Trainer.{name} is missing") for name in (*OVERRIDDEN, "_save_scaler", "_save_rng_state")),
    *((without(name), f"Trainer.{name} is no longer called") for name in OVERRIDDEN),
    *((without(name), f"Trainer.{name} is no longer assigned") for name in ASSIGNED),
    (stand_in(_save_checkpoint=more), "_save_checkpoint takes other arguments: model, trial, folder"),
    (stand_in(_save_checkpoint=fewer), "_save_checkpoint takes other arguments"),
    (stand_in(_get_grad_norm=renamed), "_get_grad_norm takes other arguments: model, norm"),
    (stand_in(_save_scaler=fewer), "_save_scaler takes other arguments"),
])  # fmt: skip
def test_another_private_interface_is_refused(base, message):
    with pytest.raises(ConfigurationError, match=message) as raised:
        check_internals(base, ContrastiveTrainer)
    assert f"pip install 'transformers=={TESTED}.*'" in str(raised.value)


def test_the_check_runs_when_a_class_is_defined():
    with pytest.raises(ConfigurationError, match="_save_checkpoint takes other arguments"):
        type("Ours", (TrainerInternals,), {"_save_checkpoint": lambda self: None})


def test_no_other_private_method_is_overridden():
    private = {name for cls in ContrastiveTrainer.__mro__ for name in vars(cls) if name[0] == "_" and name[1] != "_"}
    ours = {name for name in private if getattr(ContrastiveTrainer, name) is not getattr(Trainer, name, None)}
    assert {name for name in ours if hasattr(Trainer, name)} == set(OVERRIDDEN)
    assert set(OVERRIDDEN) <= set(vars(TrainerInternals))


@pytest.mark.parametrize("script", ["eval", "mine", "export"])
def test_commands_that_do_not_train_do_not_import_the_trainer(script):
    code = f"import sys, {script}; assert not any(name.startswith('e5ft.training.trainer') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
