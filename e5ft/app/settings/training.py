"""The `training` group: every field of transformers.TrainingArguments is used, refused with its owner's name, or pinned.

The fields are in training_fields.json, so that a setting can be refused without importing transformers.
`python -m e5ft.app.settings.training` writes the file from the installed class.
"""

import dataclasses
import enum
import functools
import json
import operator
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from e5ft import distributed
from e5ft.errors import ConfigurationError
from e5ft.settings import Settings, Word, number, whole
from e5ft.training import schedule

if TYPE_CHECKING:
    from transformers import TrainingArguments

_FIELDS_FILE = Path(__file__).with_name("training_fields.json")

# Fields of TrainingArguments that another part owns, and how to set what they stand for.
OWNED = {
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    **dict.fromkeys(("optim", "optim_args", "optim_target_modules"), "optimizer= (conf/optimizer/)"),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "optimizer.betas"),
    "adam_epsilon": "optimizer.eps",
    **dict.fromkeys(("seed", "data_seed"), "seed"),
    **dict.fromkeys(("output_dir", "run_name"), "name"),
    "report_to": "tracking.also (tensorboard, mlflow, trackio) or tracking.wandb",
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), "tracking.*"),
    **dict.fromkeys(("resume_from_checkpoint", "ignore_data_skip"), "resume=true name=NAME"),
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
    **dict.fromkeys(("train_sampling_strategy", "length_column_name"), "training.group_by_length"),
}

# Fields with one right value here, and why.
PINNED = {
    "remove_unused_columns": (False, "rows carry identities that no model's forward names"),
    "logging_nan_inf_filter": (False, "it logs 0.0 while the weights are NaN"),
    "auto_find_batch_size": (False, "it would change the number of negatives, and with it the task"),
    "ddp_find_unused_parameters": (False, "every weight is used: the pooler is off while training"),
    "save_only_model": (False, "without the optimizer's state a run cannot be resumed exactly"),
    "restore_callback_states_from_checkpoint": (False, "what a resumed run needs of them is always restored"),
    "ddp_broadcast_buffers": (False, "there is no buffer that training changes"),
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval"), (False, "vectors that are ranked are computed as training.bf16 or fp16 says")
    ),
    "accelerator_config": (None, "the sampler deals whole steps to the processes; accelerate's loader is not used"),
    "enable_jit_checkpoint": (False, "on SIGTERM a checkpoint is saved at the end of the step anyway"),
    "use_liger_kernel": (False, "its kernels know no encoder"),
    "liger_kernel_config": (None, "its kernels know no encoder"),
    "neftune_noise_alpha": (None, "no noise is added to embeddings; model.dropout is there"),
    "parallelism_config": (None, "processes share the data alone"),
    **dict.fromkeys(("label_names", "label_smoothing_factor", "average_tokens_across_devices"), (None, "there are no labels")),
    "dataloader_in_order": (None, "as workers finish, the micro-batches of a step would be those of others"),
    "dataloader_drop_last": (None, "steps are whole, the rest of an epoch is dropped"),
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "local_rank"), (None, "the scripts and torchrun decide")),
    "eval_on_start": (None, "the base model is always measured first"),
    "include_num_input_tokens_seen": (None, "tokens are always counted"),
}
_PASSED_ON = (  # pinned values that TrainingArguments would not have by itself
    *("remove_unused_columns", "logging_nan_inf_filter", "ddp_find_unused_parameters", "ddp_broadcast_buffers"),
    *("auto_find_batch_size", "save_only_model", "restore_callback_states_from_checkpoint"),
)

