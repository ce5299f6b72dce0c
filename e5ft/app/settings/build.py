"""From what Hydra composed to settings: the one place where a `DictConfig` is opened."""

import dataclasses
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from e5ft.app.settings.groups import EvalSettings, ExportSettings, MineSettings, Seed, TrainSettings
from e5ft.app.settings.guard import run_dir, sweep_dir, without_secrets
from e5ft.app.settings.training import remedy, training_defaults
from e5ft.app.settings.verbs import (
    AuditSettings,
    CheckSettings,
    ReportSettings,
    RowsSettings,
    RunsSettings,
    ServeSettings,
    SplitSettings,
)
from e5ft.data.settings import data_settings
from e5ft.errors import ConfigurationError, E5ftError
from e5ft.modeling.settings import LoraSettings, ModelSource
from e5ft.retrieval.settings import MiningSettings
from e5ft.settings import (
    HUB_NAME,
    Settings,
    Word,
    build,
    check_value,
    hints,
    holds_path,
    leaves,
    nearest,
    nested_settings,
    number,
    shown,
    words,
)
from e5ft.training.settings import Scale

if TYPE_CHECKING:
    import torch

SCRIPTS = {
    "train": TrainSettings,
    "eval": EvalSettings,
    "mine": MineSettings,
    "export": ExportSettings,
    "check": CheckSettings,
    "audit": AuditSettings,
    "serve": ServeSettings,
    "rows": RowsSettings,
    "split": SplitSettings,
    "runs": RunsSettings,
    "report": ReportSettings,
}
# Settings that have moved; on the command line the old name works for one version.
MOVED = {
    "train": {
        **{f"loss.{name}": f"step.{name}" for name in ("negatives", "positives", "guide")},
        "loss.dimensions": "matryoshka.dimensions",
        "loss.dimension_weights": "matryoshka.weights",
        "loss.keep_weight": "keep.weight",
        "loss.keep_temperature": "keep.temperature",
    },
    "mine": {"output_file": "output_dir", "corpus_file": "data.corpus_file"},
    "export": {"merge.split": "data.eval_split"},
}
_PLUGINS = {  # of Hydra, by the option that each brings
    "optuna": "hydra-optuna-sweeper",
    "joblib": "hydra-joblib-launcher",
    **dict.fromkeys(("submitit_local", "submitit_slurm"), "hydra-submitit-launcher"),
}
_PARAMETERS = ("loss", "optimizer")  # groups whose fields are the parameters of a class


def shipped(name: str) -> Path:
    """A file or folder that ships with the package, in a clone or in an installed package: "conf", "data/sample"."""
    package = Path(__file__).resolve().parents[2]
    clone = package.parent / name
    return clone if (package.parent / "train.py").is_file() and clone.exists() else package / "shipped" / name


def purpose(script: str) -> str:
    """What a script is for, in one sentence: the first line of its --help."""
    return OmegaConf.select(OmegaConf.load(shipped(f"conf/{script}.yaml")), "hydra.help.header", default="\n").splitlines()[0]


def register() -> None:
    """Make the resolvers and the node of TrainingArguments' fields known to Hydra; calling it again changes nothing."""
    resolvers = {"project": lambda path: str(shipped(path)), "run_dir": run_dir, "sweep_dir": sweep_dir}
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(f"e5ft.{name}", function, replace=True)
    ConfigStore.instance().store(group="training", name="arguments", node=training_defaults())


def data_defaults() -> dict:
    """The `data` group as it ships: what a command need not name."""
    return OmegaConf.to_container(OmegaConf.load(shipped("conf/data/default.yaml")), resolve=True)


