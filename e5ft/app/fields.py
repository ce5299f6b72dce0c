"""What each field of the configuration may hold: one table, checked before anything else, so that no value reaches code that
trips over it. Owners (losses, sources of a mix, merging) check what depends on more than one field."""

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Callable, Iterator

from accelerate.utils import DynamoBackend
from transformers import TrainingArguments

from e5ft.errors import ConfigurationError

_HUB_NAME = re.compile(r"(\w[\w.\-]{0,94}\w/)?\w[\w.\-]{0,94}\w", re.ASCII)
_LARGE = 10**12  # more rows, passages or tokens than any machine holds
_HUGE = 1e300  # numbers beyond it overflow in the first sum


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field needs, in words and as a check."""

    needs: str
    accepts: Callable[[object], bool]


def whole(least: int, most: int = _LARGE) -> Rule:
    """A whole number in a range, both ends included."""
    words = f"a whole number, at least {least:,}" if most == _LARGE else f"a whole number from {least:,} to {most:,}"
    return Rule(words, lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most)


def number(*, least: float = -_HUGE, most: float = _HUGE, above: float = -_HUGE, below: float = _HUGE) -> Rule:
    """A finite number in a range."""
    given = (("at least", least, -_HUGE), ("above", above, -_HUGE), ("at most", most, _HUGE), ("below", below, _HUGE))
    words = ["a number", *(f"{word} {value:g}" for word, value, default in given if value != default)]

    def accepts(value: object) -> bool:
        # Compared, not converted: a whole number of 400 digits is no float.
        return _is_number(value) and least <= value <= most and above < value < below

    return Rule(", ".join(words), accepts)


def choice(*words: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(words)}", lambda v: isinstance(v, str) and v in words)


def null_or(rule: Rule) -> Rule:
    """The same, or null."""
    return Rule(f"{rule.needs}, or null,", lambda v: v is None or rule.accepts(v))


def list_of(rule: Rule, least: int = 0) -> Rule:
    """A list, each item by a rule."""
    words = "a list" if not least else "a list of at least one"
    return Rule(f"{words}, each {rule.needs},", lambda v: isinstance(v, list) and len(v) >= least and all(map(rule.accepts, v)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _is_text(value: object) -> bool:
    # A byte of the command line that is not UTF-8 arrives as a lone surrogate, which no file or message takes.
    return isinstance(value, str) and "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_path(value: object) -> bool:
    if not _is_text(value) or not value.strip() or len(value.encode()) > 4000:
        return False
    return all(len(part.encode()) <= 255 for part in value.split("/"))


BOOLEAN = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("a string without NUL", _is_text)  # may be empty
WORD = Rule("a string that is not blank, without NUL,", lambda v: _is_text(v) and bool(v.strip()))
PATH = Rule("the name of a file or folder", _is_path)
SPLIT = Rule("the name of a split, of qrels/NAME.tsv,", lambda v: _is_path(v) and "/" not in v and v not in (".", ".."))
HUB_NAME = Rule("a name on the hub, USER/MODEL,", lambda v: isinstance(v, str) and bool(_HUB_NAME.fullmatch(v)))
MAPPING = Rule("a mapping, {field: value},", lambda v: isinstance(v, dict))
_SHARE_BELOW_ONE = number(least=0, below=1)
_TOKENISATION = choice("bigrams", "kiwi", "words")

_MINING = {
    "sources": list_of(WORD, 1),
    "window": Rule(
        "two ranks, from 1, as [1,50],", lambda v: isinstance(v, list) and len(v) == 2 and all(map(whole(1).accepts, v))
    ),
    "per_query": whole(1, 100_000),
    "choose": choice("top", "sample"),
    "max_uses": null_or(whole(1)),
    "bm25": _TOKENISATION,
    "search": choice("exact", "ivfpq"),
    "filters.near_duplicate": null_or(MAPPING),
    "filters.near_duplicate.ngram": whole(1, 100),
    "filters.near_duplicate.threshold": null_or(number(above=0, most=1)),
    "filters.near_duplicate.measure": choice("containment", "jaccard"),
    "filters.percent": null_or(number(above=0, most=1)),
    "filters.margin": null_or(number(least=0)),
    "filters.max_score": null_or(number()),
    "cross_encoder.path": null_or(PATH),
    "cross_encoder.margin": null_or(number()),
    "cross_encoder.max_score": null_or(number()),
    "cross_encoder.max_length": whole(1, 100_000),
    "cross_encoder.batch_size": whole(1, 1_000_000),
}

RULES = {
    "resume": BOOLEAN,
    "sweep.resume": BOOLEAN,
    "doctor": BOOLEAN,
    "seed": whole(0, 2**32 - 1),
    "cache_dir": PATH,
    "device": choice("auto", "cpu", "cuda"),
    "batch_tokens": whole(1),
    "rounds.count": whole(1, 1000),
    "rounds.start": choice("base", "previous"),
    "data.train_file": null_or(PATH),
    "data.split": WORD,
    **dict.fromkeys((f"data.columns.{name}" for name in ("query", "document", "hard_negative", "scores")), WORD),
    "data.columns.ignore": list_of(TEXT),
    "data.on_bad_row": choice("fail", "skip"),
    "data.max_train_rows": null_or(whole(1)),
    "data.negatives_per_query": null_or(whole(0)),
    "data.dev_file": null_or(PATH),
    "data.dev_share": number(above=0, most=0.5),
    "data.eval_dir": null_or(PATH),
    "data.eval_split": SPLIT,
    "data.eval_corpus_size": Rule("auto, or a whole number of at least 1,", lambda v: v == "auto" or whole(1).accepts(v)),
    "data.keep_dir": Rule(
        "a folder, or a list of folders,",
        lambda v: v is None or _is_path(v) or (isinstance(v, list) and all(map(_is_path, v))),
    ),
    "data.sources": null_or(MAPPING),
    "data.mix.temperature": number(above=0),
    "data.mix.one_source": BOOLEAN,
    "model.path": null_or(PATH),
    **dict.fromkeys(("model.hub", "model.revision", "model.tokenizer"), null_or(PATH)),
    "model.init": choice("pretrained", "random"),
    "model.pooling": null_or(choice("mean", "cls", "last")),
    **dict.fromkeys(("model.text.query_prefix", "model.text.passage_prefix"), null_or(TEXT)),
    **dict.fromkeys(("model.text.query_max_length", "model.text.passage_max_length"), null_or(whole(4, 8192))),
    **dict.fromkeys(("model.dropout", "model.attention_dropout"), null_or(_SHARE_BELOW_ONE)),
    "model.attention": choice("auto", "unpadded", "padded"),
    "model.lora.rank": null_or(whole(1, 65_536)),
    "model.lora.alpha": number(above=0),
    "model.lora.dropout": _SHARE_BELOW_ONE,
    "model.lora.target_modules": Rule("all-linear, or a list of names,", lambda v: isinstance(v, str | list)),
    "model.shape": null_or(MAPPING),
    "loss": MAPPING,
    "loss.negatives": choice("step", "micro_batch"),
    "loss.positives": choice("sample", "all"),
    "loss.guide": null_or(PATH),
    "loss.dimensions": null_or(list_of(whole(1), 1)),
    "loss.dimension_weights": null_or(list_of(number(least=0), 1)),
    "loss.keep_weight": number(least=0),
    "loss.keep_temperature": null_or(number(above=0)),
    "optimizer": MAPPING,
    "optimizer._target_": WORD,
    "training": MAPPING,
    "evaluation.cutoffs": list_of(whole(1), 1),
    "evaluation.bm25": null_or(_TOKENISATION),
    "evaluation.batch_tokens": whole(1),
    "evaluation.intervals": whole(1, 1_000_000),
    "evaluation.dimensions": null_or(list_of(whole(1))),
    # YAML reads a bare off as false.
    "tracking.wandb": Rule(
        "one of auto, offline, online, off", lambda v: v is False or v in ("auto", "offline", "online", "off")
    ),
    "tracking.project": WORD,
    "tracking.entity": null_or(WORD),
    "tracking.tags": list_of(WORD),
    **_MINING,
    **{f"rounds.mining.{field}": rule for field, rule in _MINING.items()},
    "output_file": null_or(PATH),
    "output_dir": null_or(PATH),
    "rows_dir": null_or(PATH),
    "rows_split": SPLIT,
    "corpus_file": null_or(PATH),
    "held_out": choice("corpus", "judged"),
    "compare": null_or(PATH),
    "push": null_or(HUB_NAME),
    "private": BOOLEAN,
    "merge.base": null_or(PATH),
    "merge.alpha": Rule("a share, or a list of them,", lambda v: isinstance(v, int | float | list) and not isinstance(v, bool)),
    "merge.split": SPLIT,
}

# Of TrainingArguments: where the type alone lets through what fails later, or means nothing.
_ABOVE_ZERO = number(above=0)
_COUNT = whole(1, 1_000_000_000)
TRAINING_RULES = {
    "per_device_train_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "num_train_epochs": number(above=0, most=1e9),
    "max_steps": Rule("a whole number, at least 1, or -1 to go by num_train_epochs,", lambda v: _COUNT.accepts(v) or v == -1),
    "warmup_steps": number(least=0),
    "max_grad_norm": number(least=0),
    "eval_delay": number(least=0),
    **dict.fromkeys(("logging_steps", "save_steps"), _ABOVE_ZERO),
    "eval_steps": null_or(_ABOVE_ZERO),
    "save_total_limit": null_or(_COUNT),
    "torch_empty_cache_steps": null_or(_COUNT),
    "early_stopping_patience": null_or(_COUNT),
    "dataloader_num_workers": whole(0, 256),
    "dataloader_prefetch_factor": null_or(whole(1, 10_000)),
    "dataloader_multiprocessing_context": null_or(choice("fork", "forkserver", "spawn")),
    **dict.fromkeys(
        ("log_level", "log_level_replica"), choice("detail", "debug", "info", "warning", "error", "critical", "passive")
    ),
    "neftune_noise_alpha": Rule("null (no noise is added to embeddings here; model.dropout is there)", lambda v: v is None),
    "use_liger_kernel": Rule("false (its kernels know no encoder)", lambda v: v is False),
    "parallelism_config": Rule("null (processes share the data alone)", lambda v: v is None),
    "torch_compile_backend": null_or(choice(*(backend.value.lower() for backend in DynamoBackend))),
    "torch_compile_mode": null_or(choice("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")),
    "ddp_timeout": whole(1, 10**9),
    "ddp_bucket_cap_mb": null_or(whole(1, 1_000_000)),
    "metric_for_best_model": null_or(WORD),
    "fsdp": null_or(BOOLEAN),  # TrainingArguments' own annotation still names the strings of version 1
    "compact_embedding": BOOLEAN,
    "group_by_length": BOOLEAN,
}

# Groups in which a field that nobody reads is refused: there it is a misspelling that `+` let through.
_CLOSED = (
    *("data.columns", "model", "model.text", "model.lora", "evaluation", "tracking", "merge", "data.mix"),
    *(prefix + group for prefix in ("", "rounds.mining.") for group in ("filters", "filters.near_duplicate", "cross_encoder")),
)


def check_fields(values: dict, rules: dict[str, Rule] = RULES, place: str = "") -> None:
    """Hold every field of a configuration against the table.

    Args:
        values: the configuration, resolved, as plain values.
        rules: dotted path -> rule; a path that the configuration does not have is passed over.
        place: where `values` stands in the whole, for messages.

    Raises:
        ConfigurationError: the first field that is none of the known, of another type, or out of range.
    """
    start = f"{place}." if place else ""
    for path, rule in rules.items():
        for value in _found(values, path, start):
            if not rule.accepts(value):
                needs = rule.needs.rstrip(",")
                raise ConfigurationError(f"{start}{path}={shown(value)}: {needs} is needed")
    for group in _CLOSED if not place else ():
        known = {path.removeprefix(f"{group}.").split(".")[0] for path in rules if path.startswith(f"{group}.")}
        for value in _found(values, group, start):
            unknown = [name for name in value or () if name not in known]
            if unknown:
                raise ConfigurationError(
                    f"{group}.{unknown[0]}={shown(value[unknown[0]])}: no such field; there are {', '.join(sorted(known))}"
                )


def check_training(given: dict, defaults: dict[str, object]) -> None:
    """Hold the `training` group against the types of TrainingArguments and the ranges above.

    Args:
        given: the group's values.
        defaults: of the fields that a user may set; a default is always right.

    Raises:
        ConfigurationError: the first field of another type, or out of range.
    """
    hints = typing.get_type_hints(TrainingArguments)
    for field, value in given.items():
        if field not in defaults:
            raise ConfigurationError(f"training.{field}={shown(value)}: transformers.TrainingArguments has no such field")
        if value == defaults[field] and type(value) is type(defaults[field]):
            continue
        rule = TRAINING_RULES.get(field) or (_rule_of(hints[field]) if field in hints else None)
        if rule is not None and not rule.accepts(value):
            raise ConfigurationError(f"training.{field}={shown(value)}: {rule.needs.rstrip(',')} is needed")


def shown(value: object) -> str:
    """A value for a message: what Python calls it, cut where it is long, and printable wherever."""
    text = repr(value)
    return (text if len(text) <= 100 else f"{text[:97]}...").encode("utf-8", "backslashreplace").decode()


def _found(values: dict, path: str, start: str) -> Iterator[object]:
    """The value at a path, if the configuration has it; a parent that is no mapping is an error of its own."""
    here, walked = values, []
    for name in path.split("."):
        if here is None and walked:
            break  # a group that is switched off; whether it may be is its own rule's
        if not isinstance(here, dict):
            raise ConfigurationError(f"{start}{'.'.join(walked)}={shown(here)}: a mapping, {{field: value}}, is needed")
        if name not in here:
            return
        here = here[name]
        walked.append(name)
    else:
        yield here
        return
    if ".".join(walked) not in _MAY_BE_NULL:
        raise ConfigurationError(f"{start}{'.'.join(walked)}=null: a mapping, {{field: value}}, is needed")


_MAY_BE_NULL = ("filters.near_duplicate", "rounds.mining.filters.near_duplicate", "model.shape", "data.sources")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", dict: "a mapping", list: "a list"}


def _rule_of(hint: object) -> Rule:
    """A rule from a type annotation: `float | None` takes 1, 0.5 and null."""
    kinds, optional = set(), False
    for part in _parts(hint):
        if part is type(None):
            optional = True
        elif isinstance(part, type) and issubclass(part, enum.Enum):
            kinds.add(str)
        else:
            kinds.add(part)
    known = [kind for kind in _WORDS if kind in kinds] or list(_WORDS)
    words = " or ".join(_WORDS[kind] for kind in known)
    return Rule(words + (", or null" if optional else ""), lambda v: (v is None and optional) or any(_is_a(v, k) for k in known))


def _parts(hint: object) -> Iterator[object]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _parts(part)
    else:
        yield typing.get_origin(hint) or hint


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGE
    return _is_text(value) if kind is str else isinstance(value, kind)