# Where the type alone lets through what fails later, or means nothing.
_ABOVE_ZERO = number(above=0)
_COUNT = whole(1, 1_000_000_000)
_LOG_LEVEL = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]
_NARROWED = {
    "per_device_train_batch_size": _COUNT,
    "gradient_accumulation_steps": Literal["auto"] | _COUNT,
    "num_train_epochs": Literal["auto"] | number(above=0, most=1e9),
    "max_steps": Literal[-1] | _COUNT,
    **dict.fromkeys(("warmup_steps", "max_grad_norm", "eval_delay"), number(least=0)),
    **dict.fromkeys(("logging_steps", "save_steps"), _ABOVE_ZERO),
    "eval_strategy": Literal["no", "steps", "epoch"],
    "save_strategy": Literal["no", "steps", "epoch", "best"],
    "eval_steps": Literal["auto"] | _ABOVE_ZERO | None,
    **dict.fromkeys(("save_total_limit", "torch_empty_cache_steps"), _COUNT | None),
    "dataloader_num_workers": whole(0, 256),
    "dataloader_prefetch_factor": whole(1, 10_000) | None,
    "dataloader_multiprocessing_context": Literal["fork", "forkserver", "spawn"] | None,
    **dict.fromkeys(("log_level", "log_level_replica"), _LOG_LEVEL),
    "torch_compile_mode": Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
    "ddp_timeout": whole(1, 10**9),
    "ddp_bucket_cap_mb": whole(1, 1_000_000) | None,
    "metric_for_best_model": Word | None,
    "fsdp": bool | None,  # TrainingArguments' own annotation still names the strings of version 1
}
# Ours, in the same group because users look for them there: annotation and default.
_OWN = {
    "early_stopping_patience": (_COUNT | None, None),
    "group_by_length": (bool, False),
    "compact_embedding": (bool, True),
    "fit_micro_batch": (bool, False),
}


class _TrainingGroup(Settings):
    """The `training` group: the fields of TrainingArguments that a user may set, and four of this project's."""

    PATH: ClassVar[str] = "training"

    def check(self) -> None:
        """Refuse ways to shard, evaluate and save that do not go together."""
        if self.fsdp and self.fit_micro_batch:
            self.refuse("fit_micro_batch", "must be false with training.fsdp: it measures a model that is not sharded yet")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            self.refuse("early_stopping_patience", "must be null with training.eval_strategy=no, which measures nothing")
        if self.load_best_model_at_end and self.save_strategy not in ("best", self.eval_strategy):
            same = f"must be as training.eval_strategy={self.eval_strategy} (training.save_strategy={self.eval_strategy})"
            self.refuse("save_strategy", f"{same}, or training.load_best_model_at_end=false")
        if isinstance(self.eval_steps, int | float) and self.eval_steps > 1 and self.eval_steps % 1:
            self.refuse("eval_steps", "must be a whole number, or a share below 1")

    def for_rows(self, rows: int, smallest_source: int | None = None) -> "TrainingSettings":
        """These settings with numbers in the place of `auto`; see `e5ft.training.schedule`."""
        numbers = schedule.numbers(vars(self), rows, distributed.world_size(), smallest_source)
        return dataclasses.replace(self, **numbers)


def _kind(described: str) -> Any:
    """An annotation from its description in the file: "int | null"."""
    kinds = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict, "list": list, "null": None}
    return functools.reduce(operator.or_, (kinds[name] for name in described.split(" | ")))


def read_fields() -> dict[str, dict]:
    """Every field of TrainingArguments as the file has it: name -> {"type", "default"}."""
    return json.loads(_FIELDS_FILE.read_text(encoding="utf-8"))


def _made() -> type:
    fields = {name: (_NARROWED.get(name, _kind(f["type"])), f["default"]) for name, f in read_fields().items()} | _OWN
    made = [
        (name, hint, dataclasses.field(default_factory=lambda value=default: value))
        for name, (hint, default) in fields.items()
        if name not in OWNED and name not in PINNED
    ]
    return dataclasses.make_dataclass("TrainingSettings", made, bases=(_TrainingGroup,), frozen=True, kw_only=True)


TrainingSettings = _made()


def training_defaults() -> dict[str, Any]:
    """Field -> default of everything that may be in the `training` group."""
    return {field.name: field.default_factory() for field in dataclasses.fields(TrainingSettings)}


def remedy(field: str) -> str | None:
    """What to say of a field of TrainingArguments that cannot be set; None for any other name."""
    if field in OWNED:
        return f"training.{field}: set it through {OWNED[field]}"
    if field in PINNED:
        return f"training.{field}: cannot be set: {PINNED[field][1]}"
    if field == "warmup_ratio":
        return "training.warmup_ratio: gone from transformers; training.warmup_steps below 1 is a share of all steps"
    return None