def settings_of(script: str, config: DictConfig) -> Any:
    """The settings that a script's configuration holds, each value checked.

    Args:
        script: a key of SCRIPTS.
        config: as Hydra composed it.

    Raises:
        ConfigurationError: the first field that is unknown, or has a value that it cannot have.
    """
    values = OmegaConf.to_container(config, resolve=True)
    for leftover in ("hydra", "recipe"):  # a recipe's temperature has reached the loss through an interpolation
        values.pop(leftover, None)
    for path, value in leaves(values):
        if isinstance(value, str) and "\0" in value:
            raise ConfigurationError(f"{path}={shown(value)}: holds a NUL character")
        _check_place(script, path, value, values)
    if "data" in hints(SCRIPTS[script]):
        check_value(values.get("seed"), Seed, "seed")
        values["data"] = data_settings(_group(values, "data"))
    if "model" not in hints(SCRIPTS[script]):
        return build(SCRIPTS[script], values, "")
    model = _group(values, "model")
    lora = build(LoraSettings, model.pop("lora", {}))
    if script == "train":
        values["rounds"] = _group(values, "rounds")
        values["rounds"]["mining"] = {**_group(values["rounds"], "mining"), "seed": values["seed"]}
        values["lora"] = None if lora.rank is None else lora
        for name in _PARAMETERS:
            _check_parameters(name, _group(values, name))
    elif lora.rank is not None:
        lora.refuse("rank", "must be null: only train.py adds adapters, and what it exports has them merged")
    elif model.get("freeze"):
        raise ConfigurationError(f"model.freeze={shown(model['freeze'])}: must be [] here: only train.py trains")
    _check_hub_name(model.get("path"))
    is_named = (
        script not in ("mine", "rows", "audit")
        or any(map(model.get, ("path", "hub", "package")))
        or model.get("init") == "random"
    )
    values["model"] = build(ModelSource, {**model, "seed": values["seed"], "cache": values["cache_dir"]}) if is_named else None
    if script == "mine":
        values["mining"] = {name: values[name] for name in hints(MiningSettings)}
        for name in hints(MiningSettings).keys() - hints(MineSettings).keys():
            del values[name]
    return build(SCRIPTS[script], values, "")


def with_model_group(verb: str, arguments: list[str]) -> list[str]:
    """The arguments of train.py with model=folder, where a folder or hub name is given and no group: the default is mini's."""
    names = {argument.partition("=")[0].lstrip("+") for argument in arguments}
    named = verb == "train" and names & {"model.path", "model.hub"} and not names & {"model", "experiment"}
    return [*arguments, "model=folder"] if named else arguments


def check_model_group(verb: str, config: DictConfig, choices: Mapping[str, str], overrides: list[str]) -> None:
    """Refuse a model under mini's tokenizer and text format where nobody chose mini: an experiment leaves it the default.

    Raises:
        ConfigurationError: so it is.
    """
    model = config.get("model") or {}
    chosen = any(override.lstrip("+").startswith("model=") for override in overrides)
    for field in ("path", "hub"):
        if verb == "train" and choices.get("model") == "mini" and not chosen and model.get(field) is not None:
            raise ConfigurationError(
                f"model.{field}={model[field]}: with model=mini, the default, it would have mini's tokenizer and text format; "
                "add model=folder"
            )


def plain(settings: Settings) -> dict:
    """Settings as the plain values of a configuration, without whatever looks like a secret."""
    values = dataclasses.asdict(settings)
    if "lora" in values:
        values["model"]["lora"] = values.pop("lora") or {"rank": None}
    for name in type(settings).FLAT:
        values = {**values.pop(name), **values}
    return without_secrets(values)


