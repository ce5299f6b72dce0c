"""Every YAML composes; what is wrong is refused with the field, the value and the remedy."""

import dataclasses
from pathlib import Path

import pytest
from e5ft.app.configuration import OWNED, PINNED, PROJECT
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from transformers import TrainingArguments

from e5ft.app import configuration
from e5ft.errors import ConfigurationError

GROUPS = ("model", "data", "loss", "optimizer", "tracking", "experiment")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((PROJECT / "conf" / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
def test_every_option_composes_and_its_values_are_accepted(composed, tmp_path, group, option):
    config = composed(
        "train", f"{group}={option}", *(["model.path=" + str(tmp_path)] if option in ("folder", "mini_domain") else [])
    )
    configuration.model_source(config)
    configuration.optimizer_class(config)
    configuration.training_arguments(config, tmp_path)
    configuration.check_words(config)


@pytest.mark.parametrize("script", ["eval", "export"])
def test_other_scripts_compose(composed, script):
    composed(script)


def test_every_field_of_training_arguments_is_settable_owned_or_pinned():
    fields = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    known = configuration.training_argument_fields().keys() | OWNED.keys() | PINNED.keys()
    assert fields <= known
    assert {*OWNED, *PINNED} <= fields | {"gradient_checkpointing"}  # no owner for a field that is gone


def test_a_field_of_training_arguments_is_set_without_plus(composed, tmp_path):
    config = composed("train", "training.lr_scheduler_type=cosine", "training.dataloader_num_workers=1")
    arguments = configuration.training_arguments(config, tmp_path)
    assert (arguments.lr_scheduler_type.value, arguments.dataloader_num_workers) == ("cosine", 1)
    assert arguments.remove_unused_columns is False


def test_sharding_on_gpus(composed, tmp_path, monkeypatch):
    monkeypatch.setattr(configuration.torch.cuda, "is_available", lambda: True)
    given = ["training.fsdp=true", "training.fsdp_config={version: 2}"]
    config = composed("train", *given)
    configuration._check_sharding(OmegaConf.to_container(config.training))
    assert configuration.training_arguments(config, tmp_path).fsdp_plugin_args["fsdp_version"] == 2
    with pytest.raises(ConfigurationError, match="fit_micro_batch=true with training.fsdp.*per_device_train_batch_size"):
        configuration.training_arguments(composed("train", *given, "training.fit_micro_batch=true"), tmp_path)
    with pytest.raises(ConfigurationError, match="training.fsdp=True: accelerate shards nothing"):
        configuration.training_arguments(composed("train", *given, "training.use_cpu=true"), tmp_path)


@pytest.mark.parametrize("field", ["learning_rate", "remove_unused_columns", "no_such_field"])
def test_owned_pinned_and_unknown_fields_are_refused(composed, field):
    with pytest.raises(ConfigCompositionException) as caught:
        composed("train", f"training.{field}=1")
    hint = configuration.hint(f"{caught.value}\n{caught.value.__cause__}")
    expected = {"learning_rate": "optimizer.lr", "remove_unused_columns": "stays false"}
    assert hint is None if field == "no_such_field" else expected[field] in hint


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=-1", "optimizer.lr=-1"),
        ("optimizer.lr=fast", "optimizer.lr='fast'"),
        ("training.per_device_train_batch_size=0", "training.per_device_train_batch_size=0"),
        ("training.gradient_accumulation_steps=1.5", "whole number"),
        ("training.max_steps=0", "training.max_steps=0"),
        ("training.eval_steps=0", "training.eval_steps=0"),
        ("training.bf16=maybe", "training.bf16='maybe'"),
        ("training.fp16=true", "training.bf16=true"),
        ("training.fsdp=true", "training.fsdp=True: accelerate shards nothing here"),
        ("training.fsdp=full_shard", "training.fsdp='full_shard': true or false, or null is needed"),
        ("training.torch_compile=true", "training.torch_compile=true: not on a CPU"),
        ("training.deepspeed={}", "training.fsdp=true shards as much"),
        ("training.early_stopping_patience=0", "training.early_stopping_patience=0"),
        ("training.eval_strategy=sometimes", "training:"),
        ("training.lr_scheduler_kwargs={a: 1}", "training.lr_scheduler_kwargs={'a': 1}"),
        ("training.lr_scheduler_type=nothing", "nothing"),
        ("training.accelerator_config={a: 1}", "training:"),
        ("optimizer.lr=1" + "0" * 400, "optimizer.lr=1000"),
        ("optimizer.betas=5", "optimizer.betas=5"),
        ("optimizer.eps=small", "optimizer.eps='small'"),
        ("optimizer._target_=nothing", "optimizer._target_=nothing"),
        ("+optimizer.no_such=1", "optimizer.no_such=1"),
        ("model.init=maybe", "model.init='maybe'"),
        ("model.dropout=1", "model.dropout=1"),
        ("model.path=nowhere", "model.path=nowhere"),
    ],
)
def test_values_out_of_range_are_refused(composed, tmp_path, override, words):
    config = composed("train", override)
    with pytest.raises(ConfigurationError) as caught:
        configuration.optimizer_class(config)
        configuration.training_arguments(config, tmp_path)
        configuration.model_source(config)
    assert words in str(caught.value)


def test_the_word_none_is_refused(composed):
    with pytest.raises(ConfigurationError, match="data.eval_dir=None.*null"):
        configuration.check_words(composed("train", "data.eval_dir=None"))


def test_nul_is_refused(composed):
    from omegaconf import OmegaConf

    with pytest.raises(ConfigurationError, match="data.train_file='a.x00b': holds a NUL"):
        configuration.check_words(OmegaConf.create({"data": {"train_file": "a\0b"}}))


def test_presets_have_the_published_shapes(composed):
    """Parameters with pooler, from the models' published configurations (README of this test: no weights are made)."""
    import torch
    from transformers import AutoConfig, AutoModel

    expected = {"e5_small": 117_653_760, "e5_base": 278_043_648, "e5_large": 559_890_432, "e5_large_instruct": 559_890_432}
    for name, count in expected.items():
        shape = dict(composed("train", f"model={name}").model.shape)
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape))
        assert sum(p.numel() for p in model.parameters()) == count


def test_every_recipe_belongs_to_a_model():
    models = {path.stem for path in (PROJECT / "conf/model").glob("*.yaml")}
    assert {path.stem for path in (PROJECT / "conf/recipe").glob("*.yaml")} <= models
    assert Path(PROJECT / "conf/recipe/mini.yaml").is_file()