def training_arguments(settings: Any, folder: Path) -> "TrainingArguments":
    """TrainingArguments from the `training` group and what other groups own; their default in the place of `auto`.

    Args:
        settings: of train.py.
        folder: the run's folder.

    Raises:
        ConfigurationError: fp16 or compilation without a GPU, or what TrainingArguments itself refuses.
    """
    import torch
    from transformers import TrainingArguments

    training = settings.training
    changed = {
        name: value
        for name, default in training_defaults().items()
        if name not in _OWN and (value := getattr(training, name)) not in (default, schedule.AUTO)
    }
    # TrainingArguments wants no other beside it; here a better checkpoint is always saved.
    changed["eval_steps"] = training.save_steps
    _check_device(training, torch.cuda.is_available() and not training.use_cpu)
    changed.setdefault("use_cpu", not torch.accelerator.is_available())  # bf16 on a CPU is refused without it
    changed.setdefault("disable_tqdm", True)  # ours says the same in fewer lines
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            run_name=str(settings.name),
            report_to="none",
            seed=settings.seed,
            learning_rate=settings.optimizer["lr"],
            weight_decay=settings.optimizer.get("weight_decay") or 0.0,
            eval_on_start=training.eval_strategy != "no",
            **{name: PINNED[name][0] for name in _PASSED_ON},
            **changed,
        )
    except Exception as error:  # it starts accelerate, FSDP and DeepSpeed, each with errors of its own
        raise ConfigurationError(f"training: {' '.join(str(error).split()) or repr(error)}") from error
    if training.eval_steps != schedule.AUTO:  # else chosen when the rows are known
        arguments.eval_steps = training.eval_steps or arguments.logging_steps
    _check_schedule(arguments)
    return arguments


def _check_device(training: Any, on_gpu: bool) -> None:
    from e5ft.training.sharding import NO_DEEPSPEED, NO_FSDP

    if training.deepspeed is not None:
        training.refuse("deepspeed", NO_DEEPSPEED)
    if training.fsdp and not on_gpu:
        training.refuse("fsdp", NO_FSDP)
    if training.fp16 and not on_gpu:
        training.refuse("fp16", "must be false without a GPU (a CPU would train in float32); use training.bf16=true")
    if (training.torch_compile or training.torch_compile_backend or training.torch_compile_mode) and not on_gpu:
        training.refuse("torch_compile", "must be false on a CPU, where dropout's masks cannot be compiled")


def _check_schedule(arguments: "TrainingArguments") -> None:
    """Make a schedule as the Trainer will: its own errors come when everything is loaded, and name no field."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kind, kwargs = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    try:
        get_scheduler(kind, optimizer, num_warmup_steps=1, num_training_steps=2, scheduler_specific_kwargs=kwargs)
    except Exception as error:
        name = getattr(kind, "value", kind)
        raise ConfigurationError(
            f"training.lr_scheduler_type={name} with training.lr_scheduler_kwargs={kwargs}: no such schedule ({error})"
        ) from error


def described_fields() -> dict[str, dict]:
    """The fields of the installed TrainingArguments, as the file should have them."""
    from transformers import TrainingArguments

    hints, described = typing.get_type_hints(TrainingArguments), {}
    for field in dataclasses.fields(TrainingArguments):
        if field.init:
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            default = getattr(default, "value", default)
            described[field.name] = {"type": " | ".join(dict.fromkeys(_names(hints[field.name]))), "default": default}
    return described


def _names(hint: Any) -> typing.Iterator[str]:
    origin = typing.get_origin(hint)
    if origin is not None and origin not in (dict, list):  # a union
        for part in typing.get_args(hint):
            yield from _names(part)
        return
    kind = origin or hint
    is_word = isinstance(kind, type) and issubclass(kind, enum.Enum)
    names = {bool: "bool", int: "int", float: "float", str: "str", dict: "dict", list: "list", type(None): "null"}
    yield "str" if is_word else names.get(kind, "dict")


if __name__ == "__main__":
    _FIELDS_FILE.write_text(json.dumps(described_fields(), indent=1) + "\n", encoding="utf-8")
