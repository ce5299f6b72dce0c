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
from e5ft.training.schedule import FIELDS as FIELDS_OF_STEP

FIELDS = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
# What TrainingArguments does itself, when it is made or asked for the device.
ITS_OWN = {"tf32", "use_cpu", "ddp_backend", "ddp_timeout", "full_determinism", "log_level", "log_level_replica", "torch_compile"}
ITS_OWN |= {"logging_steps", "eval_steps"}  # TrainerState.compute_steps puts the name together
BEST = {"load_best_model_at_end": True, "eval_strategy": "steps"}
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
        ({"num_train_epochs": "three"}, "training.num_train_epochs='three': must be auto, or above 0"),
        ({"gradient_accumulation_steps": "Auto"}, "='Auto': must be auto, or a whole number from 1"),
        ({"per_device_train_batch_size": "auto"}, "must be a whole number from 1"),
        ({"max_steps": 0}, "must be -1, or a whole number"),
        ({"bf16": "yes"}, "true or false"),
        ({"eval_stepz": 1}, "did you mean training.eval_steps?"),
        ({"fsdp": True, "fit_micro_batch": True}, "must be false with training.fsdp"),
        ({"eval_strategy": "sometimes"}, "must be no, steps or epoch"),
        (
            {"eval_strategy": "no", "early_stopping_patience": 2},
            "early_stopping_patience=2: must be null with training.eval_strategy=no",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch"},
            "save_strategy='steps': must be as training.eval_strategy=epoch",
        ),
        ({**BEST, "eval_steps": "auto", "save_strategy": "no"}, "save_strategy='no': must be as training.eval_strategy=steps"),
        ({"eval_steps": 2.5}, "eval_steps=2.5: must be a whole number, or a share below 1"),
    ],
)
def test_values_are_refused(values, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        build(module.TrainingSettings, values)


@pytest.mark.parametrize(
    ("values", "every"),
    [({"eval_steps": 2, "save_steps": 3}, 2), ({"eval_steps": 0.2, "save_steps": 3}, 0.2), ({"eval_steps": "null"}, 10)],
)
def test_evaluations_need_not_fit_the_checkpoints(composed, values, every):
    """TrainingArguments wants save_steps to be a multiple of eval_steps; here what is better is saved when it is measured."""
    settings = composed("train", *(f"training.{name}={value}" for name, value in {**BEST, **values}.items()))
    arguments = module.training_arguments(settings, "outputs/test")
    assert arguments.eval_steps == every and arguments.save_steps == settings.training.save_steps
    assert arguments.load_best_model_at_end


@pytest.mark.parametrize(("processes", "cut"), [(1, (32, 1)), (2, (16, 1)), (3, (10, 1)), (8, (4, 1))])
def test_auto_becomes_numbers_by_rows_and_processes(composed, monkeypatch, processes, cut):
    """1,024 rows: 32 queries a step. Until the rows are known TrainingArguments has its own defaults."""
    settings = composed("train", "model=e5_small")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    made = settings.training.for_rows(1_024)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.num_train_epochs) == (*cut, 1)
    assert dataclasses.replace(made, **{name: getattr(settings.training, name) for name in FIELDS_OF_STEP}) == settings.training
    monkeypatch.delenv("WORLD_SIZE")
    arguments = module.training_arguments(settings, "outputs/test")
    assert (arguments.gradient_accumulation_steps, arguments.num_train_epochs) == (1, 3.0)


@pytest.mark.parametrize("model", ["e5_small", "e5_base", "e5_large", "e5_large_instruct", "folder model.path=."])
def test_models_of_any_size_of_data_have_auto_and_numbers_win(composed, model):
    def of(*overrides):
        training = composed("train", *f"model={model}".split(), *overrides).training
        return training.gradient_accumulation_steps, training.num_train_epochs

    assert of() == ("auto", "auto")
    assert of("experiment=large_step") == (32, "auto")
    assert of("experiment=large_step", "training.num_train_epochs=3", "training.gradient_accumulation_steps=2") == (2, 3)


def test_the_sample_s_mini_model_keeps_its_numbers(composed):
    training = composed("train").training
    assert training.for_rows(300) == training
