"""What once went wrong without a word, as a table of faults, and the controls: the same commands without them."""

import csv
import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from e5ft.files import MANIFEST, read_json, write_json, write_manifest
from e5ft.training.checkpoint import OPTIMIZER, definition_of
from tests.chaos.hostile_models import set_config, set_weights

STEPS = 3  # of a run; where one is killed, it is in the last
RUN, CHECKPOINT = "outputs/run", f"outputs/run/checkpoint-{STEPS - 1}"
INPUTS = ("rows.jsonl", "dev.jsonl", "target", "kept", "model", "guide")
ROWS = 12  # of the small files of rows that are made here

Change = Callable[[Path], list[str] | None]  # of a world, a folder; returns what the command must say once, beside `words`


def nothing(world: Path) -> None:
    """Leave the world as it is: the fault is in the overrides, or there is none."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A fault, or a control.

    Attributes:
        kind: the line of the table.
        name: of the fault.
        do: what is done.
        overrides: of the command.
        words: what it must say.
        code: what it must end with. 0: its results must hold. Others: every file of a killed run must be as it was.
        killed: whether it finds a run that was killed in its last step.
        holds: what must be true of summary.json. None: the results must be those of the same command on a fresh cache; after a
            kill, those of a run that nothing stopped.
        script: the command.
        control: whether it is one.
    """

    kind: str
    name: str
    do: Change = nothing
    overrides: str = ""
    words: tuple[str, ...] = ()
    code: int = 0
    killed: bool = False
    holds: Callable[[dict], bool] | None = None
    script: str = "train.py"
    control: bool = False


def cases() -> Iterator[Case]:
    """All faults and controls."""
    for kind, name, do, overrides, fields in _RESUMED:
        words = "differs from the interrupted run's", *(f"\n  {field}: " for field in fields)
        yield Case(kind, name, do, f"resume=true {overrides}", words, code=2, killed=True)
    for (name, do), (way, (overrides, code, words)) in itertools.product(_STATUS.items(), _WAYS.items()):
        code, words = (code, words) if name == "gone" else (2, "status.json: damaged; remove it")
        yield Case(RECORDS, f"status.json {name}: {way}", do, overrides, (words,), code, killed=True)
    for name, do, *words in _CHECKPOINTS:
        yield Case(RECORDS, name, do, "resume=true", tuple(words), code=2, killed=True)
    for (kind, file), (name, change) in itertools.product(_FILES, _DAMAGE.items()):
        yield Case(CACHES, f"{kind}/{file} {name}", _entries(kind, file, change))
    for file, name in itertools.product(("0-of-1.f32", MANIFEST), _DAMAGE):
        yield Case(
            CACHES, f"vectors/{file} {name}: eval.py", _entries("vectors", file, _DAMAGE[name], "ranked"), script="eval.py"
        )
    for (name, do), script in itertools.product(_MODELS.items(), ("train.py", "eval.py")):
        yield Case(MODELS, f"{name}: {script}", do, script=script)
    for name, do, overrides, code, *said in _ROWS:
        holds = said.pop() if code == 0 else None
        yield Case(NEGATIVES, name, do, f"step.guide=null {overrides}", tuple(said), code, holds=holds)
    yield from _CONTROLS


# -- what is done --------------------------------------------------------------------------------------------------------------


def _file(name: str, change: Callable[[bytes], bytes]) -> Change:
    def do(world: Path) -> None:
        before = (world / name).read_bytes()
        (world / name).write_bytes(change(before))
        if change(before) == before:
            raise ValueError(f"{name}: this changes nothing")

    return do


def _gone(name: str) -> Change:
    return lambda world: (world / name).unlink()


def _rotated(name: str, field: str) -> Change:
    """The texts of a file under one another's ids."""

    def change(content: bytes) -> bytes:
        lines = [json.loads(line) for line in content.splitlines()]
        texts = [line[field] for line in lines]
        turned = ({**line, field: text} for line, text in zip(lines, [*texts[1:], texts[0]], strict=True))
        return "".join(json.dumps(line) + "\n" for line in turned).encode()

    return _file(name, change)