def make_loss(values: Mapping[str, Any]) -> "torch.nn.Module":
    """The loss of the class that `_target_` names.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        return instantiate(dict(values), _convert_="all")
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, E5ftError):
            raise cause from error
        raise ConfigurationError(f"loss: {values['_target_']} could not be made: {cause or error}") from error


def optimizer_class(values: Mapping[str, Any]) -> tuple[type, dict]:
    """The optimizer's class and arguments, as transformers.Trainer takes them (an instance would fail under FSDP).

    Raises:
        ConfigurationError: there is no such class, or it refuses an argument.
    """
    import torch

    arguments = {name: value for name, value in values.items() if name != "_target_"}
    try:
        kind = get_class(values["_target_"])
    except Exception as error:
        raise ConfigurationError(f"optimizer._target_={values['_target_']}: no such class ({error})") from error
    try:  # its own checks, now: the Trainer makes it when everything is loaded
        kind([torch.nn.Parameter(torch.zeros(1))], **arguments)
    except Exception as error:
        given = ", ".join(f"optimizer.{field}={shown(value)}" for field, value in arguments.items())
        raise ConfigurationError(f"optimizer: {values['_target_']} does not take {given}: {error}") from error
    return kind, arguments


def field_names(script: str) -> list[str]:
    """The dotted names of everything that a script can be told."""
    names = list(dict(_fields(SCRIPTS[script])))
    for group in _PARAMETERS if script == "train" else ():
        for file in shipped(f"conf/{group}").glob("*.yaml"):
            names += [f"{group}.{name}" for name in OmegaConf.load(file) if name not in ("defaults", "_target_")]
    return list(dict.fromkeys(names))


def path_fields(script: str) -> set[str]:
    """The dotted names of the fields that hold names of files and folders."""
    return {name for name, annotation in _fields(SCRIPTS[script]) if holds_path(annotation)}


def hint(message: str, script: str, arguments: Iterable[str] = ()) -> str | None:
    """What to say beside Hydra's own message about a field that it does not know; None if there is nothing.

    Args:
        message: Hydra's.
        script: a key of SCRIPTS.
        arguments: of the command line, for the value that was given.
    """
    plugin = re.search(r"Could not (?:find|load) 'hydra/(launcher|sweeper)/(\w+)'", message)
    if plugin is not None and plugin[2] in _PLUGINS:
        return f"hydra/{plugin[1]}: needs {_PLUGINS[plugin[2]]}; pip install {_PLUGINS[plugin[2]]}"
    option = re.search(r"Could not find '(\w+)/(.+?)'\s+Available options in '\1':((?:\n\t[\w.-]+$)+)", message, re.MULTILINE)
    if option is not None:
        return _option_hint(option[1], option[2], option[3].split())
    match = re.search(r"full_key: ([\w.]+)", message) or re.search(r"Could not override '([\w.]+)'", message)
    if match is None:
        return None
    field = match[1]
    if field in MOVED.get(script, {}):
        return f"{field}: is {MOVED[script][field]} now"
    group, fields = field.rpartition(".")[0], dict(_fields(SCRIPTS[script]))
    if group in fields and "a mapping" in words(fields[group]):  # of free fields: model.shape, lr_scheduler_kwargs
        return f"{field}: not in {group}; to add it: +{field}=VALUE"
    known = field_names(script)
    if field in known:  # of another loss or optimizer
        return f"{field}: no field of the chosen {group}; leave it out, or choose another ({group}=NAME)"
    advice = remedy(field.rpartition(".")[2])
    if advice is None and (meant := _same_end(field, known)):
        given = next((value for name, _, value in (a.partition("=") for a in arguments) if name.lstrip("+") == field), "")
        first, *others = (shlex.quote(f"{name}={given}") if given else name for name in meant[:3])
        further = f" (or {', '.join(others)})" if others else ""
        advice = f"{field}: no such field; did you mean {first}{further}?"
    close = nearest(field, known)
    return advice or f"{field}: no such field{close if 'did you' in close else '; every field: docs/configuration.md'}"


def _same_end(field: str, known: Iterable[str]) -> list[str]:
    """Known fields whose last part is the field's, or ends with a bare name (batch_size), the likeliest first."""
    bare, group = field.rpartition(".")[2], field.rpartition(".")[0]
    names = sorted((n for n in known if not n.startswith("rounds.")), key=lambda n: (not n.startswith(_PARAMETERS), n.count(".")))
    exact = [name for name in names if name.endswith(f".{bare}")]
    return exact or [name for name in names if not group and name.endswith(f"_{bare}")]


