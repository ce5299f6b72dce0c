"""The `training` group against the installed TrainingArguments."""

import dataclasses
import inspect
import re

import pytest
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback

import e5ft.app.commands.train
import e5ft.app.settings.training as module
from e5ft.errors import ConfigurationError
from e5ft.settings import build
from e5ft.training import trainer

FIELDS = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
# What TrainingArguments does itself, when it is made or asked for the device.
ITS_OWN = {"tf32", "use_cpu", "ddp_backend", "ddp_timeout", "full_determinism", "log_level", "log_level_replica", "torch_compile"}
ITS_OWN |= {"logging_steps", "eval_steps"}  # TrainerState.compute_steps puts the name together
# Trainer's evaluation, which `evaluate` replaces, and its loaders, of which ours is another.
_NEVER_RUN = (
    *("evaluation_loop", "prediction_step", "predict", "get_eval_dataloader", "get_test_dataloader", "_get_dataloader"),
    *("_get_train_sampler", "_get_eval_sampler", "init_hf_repo", "push_to_hub", "hyperparameter_search"),
)


def test_the_file_is_as_the_installed_class():
    assert module.read_fields() == module.described_fields()


def _source_of_what_runs() -> str:
    ours = [kind for kind in trainer.ContrastiveTrainer.__mro__ if kind.__module__.startswith("e5ft")]
    overrides = {name: function for kind in ours for name, function in vars(kind).items() if inspect.isfunction(function)}
    replaced = {name for name, function in overrides.items() if "super()" not in inspect.getsource(function)}
    theirs = [f for name, f in vars(Trainer).items() if inspect.isfunction(f) and name not in {*replaced, *_NEVER_RUN}]
    properties = [p.fget for p in vars(TrainingArguments).values() if isinstance(p, property)]
    callbacks = [DefaultFlowCallback, TrainerState]
    modules = [inspect.getmodule(kind) for kind in ours]
    return "\n".join(map(inspect.getsource, [*theirs, *properties, *callbacks, *modules, e5ft.app.commands.train, module]))


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_used_or_refused_or_pinned(field):
    free = {f.name for f in dataclasses.fields(module.TrainingSettings)}
    assert (field in module.OWNED) + (field in module.PINNED) + (field in free) == 1
    if field in free:
        assert field in ITS_OWN or re.search(rf"(args|self|training|arguments)\.{field}\b", _source_of_what_runs())
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
