"""What a model's own files say of pooling and text format: sentence-transformers' layout, or e5ft's record in config.json.

A folder and the hub are read alike. Modules that e5ft does not have are refused by name: without them the vectors would be another
model's. Normalize may be missing, as ranking by cosine is the same with and without.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from e5ft.data.lines import printable
from e5ft.data.text import RECORD, TextSpec
from e5ft.errors import ConfigurationError
from e5ft.files import read_json
from e5ft.modeling.checks import first_line
from e5ft.modeling.encoder import EncoderSpec, positions
from e5ft.modeling.pooling import POOLINGS
from e5ft.modeling.settings import ModelSource
from e5ft.settings import override

SET, RECORDED = "as set", "recorded by the model"
_MODULES = ("Transformer", "Pooling", "Normalize")
_TRANSFORMER_FILES = [f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")]
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # in the order in which sentence-transformers looks for them
_LENGTHS = ("query_max_length", "passage_max_length")
_PREFIXES = ("query_prefix", "passage_prefix")
# multilingual-e5-small, e5-base-v2, KoE5: names of models that record no prompts and read `query: ` and `passage: ` all the same.
_E5 = re.compile(r"(?:^|[^a-z0-9])(?:ko)?e5(?![a-z0-9])(?!.*instruct)", re.IGNORECASE)
_BASE_IN_CARD = re.compile(r"^(?:base_model:\s*(?:-\s*)?|-\s*name:\s*)(\S+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a model records, or what is taken where it records nothing.

    Attributes:
        values: pooling and the fields of a TextSpec; what is absent is E5's.
        origins: "pooling", "prefixes" and "length" -> where it is from, in words.
        lower_case: whether every text is lower-cased before the tokenizer sees it.
    """

    values: dict[str, object]
    origins: dict[str, str]
    lower_case: bool = False


def spec_of(source: ModelSource, config) -> tuple[EncoderSpec, bool]:
    """The pooling and text format of a source: settings win, then what the model records, then E5's.

    Args:
        source: where the model comes from.
        config: transformers' configuration of it.

    Returns:
        The spec, and whether the tokenizer must lower-case.

    Raises:
        ConfigurationError: the model needs what e5ft does not have, a file cannot be read, or two records differ.
    """
    given = {"pooling": source.pooling, **dataclasses.asdict(source.text)}
    given = {name: value for name, value in given.items() if value is not None}
    found = _recorded(source, config, given)
    values = {**found.values, **given}
    facets = {"pooling": ("pooling",), "prefixes": _PREFIXES, "length": _LENGTHS}
    origins: dict[str, list[str]] = {}
    for facet, fields in facets.items():
        origins.setdefault(SET if given.keys() & set(fields) else found.origins[facet], []).append(facet)
    parts = [f"{' and '.join(names)} {origin}" for origin, names in origins.items()]
    pooling = values.pop("pooling")
    try:
        spec = EncoderSpec(pooling, TextSpec.from_dict(values), ", ".join(parts) if len(parts) > 1 else next(iter(origins)))
    except ConfigurationError as error:
        raise error if source.path is None and source.hub is None else ConfigurationError(f"{source.label}: {error}") from error
    return spec, found.lower_case


def _recorded(source: ModelSource, config, given: Mapping[str, object]) -> Recorded:
    ours = getattr(config, RECORD, None)
    if ours is not None:
        ours = _flat_record(source, ours)
    by_shape = source.path is None and (source.hub is None or (source.init == "random" and source.shape))
    theirs = None if by_shape else _sentence_transformers(source, config, given)
    if ours is not None:
        if theirs is not None:
            _refuse_two_records(source, ours, theirs.values, given)
        everything = dict.fromkeys(("pooling", "prefixes", "length"), RECORDED)
        return Recorded({"pooling": "mean", **ours}, everything, theirs is not None and theirs.lower_case)
    if theirs is not None:
        return theirs
    length = int(min(TextSpec().query_max_length, positions(config)))
    none = "E5's, since the model records none"
    if not by_shape and source.path is None and not _is_known(source, "modules.json"):
        none = "E5's, since the local cache has no record of the model's, and HF_HUB_OFFLINE is set"
    return Recorded(
        {"pooling": "mean", **dict.fromkeys(_LENGTHS, length)}, dict.fromkeys(("pooling", "prefixes", "length"), none)
    )


def _flat_record(source: ModelSource, record: object) -> dict[str, object]:
    if not isinstance(record, dict) or not isinstance(record.get("text", {}), dict):
        raise ConfigurationError(f"{source.label}: what it records of prefixes and pooling is no mapping: {str(record)[:60]!r}")
    return {**({"pooling": record["pooling"]} if "pooling" in record else {}), **record.get("text", {})}


