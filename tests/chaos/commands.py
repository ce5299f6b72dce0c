"""The scripts, whole, on hostile rows and settings: a small world to run them in, and what must hold of every ending."""

import importlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from e5ft.app.runs.script import prepare_libraries
from e5ft.app.settings.build import register, shipped
from tests.chaos import row_files
from tests.chaos.children import Ended, run_script
from tests.chaos.report import Report

SCRIPTS = ("train", "eval", "mine", "export")
SECONDS = 90  # a run of the small world takes about one
SHAPE = ("hidden_size=32", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=64")
# Libraries that a script imports late: once here, and not in every child.
_LATE = (
    "evaluate",
    "datasets",
    "sklearn",
    "peft",
    "e5ft.app.commands.rounds",
    "e5ft.app.commands.evaluate",
    "e5ft.app.commands.mine",
    "e5ft.app.commands.export",
)

HOSTILE = (
    *(
        "None",
        "null",
        "no",
        "true",
        "2026-11-25",
        "12:30",
        "012",
        "abc",
        "''",
        "' '",
        "[]",
        "{}",
        "{a: 1}",
        "[1, abc]",
        "[[]]",
        "가나다",
    ),
    *(
        "-1",
        "0",
        "1",
        "0.5",
        "1.5",
        "-0.1",
        "1e300",
        "-1e300",
        "1e-300",
        "nan",
        "inf",
        "-inf",
        "100000000000000000000",
        "1" + "0" * 400,
    ),
    *("../../x", "/dev/null", "a/b", "${nothing}", "${seed}", "x" * 5000, "\udcff", "'a\u0000b'", "<b>|`x`", "--help", "~"),
)
# Of the right type (but torch_compile=true, which compiles for minutes), and still trouble for somebody: TrainingArguments takes most of them.
UNLIKELY = (
    *(
        "torch_compile=true",
        "torch_compile_backend=nothing",
        "torch_compile_mode=nothing",
        "use_liger_kernel=true",
        "deepspeed={}",
    ),
    *("deepspeed=nothing.json", "fsdp=full_shard", "fsdp=nothing", "fsdp_config={a: 1}", "fsdp_config=nothing.json", "tf32=true"),
    *("accelerator_config={a: 1}", "accelerator_config={split_batches: true}", "accelerator_config=nothing.json"),
    *(
        "parallelism_config={a: 1}",
        "dataloader_persistent_workers=true",
        "dataloader_prefetch_factor=2",
        "debug=underflow_overflow",
    ),
    *("debug=nothing", "dataloader_num_workers=1", "dataloader_multiprocessing_context=spawn", "full_determinism=true"),
    *(
        "enable_jit_checkpoint=true",
        "metric_for_best_model=nothing",
        "metric_for_best_model=null",
        "metric_for_best_model=mrr@10",
    ),
    *(
        "eval_strategy=no",
        "eval_strategy=epoch",
        "eval_strategy=nothing",
        "save_strategy=best",
        "save_strategy=no",
        "save_strategy=epoch",
    ),
    *(
        "load_best_model_at_end=false",
        "greater_is_better=null",
        "bf16_full_eval=true",
        "fp16_full_eval=true",
        "torch_empty_cache_steps=1",
    ),
    *("ddp_backend=nccl", "ddp_backend=nothing", "activation_checkpointing=true", "activation_checkpointing_kwargs={a: 1}"),
    *(
        "lr_scheduler_kwargs={a: 1}",
        "lr_scheduler_type=nothing",
        "lr_scheduler_type=reduce_lr_on_plateau",
        "lr_scheduler_type=polynomial",
    ),
    *("lr_scheduler_type=cosine_with_min_lr", "lr_scheduler_type=warmup_stable_decay", "lr_scheduler_type=inverse_sqrt"),
    *("eval_steps=null", "save_total_limit=null", "save_only_model=true", "logging_first_step=true", "disable_tqdm=false"),
    *(
        "skip_memory_metrics=false",
        "early_stopping_patience=1",
        "group_by_length=true",
        "compact_embedding=false",
        "warmup_steps=1000",
    ),
    *("max_grad_norm=0", "num_train_epochs=1e-9", "logging_steps=1e-9", "save_steps=1e-9", "eval_steps=1e-9", "eval_delay=1000"),
    *(
        "gradient_accumulation_steps=3",
        "per_device_train_batch_size=13",
        "use_cpu=false",
        "restore_callback_states_from_checkpoint=true",
    ),
    *(
        "logging_strategy=epoch",
        "logging_strategy=nothing",
        "neftune_noise_alpha=5",
        "bf16=true",
        "fp16=true",
        "use_liger_kernel=false",
    ),
)
# A run that is asked to go on for long, does: the number is in range, and nothing hangs.
LONG = {"training.max_steps", "evaluation.intervals", "rounds.count"}


def make_world(folder: Path) -> None:
    """rows.jsonl, eval/ in BEIR's layout and a trained model in model/, all tiny.

    Raises:
        RuntimeError: a script does not run even on these.
    """
    for name in _LATE:
        importlib.import_module(name)
    register()
    prepare_libraries()
    os.environ.pop("WANDB_API_KEY", None)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_bytes(row_files.good_files()[".jsonl"])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    (folder / "eval" / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [row["document"] if isinstance(row["document"], str) else row["document"][0] for row in rows]
    _write_lines(folder / "eval/corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)])
    _write_lines(folder / "eval/queries.jsonl", [{"_id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)])
    for split in ("dev", "test"):
        (folder / f"eval/qrels/{split}.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(rows))), encoding="utf-8")
    ending = run_script("train.py", ["name=base", *tiny("train", model=False)], folder)
    if ending.code != 0:
        raise RuntimeError(f"train.py fails in the small world: {ending.output}")
    shutil.copytree(folder / "outputs/base/model", folder / "model", dirs_exist_ok=True)


def tiny(script: str, *, model: bool = True) -> list[str]:
    """Overrides that make a run of a script small; `model`: of the world's own."""
    found = ["model=mini", *(f"model.shape.{field}" for field in SHAPE)] if script == "train" else []
    found += ["model.path=model"] if script != "train" and model else []
    if script != "export":
        found += ["cache_dir=cache"]
    if script in ("train", "eval"):
        found += ["evaluation.intervals=20", "data.eval_dir=eval"]
    if script in ("train", "mine"):
        found += ["data.train_file=rows.jsonl"]
    if script == "train":
        found += ["tracking=off", "model.text.query_max_length=16", "model.text.passage_max_length=32", "training.max_steps=1"]
        found += [
            "training.per_device_train_batch_size=4",
            "training.eval_steps=1",
            "training.save_steps=1",
            "training.logging_steps=1",
        ]
    if script == "export":
        found += ["output_dir=exported"]
    return found


def leaves(script: str) -> list[str]:
    """Every field of a script's composed configuration, and every group, as dotted paths."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        config = OmegaConf.to_container(compose(script), resolve=False)
    GlobalHydra.instance().clear()
    return sorted(_paths(config, ""))


def hostile_settings(script: str, number: int, each: int) -> Iterator[tuple[str, ...]]:
    """`each` hostile overrides for every field of a script, chosen by the seed, and some of fields that are not there."""
    for path in leaves(script):
        values = random.Random(f"{number} {script} {path}").sample(HOSTILE, len(HOSTILE))
        chosen = [value for value in values if not (path in LONG and re.fullmatch("1e300|10+", value))]
        for value in chosen[:each]:
            yield (f"{path}={value}",)
    if script == "train":
        yield from ((f"training.{override}",) for override in UNLIKELY)
        yield ("training.activation_checkpointing=true", "training.activation_checkpointing_kwargs={a: 1}")
        yield ("training.dataloader_persistent_workers=true", "training.dataloader_num_workers=1")
        yield ("training.load_best_model_at_end=false", "training.early_stopping_patience=1")
    groups = sorted({path.rpartition(".")[0] for path in leaves(script) if "." in path})
    for group in groups:
        yield (f"{group}.no_such_field=1",)
        yield (f"+{group}.no_such_field=1",)
    yield ("no_such_field=1",)
    yield ("=",)
    yield ("data",)
    yield ("data=no_such_option",)


def check_settings(script: str, override: Sequence[str], world: Path, report: Report, number: int) -> None:
    """Run a script with hostile overrides on top of the small world's."""
    for name in ("exported", "outputs/test"):
        shutil.rmtree(world / name, ignore_errors=True)
    name = ["name=test"] if script in ("train", "mine") and not any(o.startswith("name=") for o in override) else []
    own = {o.partition("=")[0].lstrip("+") for o in override}
    arguments = [*name, *(o for o in tiny(script) if o.partition("=")[0] not in own), *override]
    ending = run_script(f"{script}.py", arguments, world, seconds=SECONDS, name=f"output-{number}.txt")
    check_ending(f"settings of {script}.py", ending, " ".join(override), report)


def check_rows(number: int, world: Path, report: Report) -> None:
    """Run train.py on a damaged file of rows."""
    generator = random.Random(f"{number} command")
    suffix, content = row_files.damaged(generator)
    file = row_files.write(world, suffix, content)
    shutil.rmtree(world / "outputs", ignore_errors=True)
    mode = generator.choice(["skip", "fail"])
    arguments = ["name=test", *tiny("train"), f"data.train_file={file.name}", f"data.on_bad_row={mode}"]
    ending = run_script("train.py", arguments, world, seconds=SECONDS)
    check_ending("rows through train.py", ending, " ".join(arguments), report, [file])


def check_ending(kind: str, ending: Ended, what: str, report: Report, files: Sequence[Path] = ()) -> None:
    """Count an ending: 0 is acceptance, 2 and 3 a refusal in words, and everything else an offence."""
    counts = report.kind(kind)
    counts.tried += 1
    if ending.hung:
        counts.hangs += 1
        report.keep(kind, f"hang: {what[:200]}", ending.output, files)
    elif "Traceback" in ending.output or ending.code not in _codes(what) or (ending.code and not _tells(ending.output)):
        counts.tracebacks += 1
        last = (ending.output.strip() or "silent").splitlines()[-1]
        report.keep(kind, f"ended with {ending.code}: {what[:200]}: {last[:300]}", ending.output, files)
    elif ending.code == 0:
        counts.accepted += 1
    else:
        counts.refused += 1


def _codes(what: str) -> tuple[int, ...]:
    """0 accepted, 2 configuration, 3 data; and 1 for an upload, since there is no hub here."""
    return (0, 1, 2, 3) if what.startswith("push=") else (0, 2, 3)


def _tells(output: str) -> bool:
    """Whether there is a message of ours that says more than that there is an error."""
    found = re.search(r"^error: (.+)", output, re.MULTILINE)
    return bool(found) and len(found[1]) > 10


def _paths(value: object, path: str) -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, f"{path}.{key}" if path else key)


def _write_lines(path: Path, values: list[dict]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def run_settings(number: int, each: int, report: Report, world: Path, *, share: float = 1.0) -> None:
    """Hostile settings of every script; `share` of them, a seeded choice."""
    generator = random.Random(number)
    for script in SCRIPTS:
        for case, override in enumerate(hostile_settings(script, number, each)):
            if generator.random() < share:
                check_settings(script, override, world, report, case % 2)


def run_rows(count: int, number: int, report: Report, world: Path) -> None:
    """Damaged files of rows through train.py."""
    for case in range(count):
        check_rows(number * 100_000 + case, world, report)
