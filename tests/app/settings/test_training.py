"""The `training` group against the installed TrainingArguments."""

import dataclasses
import inspect
import re

import pytest
from transformers import Trainer, TrainingArguments

import e5ft.app.commands.train
import e5ft.app.settings.training as module
from e5ft.errors import ConfigurationError
from e5ft.settings import build
from e5ft.training import trainer

FIELDS = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
# Trainer's methods that a run never comes through: ContrastiveTrainer replaces them.
_REPLACED = ("evaluate", "evaluation_loop", "prediction_step", "predict", "get_eval_dataloader", "get_test_dataloader")


def test_the_file_is_as_the_installed_class():
    assert module.read_fields() == module.described_fields()


def _source_of_what_runs() -> str:
    replaced = {name for kind in trainer.ContrastiveTrainer.__mro__ if kind.__module__.startswith("e5ft") for name in vars(kind)}
    methods = [f for name, f in vars(Trainer).items() if inspect.isfunction(f) and name not in {*replaced, *_REPLACED}]
    ours = [inspect.getmodule(kind) for kind in trainer.ContrastiveTrainer.__mro__ if kind.__module__.startswith("e5ft")]
    arguments = re.sub(r'"""(?:.|\n)*?"""', "", inspect.getsource(TrainingArguments))
    in_arguments = "".join(re.findall(r"self\.\w+", arguments))
    return "".join(map(inspect.getsource, [*methods, *ours, e5ft.app.commands.train])) + in_arguments


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_used_or_refused_or_pinned(field):
    free = {f.name for f in dataclasses.fields(module.TrainingSettings)}
    assert (field in module.OWNED) + (field in module.PINNED) + (field in free) == 1
    if field in free:
        assert re.search(rf"(args|self|training|arguments)\.{field}\b", _source_of_what_runs()), f"{field} does nothing"
    else:
        with pytest.raises(ConfigurationError, match="no such field"):
            build(module.TrainingSettings, {field: None})
        assert field in module.remedy(field)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per_device_train_batch_size": 0}, "from 1 to"),
        ({"max_steps": 0}, "must be -1, or a whole number"),
        ({"bf16": "yes"}, "true or false"),
        ({"eval_stepz": 1}, "did you mean training.eval_steps?"),
        ({"fsdp": True, "fit_micro_batch": True}, "must be false with training.fsdp"),
    ],
)
def test_values_are_refused(values, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        build(module.TrainingSettings, values)