def other_weights(name: str) -> Change:
    """A model of the same shape."""
    return lambda world: set_weights(
        world / name, lambda tensors: {n: -t if n.endswith("attention.output.dense.weight") else t for n, t in tensors.items()}
    )


def _other_tokenizer(world: Path) -> None:
    """The frequent pieces under one another's numbers."""
    tokenizer = read_json(world / "model/tokenizer.json")
    pieces = tokenizer["model"]["vocab"]
    pieces[20:400] = pieces[399:19:-1]
    write_json(world / "model/tokenizer.json", tokenizer)


def _definition(change: Callable[[dict], object]) -> Change:
    def do(world: Path) -> None:
        values = read_json(world / CHECKPOINT / MANIFEST)
        write_json(world / CHECKPOINT / MANIFEST, {**values, "definition": change(values["definition"])})

    return do


def _optimizer(change: Callable[[dict], object]) -> Change:
    """Another optimizer state under a manifest that is right."""

    def do(world: Path) -> None:
        state = torch.load(world / CHECKPOINT / OPTIMIZER, weights_only=True)
        change(state)
        torch.save(state, world / CHECKPOINT / OPTIMIZER)
        write_manifest(world / CHECKPOINT, definition=definition_of(world / CHECKPOINT))

    return do


def _shorter(state: dict) -> None:
    """Each moment a row shorter."""
    for values in state["state"].values():
        values.update({name: value[:-1] for name, value in values.items() if value.ndim})


def _fewer(state: dict) -> None:
    """A weight is missing."""
    state["param_groups"][0]["params"].pop()


def _of_another_run(world: Path) -> None:
    shutil.copytree(world / "other-checkpoint", world / f"{RUN}/checkpoint-{STEPS}")


def _moved(world: Path) -> None:
    (world / "moved").mkdir()
    for name in INPUTS:
        (world / name).rename(world / "moved" / name)


def _entries(kind: str, file: str, change: Callable[[bytes], bytes] | None, cache: str = "cache") -> Change:
    """Damage a file in every entry of a kind; None removes it."""

    def do(world: Path) -> list[str]:
        entries = sorted((world / cache).glob(f"{kind}-*/"))
        for entry in entries:
            (_gone(file) if change is None else _file(file, change))(entry)
        return [f"{cache}/{entry.name}: damaged (" for entry in entries]

    return do


def _flipped(content: bytes) -> bytes:
    """Bits of numbers, not of what says where they stand, which no library would read."""
    start, stop = len(content) * 3 // 4, len(content) * 9 // 10
    return bytes(byte ^ (start <= number < stop and number % 16 == 0) for number, byte in enumerate(content))


