"""Hydra's side of the house: resolvers, the node of TrainingArguments' fields, and checks with remedies.

Importing this module registers the resolvers and the node; the scripts import it before Hydra composes.
"""

import dataclasses
import math
import os
import re
import warnings
from pathlib import Path

import torch
from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from transformers import TrainingArguments, get_scheduler
from transformers.utils.logging import disable_progress_bar

from e5ft.app import secrets
from e5ft.app.fields import check_fields, check_training, shown
from e5ft.app.places import run_dir, sweep_dir
from e5ft.data.remote import check_url
from e5ft.errors import ConfigurationError
from e5ft.modeling.settings import ModelSource
from e5ft.modeling.settings import LoraSettings
from e5ft.training.sharding import NO_DEEPSPEED, NO_FSDP

PROJECT = Path(__file__).resolve().parents[2]

# Fields of TrainingArguments that another part owns, and how to set what they stand for.
OWNED = {
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    **dict.fromkeys(("optim", "optim_args", "optim_target_modules"), "optimizer= (conf/optimizer/)"),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "optimizer.betas"),
    "adam_epsilon": "optimizer.eps",
    **dict.fromkeys(("seed", "data_seed"), "seed"),
    **dict.fromkeys(("output_dir", "run_name"), "name"),
    **dict.fromkeys(("report_to", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), "tracking.*"),
    "resume_from_checkpoint": "resume=true name=NAME",
    "ignore_data_skip": "resume=true name=NAME, which goes on where the run stopped",
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        "python export.py push=USER/MODEL",
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"),
        "evaluation.batch_tokens",
    ),
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics", "include_for_metrics"), "evaluation.cutoffs"),
    **dict.fromkeys(("gradient_checkpointing", "use_cache"), "training.activation_checkpointing"),
    "gradient_checkpointing_kwargs": "training.activation_checkpointing_kwargs",
    **dict.fromkeys(("label_names", "label_smoothing_factor", "average_tokens_across_devices"), "loss.* (there are no labels)"),
    **dict.fromkeys(("train_sampling_strategy", "length_column_name"), "training.group_by_length"),
    "dataloader_drop_last": "nothing: steps are whole, the rest of an epoch is dropped",
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "local_rank"), "nothing: the scripts and torchrun set it"),
    "eval_on_start": "nothing: the base model is always measured first",
    "include_num_input_tokens_seen": "nothing: tokens are always counted",
}

# Fields with one right value here, and why.
PINNED = {
    "remove_unused_columns": (False, "rows carry identities that no model's forward names"),
    "logging_nan_inf_filter": (False, "it logs 0.0 while the weights are NaN"),
    "auto_find_batch_size": (False, "it would change the number of negatives, and with it the task"),
    "ddp_find_unused_parameters": (False, "every weight is used: the pooler is off while training"),
    "save_only_model": (False, "without the optimizer's state a run cannot go on exactly"),
    "restore_callback_states_from_checkpoint": (False, "what a resumed run needs of them is always restored"),
    "ddp_broadcast_buffers": (False, "there is no buffer that training changes"),
}

# Ours, in the same group because users look for them there.
_OWN_FIELDS = {"early_stopping_patience": None, "group_by_length": False, "compact_embedding": True, "fit_micro_batch": False}


def training_argument_fields() -> dict[str, object]:
    """Every field of TrainingArguments that a user may set, with its default as a plain value."""
    fields = {}
    for field in dataclasses.fields(TrainingArguments):
        if field.name in OWNED or field.name in PINNED or not field.init:
            continue
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        fields[field.name] = getattr(default, "value", default)
    return fields