def _refuse_two_records(source: ModelSource, ours: dict, theirs: dict, given: Mapping[str, object]) -> None:
    """Refuse a model that was saved by sentence-transformers, with other values, after e5ft had made it.

    Raises:
        ConfigurationError: the two records differ in what is not set.
    """
    ours = {**dataclasses.asdict(TextSpec()), "pooling": "mean", **ours}
    fields = (
        ["pooling", *_PREFIXES]
        if theirs[_LENGTHS[0]] == max(ours[name] for name in _LENGTHS)
        else ["pooling", *_PREFIXES, *_LENGTHS]
    )
    differ = [name for name in fields if name in theirs and name not in given and ours[name] != theirs[name]]
    if not differ:
        return
    shown = ", ".join(f"{name} {ours[name]!r} / {theirs[name]!r}" for name in differ)
    typed = " ".join(override("model.pooling" if name == "pooling" else f"model.text.{name}", theirs[name]) for name in differ)
    raise ConfigurationError(
        f"{source.label}: config.json's e5ft record and the sentence-transformers files differ: {shown}; "
        f"to take the files': {typed} (for good: delete e5ft from config.json)"
    )


def _sentence_transformers(source: ModelSource, config, given: Mapping[str, object]) -> Recorded | None:
    """Read a model in sentence-transformers' layout; None for any other."""
    place = source.label
    file = model_file(source, "modules.json", needed=not given.keys() >= {"pooling", *_PREFIXES})
    if file is None:
        return None
    modules = _parsed(file, f"{place}/modules.json")
    poolings = _pooling_folders(place, modules)
    pooling, include_prompt = given.get("pooling"), True
    if pooling is None:
        pooling, include_prompt = _pooling(source, poolings)
    prefixes, origin = _prompts(source, needed=not given.keys() >= set(_PREFIXES))
    values = {"pooling": pooling, **prefixes}
    if pooling == "mean" and not include_prompt and any({**prefixes, **given}[name] for name in _PREFIXES):
        raise ConfigurationError(
            f"{place}: {poolings[0]} has include_prompt=false (the mean leaves the prompt's tokens out), which e5ft does not have; "
            "model.pooling=mean takes them in, which gives other vectors"
        )
    settings = next(filter(None, (_mapping(source, name) for name in _TRANSFORMER_FILES)), {})
    length = settings.get("max_seq_length")
    if length is None:  # then sentence-transformers asks tokenizer and positions
        length = _mapping(source, "tokenizer_config.json").get("model_max_length")
    whole = isinstance(length, int | float) and not isinstance(length, bool) and length >= 4
    values |= dict.fromkeys(_LENGTHS, int(min(length if whole else 8192, positions(config), 8192)))
    origins = {"pooling": RECORDED, "prefixes": origin, "length": RECORDED}
    return Recorded(values, origins, settings.get("do_lower_case") is True)


def _pooling_folders(place: str, modules: object) -> list[str]:
    """The folders of the Pooling modules.

    Raises:
        ConfigurationError: there is a module that e5ft does not have, or no Transformer in the folder itself.
    """
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ConfigurationError(f"{place}/modules.json: must be a list of modules")
    needed, folders = "a model of Transformer, Pooling and Normalize is needed", []
    for module in modules:
        kind, path = printable(str(module.get("type"))), printable(str(module.get("path") or ""))
        name = kind.rpartition(".")[2]
        if not kind.startswith("sentence_transformers.") or name not in _MODULES:
            shown = name if kind.startswith("sentence_transformers.") else kind
            raise ConfigurationError(
                f"{place}: modules.json lists {path or printable(str(module.get('name')))} ({shown}), which e5ft does not have; {needed}"
            )
        if name == "Transformer" and path:
            raise ConfigurationError(
                f"{place}: modules.json has its Transformer in {path}; SentenceTransformer({str(place)!r}).save('NEW') makes a folder that is read"
            )
        folders += [path] if name == "Pooling" else []
    return folders