def _table(cell: str, damage: Callable[[str], str] = str) -> Change:
    """rows.csv, with a long cell in its first row."""

    def do(world: Path) -> None:
        with open(world / "rows.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows([("query", "document"), ("long", cell), *((f"query {n}", f"answer, {n}") for n in range(1, ROWS))])
        text = (world / "rows.csv").read_text(encoding="utf-8")
        (world / "rows.csv").write_text(damage(text), encoding="utf-8")

    return do


def _few(negatives: int) -> Change:
    """few.jsonl, of which the first so many rows have a hard negative."""

    def do(world: Path) -> None:
        rows = ({"query": f"query {n}", "document": f"answer {n}", "hard_negative": f"wrong {n}"} for n in range(ROWS))
        rows = (row if n < negatives else {**row, "hard_negative": None} for n, row in enumerate(rows))
        (world / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return do


# -- the tables ----------------------------------------------------------------------------------------------------------------

CHANGED, SETTINGS, RECORDS = "input changed, then resumed", "setting changed, then resumed", "record gone or damaged"
CACHES, MODELS, NEGATIVES = "entry of the cache damaged", "model changed, cache of the old one", "rows and negatives"

_SETTINGS = {  # override -> field
    "loss.temperature=0.5": "loss.temperature",
    "loss.margin=0.05": "loss.margin",
    "seed=7": "seed",
    "optimizer.lr=1e-5": "optimizer.lr",
    "optimizer.weight_decay=0.5": "optimizer.weight_decay",
    "step.positives=all": "step.positives",
    "step.negatives=micro_batch": "step.negatives",
    "data.negatives_per_query=0": "negatives_per_query",
    "evaluation.cutoffs=[10]": "cutoffs",
    "model.lora.rank=2": "lora",
    "training.max_steps=4": "training.max_steps",
    "training.warmup_steps=1": "training.warmup_steps",
    "training.max_grad_norm=0.1": "training.max_grad_norm",
    "matryoshka.dimensions=[16]": "matryoshka.dimensions",
    "training.gradient_accumulation_steps=2": "queries per step",
    "model.dropout=0.3": "dropout",
    "training.lr_scheduler_type=constant": "training.lr_scheduler_type",
    "model.text.query_prefix=other": "text format.text.query_prefix",
    "data.max_train_rows=8": "rows",
    "keep.weight=1": "keep.weight",
}
_RESUMED = [  # kind, name, what is done, overrides, fields that must be named
    (CHANGED, "a training row less", _file("rows.jsonl", lambda c: c[: c.rstrip().rindex(b"\n") + 1]), "", ("rows",)),
    (CHANGED, "training rows' queries exchanged", _rotated("rows.jsonl", "query"), "", ("rows",)),
    (CHANGED, "dev rows' documents exchanged", _rotated("dev.jsonl", "document"), "", ("dev set",)),
    (CHANGED, "test passages exchanged", _rotated("target/corpus.jsonl", "text"), "", ("test set",)),
    (CHANGED, "test queries exchanged", _rotated("target/queries.jsonl", "text"), "", ("test set",)),
    (CHANGED, "a judgement less", _file("target/qrels/test.tsv", lambda c: c[: c.rstrip().rindex(b"\n") + 1]), "", ("test set",)),
    (CHANGED, "keep set's passages exchanged", _rotated("kept/corpus.jsonl", "text"), "", ("keep sets",)),
    (CHANGED, "no keep set", nothing, "data.keep_dir=[]", ("keep sets",)),
    (CHANGED, "other weights", other_weights("model"), "", ("model",)),
    (CHANGED, "other number of heads", lambda world: set_config(world / "model", num_attention_heads=4), "", ("model",)),
    (CHANGED, "other activation", lambda world: set_config(world / "model", hidden_act="relu"), "", ("model",)),
    (CHANGED, "other tokenizer", _other_tokenizer, "", ("tokenizer",)),
    (CHANGED, "other weights of the guide", other_weights("guide"), "", ("guide",)),
    *((SETTINGS, override, nothing, override, (field,)) for override, field in _SETTINGS.items()),
]
_STATUS = {
    "gone": _gone(f"{RUN}/status.json"),
    "empty": _file(f"{RUN}/status.json", lambda content: b""),
    "cut": _file(f"{RUN}/status.json", lambda content: content[:9]),
    "of null": _file(f"{RUN}/status.json", lambda content: b"null"),
}
_WAYS = {  # way: overrides, exit code and words where the file is gone
    "resumed": ("resume=true", 0, f"resuming from step {STEPS - 1}"),
    "begun anew": ("", 2, "holds a run already"),
    "resumed with another seed": ("resume=true seed=7", 2, "\n  seed: 42 then, 7 now"),
}
_OLDER, _OTHER = "does not say which training it is of", "differs from the interrupted run's"
_CHECKPOINTS = [  # name, what is done, words
    ("no definition", _definition(lambda definition: None), _OLDER),
    ("an empty definition", _definition(lambda definition: {}), _OTHER),
    ("a definition of other types", _definition(list), _OLDER),
    ("a definition that is a text", _definition(str), _OLDER),
    ("a field of the definition lost", _definition(lambda d: {k: v for k, v in d.items() if k != "rows"}), _OTHER, "\n  rows: "),
    ("a digit of the definition changed", _definition(lambda d: {**d, "model": d["model"][:-1] + "x"}), _OTHER, "\n  model: "),
    ("checkpoint of another run", _of_another_run, _OTHER, "\n  loss.", f"checkpoint-{STEPS}"),
    ("optimizer state of other shapes", _optimizer(_shorter), "optimizer.pt", "of another model"),
    ("optimizer state of fewer weights", _optimizer(_fewer), "optimizer.pt", "of another model"),
]
_FILES = [
    ("rows", "rows.arrow"), ("rows", "report.json"), ("tokens", "tokens.arrow"), ("tokens", "lengths.npy"), ("tokens", "report.json"),
    ("vectors", "0-of-1.f32"), ("rows", MANIFEST), ("tokens", MANIFEST), ("vectors", MANIFEST),
]  # fmt: skip
_DAMAGE = {
    "with flipped bits": _flipped,
    "with a zeroed tail": lambda c: c[: len(c) * 3 // 4].ljust(len(c), b"\0"),
    "cut": lambda c: c[: len(c) // 2],
    "of 0 bytes": lambda c: b"",
    "gone": None,
}
_MODELS = {
    "heads": lambda world: set_config(world / "model", num_attention_heads=4),
    "activation": lambda world: set_config(world / "model", hidden_act="relu"),
    "normalisation": lambda world: set_config(world / "model", layer_norm_eps=0.1),
    "weights": other_weights("model"),
    "tokenizer": _other_tokenizer,
}

_LONG = "\n".join(f'Article {n} says so, and goes on in "article" {n + 1}.' for n in range(4000))  # 210,000 characters
_CSV = "loss=infonce data.train_file=rows.csv data.on_bad_row=skip"
_FEW, _TRIPLET = "loss=infonce data.train_file=few.jsonl", "loss=triplet data.train_file=few.jsonl"
_MARGIN = "loss=infonce loss.false_negatives=margin"
_ALONE, _CUT = "training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=4 step.negatives=micro_batch"
_WHERE, _NONE = "where the next row begins is unknown", "a negative, so it teaches nothing"


def _all_read(summary: dict) -> bool:
    return (summary["data"]["read"], summary["data"]["rejected"], summary["data"]["train_rows"]) == (ROWS, 0, ROWS)


def _counted(summary: dict) -> bool:
    return summary["training"]["without_negatives"] > 0


def _never(summary: dict) -> bool:
    return not _counted(summary)


_ROWS = [  # name, what is done, overrides, exit code, what must be said, and for 0 what must hold of the summary
    ("a cell of 210,000 characters", _table(_LONG), _CSV, 0, _all_read),
    ("a cell of 1.5 million characters", _table(_LONG * 7), _CSV, 3, _WHERE),
    ("a quote that nothing closes", _table(_LONG, lambda text: text[:-2]), _CSV, 3, _WHERE),
    ("a quote within a cell", _table(_LONG, lambda text: text.replace('""article""', '"article"', 1)), _CSV, 3, _WHERE),
    ("a margin that masks all", nothing, f"{_MARGIN} loss.margin=-2", 2, "loss.margin=-2: must be above -2"),
    ("all masked in every step", nothing, f"{_MARGIN} loss.margin=-1.99", 0, _NONE, _counted),
    ("no hard negative, a row a step", _few(0), f"{_FEW} {_ALONE}", 3, "no query would meet a negative"),
    ("one hard negative, a row a step", _few(1), f"{_FEW} {_ALONE} training.max_steps={ROWS}", 0, _NONE, _counted),
    ("one hard negative, a row a micro-batch", _few(1), f"{_FEW} {_ALONE} {_CUT}", 0, _NONE, _counted),
    ("triplets without a hard negative", _few(0), _TRIPLET, 3, "no row shows a hard negative"),
    ("triplets that show none", _few(9), f"{_TRIPLET} data.negatives_per_query=0", 3, "no row shows a hard negative"),
]
_control = functools.partial(Case, control=True)
_CONTROLS = [
    _control(CHANGED, "everything moved", _moved, "resume=true {moved}", ("resuming from step",), killed=True),
    _control(SETTINGS, "free settings", nothing, "resume=true data.on_bad_row=skip tracking.project=other", killed=True),
    _control(RECORDS, "nothing changed", nothing, "resume=true", ("resuming from step",), killed=True),
    _control(CACHES, "whole"),
    _control(CACHES, "whole: eval.py", script="eval.py"),
    _control(MODELS, "other words in the card", _file("model/README.md", lambda content: content + b"other")),
    _control(NEGATIVES, "a whole table", _table("short"), f"step.guide=null {_CSV}", holds=_all_read),
    _control(NEGATIVES, "negatives in every step", _few(ROWS), f"step.guide=null {_FEW} {_ALONE}", holds=_never),
]