def training_arguments(config: DictConfig, folder: Path) -> TrainingArguments:
    """TrainingArguments from the `training` group and what other groups own.

    Args:
        config: the composed configuration.
        folder: the run's folder.

    Raises:
        ConfigurationError: a value out of range, fp16 without a GPU, or what TrainingArguments itself refuses.
    """
    given = OmegaConf.to_container(config.training, resolve=True)
    defaults = training_argument_fields()
    check_training(given, {**defaults, **_OWN_FIELDS})
    _check_sharding(given)
    for own in _OWN_FIELDS:
        given.pop(own)
    changed = {key: value for key, value in given.items() if value != defaults[key]}
    if changed.get("fp16") and (not torch.cuda.is_available() or changed.get("use_cpu")):
        raise ConfigurationError(
            "training.fp16=true needs a GPU (on a CPU it would silently train in float32); use training.bf16=true"
        )
    if any(given[f"torch_compile{rest}"] for rest in ("", "_backend", "_mode")) and (
        changed.get("use_cpu") or not torch.cuda.is_available()
    ):
        raise ConfigurationError(
            "training.torch_compile=true: not on a CPU, where dropout's masks cannot be compiled and the rest gains nothing; leave it out"
        )
    pinned = {key: value for key, (value, _) in PINNED.items()}
    changed.setdefault("use_cpu", not torch.accelerator.is_available())  # bf16 on a CPU is refused without it
    changed.setdefault("disable_tqdm", True)  # ours says the same in fewer lines
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            run_name=str(config.name),
            report_to="none",
            seed=config.seed,
            learning_rate=config.optimizer.lr,
            weight_decay=config.optimizer.get("weight_decay") or 0.0,
            eval_on_start=given["eval_strategy"] != "no",
            **pinned,
            **changed,
        )
    except Exception as error:  # it starts accelerate, FSDP and DeepSpeed, each with errors of its own
        raise ConfigurationError(f"training: {str(error).strip() or repr(error)}") from error
    _check_schedule(arguments)
    return arguments


def _check_sharding(given: dict) -> None:
    """Refuse ways to shard a model that would do nothing, or after which no run could go on."""
    if given["deepspeed"] is not None:
        raise ConfigurationError(f"training.deepspeed={shown(given['deepspeed'])}: {NO_DEEPSPEED}")
    if not given["fsdp"]:
        return
    if given["use_cpu"] or not torch.cuda.is_available():
        raise ConfigurationError(f"training.fsdp={shown(given['fsdp'])}: {NO_FSDP}")
    if given["fit_micro_batch"]:
        raise ConfigurationError(
            "training.fit_micro_batch=true with training.fsdp: it measures a model that is not sharded yet; set "
            "training.per_device_train_batch_size yourself"
        )


def _check_schedule(arguments: TrainingArguments) -> None:
    """Make a schedule as the Trainer will: its own errors come when everything is loaded, and name no field."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kind, kwargs = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    try:
        get_scheduler(kind, optimizer, num_warmup_steps=1, num_training_steps=2, scheduler_specific_kwargs=kwargs)
    except Exception as error:
        name = getattr(kind, "value", kind)
        raise ConfigurationError(
            f"training.lr_scheduler_type={name} with training.lr_scheduler_kwargs={kwargs}: no such schedule ({error})"
        ) from error


def optimizer_class(config: DictConfig) -> tuple[type, dict]:
    """The optimizer's class and arguments, as transformers.Trainer takes them (an instance would fail under FSDP)."""
    values = OmegaConf.to_container(config.optimizer, resolve=True)
    target = values.pop("_target_", None)
    lr, decay = values.get("lr"), values.get("weight_decay", 0)
    if not _number(lr) or not 0 < lr < 10:
        raise ConfigurationError(f"optimizer.lr={lr!r}: a number above 0 is needed")
    if decay is not None and (not _number(decay) or decay < 0):
        raise ConfigurationError(f"optimizer.weight_decay={decay!r}: a number, at least 0, is needed")
    try:
        kind = get_class(target)
    except Exception as error:
        raise ConfigurationError(f"optimizer._target_={target}: no such class ({error})") from error
    try:  # its own checks, now: the Trainer makes it when everything is loaded
        kind([torch.nn.Parameter(torch.zeros(1))], **values)
    except Exception as error:
        given = ", ".join(f"optimizer.{field}={shown(value)}" for field, value in values.items())
        raise ConfigurationError(f"optimizer: {target} does not take {given}: {error}") from error
    return kind, values