def _option_hint(group: str, name: str, options: list[str]) -> str:
    """What to type instead of an option that a group does not have."""
    if group == "model" and Path(name).expanduser().is_dir():
        return f"model={name}: no preset; a folder is model=folder model.path={name}"
    if group == "model" and "/" in name and HUB_NAME.fullmatch(name):
        return f"model={name}: no preset; a hub model is {_hub_override(name)}"
    return f"{group}={name}: no such option{nearest(name, options, f'{group}=')}"


def _check_hub_name(path: object) -> None:
    """Refuse a name of the hub where a folder must be."""
    is_name = isinstance(path, str) and path.count("/") == 1 and HUB_NAME.fullmatch(path)
    if is_name and not Path(path).is_dir() and not Path(path).parent.is_dir():
        raise ConfigurationError(f"model.path={path}: no such folder; a hub model is {_hub_override(path)}")


def _hub_override(name: str) -> str:
    presets = {OmegaConf.load(file).get("hub"): file.stem for file in shipped("conf/model").glob("*.yaml")}
    return f"model=folder model.hub={name}" + (f" (preset: model={presets[name]})" if name in presets else "")


def _check_place(script: str, path: str, value: object, values: dict) -> None:
    """Refuse a value where nothing reads it, but a field was or settings are filled: it would be lost, or refused by another name."""
    old, loss = path.partition("[")[0], values.get("loss")
    if old in MOVED.get(script, {}):
        is_ours = isinstance(loss, Mapping) and str(loss.get("_target_")).startswith("e5ft.")
        if is_ours or not old.startswith("loss."):  # a loss of the user's own may have a field of this name
            raise ConfigurationError(f"{old}: is {MOVED[script][old]} now")
    if value is not None and path.endswith(("filters.teacher_margin", "filters.teacher_max_score")):
        group, _, field = path.rpartition("filters.teacher_")  # held there for the filters, set at the cross-encoder
        raise ConfigurationError(f"{path}: no such field; did you mean {group}cross_encoder.{field}?")
    filled = {"model.seed": "seed", "model.cache": "cache_dir", "rounds.mining.seed": "seed", "lora": "model.lora"}
    for place, meant in (filled | {"mining": ""} if script == "mine" else filled).items():
        if f"{path}.".startswith(f"{place}."):
            named = f"{meant}{path.removeprefix(place)}".removeprefix(".")
            raise ConfigurationError(f"{path}={shown(value)}: no such field; did you mean {named}?")


def _group(values: dict, name: str) -> dict:
    if not isinstance(values.get(name), Mapping):
        raise ConfigurationError(f"{name}={shown(values.get(name))}: must be a mapping, {{field: value}}")
    return dict(values[name])


def _check_parameters(group: str, values: dict) -> None:
    """Check what every class of a group has, without torch; the class checks the rest when it is made."""
    check_value(values.get("_target_"), Word, f"{group}._target_")
    for path, value in leaves(values, group):
        if value in ("None", "~None"):
            raise ConfigurationError(f"{path}={value}: the word for nothing is null")
    if group == "loss" and values["_target_"].startswith("e5ft.") and "temperature" in values:
        check_value(values["temperature"], Scale, "loss.temperature")
    if group == "optimizer":
        check_value(values.get("lr"), number(above=0, below=10), "optimizer.lr")
        check_value(values.get("weight_decay"), number(least=0) | None, "optimizer.weight_decay")


def _fields(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, annotation in hints(kind).items():
        nested = nested_settings(annotation)
        path = "model.lora." if name == "lora" else prefix if name in kind.FLAT else f"{prefix}{name}."
        if nested is not None:
            yield from _fields(nested, path)
        elif name not in _PARAMETERS:
            yield f"{prefix}{name}", annotation