def _pooling(source: ModelSource, folders: list[str]) -> tuple[str, bool]:
    """The recorded pooling, and whether a prompt's tokens count."""
    place = source.label
    if len(folders) != 1:
        raise ConfigurationError(
            f"{place}: modules.json lists {len(folders)} Pooling modules, must be one; or say model.pooling=mean (cls, last)"
        )
    file = f"{folders[0]}/config.json".lstrip("/")
    values = _mapping(source, file)
    if not values:
        raise ConfigurationError(f"{place}: {file}, which says the pooling, is missing; say it: model.pooling=mean (cls, last)")
    names = values.get("pooling_mode") or [key for key, on in values.items() if key.startswith("pooling_mode_") and on]
    # Several are concatenated there: such a name is none of ours, and EncoderSpec refuses it.
    name = names if isinstance(names, str) else "+".join(map(str, names if isinstance(names, list) else [names]))
    ours = (key for key, pooling in POOLINGS.items() if name in (pooling.name, f"pooling_mode_{pooling.legacy_name}"))
    return next(ours, name), values.get("include_prompt") is not False


def _prompts(source: ModelSource, needed: bool) -> tuple[dict[str, str], str]:
    """Both prefixes and where they are from: sentence-transformers' prompts, E5's for what is called E5, else none.

    `needed` says whether they are used, so that a hub which does not answer must not be taken for one without prompts.
    """
    place = f"{source.label}/config_sentence_transformers.json"
    settings = _mapping(source, "config_sentence_transformers.json", needed)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ConfigurationError(f"{place}: prompts={str(prompts)[:60]!r}: must be a mapping")
    default = settings.get("default_prompt_name")
    names = [next((n for n in (*known, default) if n in prompts), None) for known in (("query",), _PASSAGE_PROMPTS)]
    values = ["" if name is None or prompts[name] is None else prompts[name] for name in names]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, str):
            raise ConfigurationError(f"{place}: prompts.{name}={str(value)[:60]!r}: must be a string")
    e5 = None if any(values) else _e5_name(source)
    if any(names):
        origin = RECORDED + (f" (of {e5}, whose own are 'query: ' and 'passage: ')" if e5 else "")
    elif e5:
        values, origin = [TextSpec().query_prefix, TextSpec().passage_prefix], f"E5's, since {e5} records none"
    else:
        others = printable(f" (its prompts are {', '.join(map(str, prompts))})") if prompts else ""
        origin = f"none, since the model records none{others}"
    return dict(zip(_PREFIXES, values, strict=True)), origin


def _e5_name(source: ModelSource) -> str | None:
    """What says that a model is an E5: its own name, or that of its base in config.json or the model card; None otherwise."""
    names = [source.hub] if source.path is None else [Path(source.path).absolute().name]
    if source.path is not None:  # a snapshot in the hub's cache
        names += [part for part in Path(source.path).resolve().parts if part.startswith("models--")]
    names.append(_mapping(source, "config.json").get("_name_or_path"))
    card = None if any(isinstance(name, str) and _E5.search(name) for name in names) else model_file(source, "README.md")
    if card is not None:
        names += _BASE_IN_CARD.findall(card.read_text(encoding="utf-8", errors="replace")[:100_000])
    return next((printable(name) for name in names if isinstance(name, str) and _E5.search(name)), None)


def _mapping(source: ModelSource, name: str, needed: bool = False) -> dict:
    """A JSON object from a file of the model; empty where there is no file. See `model_file`."""
    file = model_file(source, name, needed)
    if file is None:
        return {}
    value = _parsed(file, f"{source.label}/{name}")
    if not isinstance(value, dict):
        raise ConfigurationError(f"{source.label}/{name}: must hold a JSON object, not {type(value).__name__}")
    return value


def _parsed(file: Path, place: str) -> object:
    try:
        return read_json(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{place}: not readable as JSON ({first_line(error)})") from error


def _is_known(source: ModelSource, name: str) -> bool:
    """Whether the hub, or the cache of an earlier answer of its, says that a file is there or is not."""
    return not constants.HF_HUB_OFFLINE or try_to_load_from_cache(source.hub, name, revision=source.revision) is not None


def model_file(source: ModelSource, name: str, needed: bool = False) -> Path | None:
    """A file of the model, in its folder, the local cache or fetched from the hub; None where the model has none.

    Args:
        source: of the model.
        name: in its folder.
        needed: whether it must be known that there is none: then a hub that does not answer is an error.

    Raises:
        ConfigurationError: that is not known.
    """
    if source.path is not None:
        file = Path(source.path) / name
        return file if file.is_file() else None
    cached = try_to_load_from_cache(source.hub, name, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return Path(hf_hub_download(source.hub, name, revision=source.revision, etag_timeout=5))
    except (EntryNotFoundError, OSError) as error:
        is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        if is_absent or not needed:
            return None
        raise ConfigurationError(
            f"{source.hub}: the hub does not say whether there is a {name} ({first_line(error)}); try again, or "
            "HF_HUB_OFFLINE=1 to go by the local cache alone"
        ) from error