def model_source(config: DictConfig) -> ModelSource:
    """The `model` group as plain values, but for the adapters, which only training adds.

    Raises:
        ConfigurationError: a value out of range, or adapters asked of another script than train.py.
    """
    values = OmegaConf.to_container(config.model, resolve=True)
    if values.pop("lora")["rank"] is not None and "training" not in config:
        raise ConfigurationError("model.lora.rank: only train.py adds adapters; what it exports has them merged")
    return ModelSource(**values, seed=config.get("seed", 42))


def lora_settings(config: DictConfig) -> LoraSettings | None:
    """`model.lora`, checked; None where all weights are trained."""
    values = OmegaConf.to_container(config.model.lora, resolve=True)
    names = values["target_modules"]
    return (
        None
        if values["rank"] is None
        else LoraSettings(**{**values, "target_modules": names if isinstance(names, str) else tuple(names or ())})
    )


def model_folder(given: object, field: str) -> str:
    """The model's folder that a field names: itself, or of a run that ended with a model.

    Raises:
        ConfigurationError: there is none.
    """
    path = Path(str(given))
    if (path / "model").is_dir():
        path = path / "model"
    if not path.is_dir():
        raise ConfigurationError(f"{field}={given}: there is no such folder; name a model or a run")
    return str(path)


def device(config: DictConfig) -> torch.device:
    """Where eval.py and export.py work."""
    wanted = config.get("device", "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"device={wanted!r}: auto, cpu or cuda is needed")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device=cuda: there is no GPU; use device=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def check(config: DictConfig) -> None:
    """Hold every field against its type and range.

    Raises:
        ConfigurationError: the first that is wrong, with its value and what is needed.
    """
    check_words(config)
    values = OmegaConf.to_container(config, resolve=True)
    check_fields(values)
    if "training" in values:
        check_training(values["training"], {**training_argument_fields(), **_OWN_FIELDS})


def check_words(config: DictConfig) -> None:
    """Refuse the string 'None', which YAML reads as a word (null is meant), URLs that carry credentials, and NUL, which no path can hold.

    Raises:
        ConfigurationError: there is one.
    """
    for path, value in _leaves(OmegaConf.to_container(config, resolve=False)):
        if "\0" in value:
            raise ConfigurationError(f"{path}={value!r}: holds a NUL character")
        check_url(value, path)
        if value == "none" and path == "loss.false_negatives":
            continue
        if value in ("None", "none", "~None") and not path.endswith(("parallelism_config",)) and "logging" not in path:
            raise ConfigurationError(f"{path}={value}: the word for 'nothing' is null")


def plain(config: DictConfig) -> dict:
    """The resolved configuration as plain values, with whatever looks like a secret left out."""
    return secrets.without_secrets(OmegaConf.to_container(config, resolve=True))


def hint(message: str) -> str | None:
    """What to say beside Hydra's own message about an unknown field of `training`."""
    for match in re.findall(r"[\w.]+", message):
        field = match.rpartition(".")[2]
        if field in OWNED:
            return f"training.{field} is set through {OWNED[field]}."
        if field in PINNED:
            value, why = PINNED[field]
            return f"training.{field} stays {str(value).lower()}: {why}."
        if field == "warmup_ratio":
            return "training.warmup_steps below 1 is a share of all steps; warmup_ratio is gone from transformers."
    return None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _leaves(value: object, path: str = ""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value


def register() -> None:
    """Make the resolvers and the `training/arguments` node known to Hydra; calling it again changes nothing."""
    for name, function in (("project", lambda path: str(PROJECT / path)), ("run_dir", run_dir), ("sweep_dir", sweep_dir)):
        OmegaConf.register_new_resolver(f"e5ft.{name}", function, replace=True)
    node = {**training_argument_fields(), **_OWN_FIELDS}
    ConfigStore.instance().store(group="training", name="arguments", node=node)
    disable_progress_bar()  # transformers' own bars, of loading and saving shards, would cut through ours
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # DataLoader workers fork after the tokenizer was used
    # accelerate passes ddp_broadcast_buffers on under the name that torch 2.13 deprecates; no setting of ours avoids it.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)


register()
