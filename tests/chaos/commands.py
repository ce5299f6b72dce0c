"""The scripts, whole, on hostile rows and settings, in a small world."""

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

from e5ft.app.settings.build import shipped
from tests.chaos import row_files
from tests.chaos.forking import run_script, warm_up
from tests.chaos.report import Report

SCRIPTS = ("train", "eval", "mine", "export")
SECONDS = 90  # a run of the small world takes about one

_words = str.split
HOSTILE = (
    *_words(
        "None null no true 2026-11-25 12:30 012 abc '' [] {} {a:1} [1,abc] [[]] 가나다 -1 0 1 0.5 1.5 -0.1 1e300 -1e300 1e-300"
    ),
    *_words("nan inf -inf 100000000000000000000 ../../x /dev/null a/b ${nothing} ${seed} <b>|`x` --help ~"),
    *("' '", "1" + "0" * 400, "x" * 5000, "\udcff", "'a\u0000b'"),
)
# Of the right type (but torch_compile=true, which compiles for minutes), and still trouble for somebody: TrainingArguments takes most of them.
UNLIKELY = _words("""
    torch_compile=true torch_compile_backend=nothing torch_compile_mode=nothing use_liger_kernel=true deepspeed={} tf32=true
    deepspeed=nothing.json fsdp=full_shard fsdp=nothing fsdp_config={a:1} fsdp_config=nothing.json accelerator_config={a:1}
    accelerator_config={split_batches:true} accelerator_config=nothing.json parallelism_config={a:1} debug=nothing
    dataloader_persistent_workers=true dataloader_prefetch_factor=2 dataloader_num_workers=1 debug=underflow_overflow
    dataloader_multiprocessing_context=spawn full_determinism=true enable_jit_checkpoint=true metric_for_best_model=nothing
    metric_for_best_model=null metric_for_best_model=mrr@10 eval_strategy=no eval_strategy=epoch eval_strategy=nothing
    save_strategy=best save_strategy=no save_strategy=epoch load_best_model_at_end=false greater_is_better=null
    bf16_full_eval=true fp16_full_eval=true torch_empty_cache_steps=1 ddp_backend=nccl ddp_backend=nothing
    activation_checkpointing=true activation_checkpointing_kwargs={a:1} lr_scheduler_kwargs={a:1} lr_scheduler_type=nothing
    lr_scheduler_type=reduce_lr_on_plateau lr_scheduler_type=polynomial lr_scheduler_type=cosine_with_min_lr
    lr_scheduler_type=warmup_stable_decay lr_scheduler_type=inverse_sqrt eval_steps=null save_total_limit=null
    save_only_model=true logging_first_step=true disable_tqdm=false skip_memory_metrics=false early_stopping_patience=1
    group_by_length=true compact_embedding=false warmup_steps=1000 max_grad_norm=0 num_train_epochs=1e-9 logging_steps=1e-9
    save_steps=1e-9 eval_steps=1e-9 eval_delay=1000 gradient_accumulation_steps=3 per_device_train_batch_size=13
    use_cpu=false restore_callback_states_from_checkpoint=true logging_strategy=epoch logging_strategy=nothing
    neftune_noise_alpha=5 bf16=true fp16=true use_liger_kernel=false
""")
TOGETHER = (
    "training.activation_checkpointing=true training.activation_checkpointing_kwargs={a:1}",
    "training.dataloader_persistent_workers=true training.dataloader_num_workers=1",
    "training.load_best_model_at_end=false training.early_stopping_patience=1",
)
# A run that is asked for many steps makes them: the number is in range, and nothing hangs.
LONG = {"training.max_steps", "evaluation.intervals", "rounds.count"}


def make_world(folder: Path) -> Path:
    """rows.jsonl, eval/ in BEIR's layout and a trained model in model/, all tiny.

    Raises:
        RuntimeError: a script does not run even on these.
    """
    warm_up()
    os.environ.pop("WANDB_API_KEY", None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_bytes(row_files.good_files()[".jsonl"])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = [row["document"] if isinstance(row["document"], str) else row["document"][0] for row in rows]
    (folder / "eval/qrels").mkdir(parents=True)
    for name, letter, texts in (("corpus", "d", documents), ("queries", "q", [row["query"] for row in rows])):
        lines = [json.dumps({"_id": f"{letter}{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (folder / f"eval/{name}.jsonl").write_text("".join(lines))
    for split in ("dev", "test"):
        (folder / f"eval/qrels/{split}.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(rows))))
    [ended] = run_script("train.py", ["name=base", *TINY["train"].split()], folder)
    if ended.code != 0:
        raise RuntimeError(f"train.py fails in the small world: {ended.output}")
    shutil.copytree(folder / "outputs/base/model", folder / "model")
    return folder


_ROWS = "cache_dir=cache data.train_file=rows.jsonl"
_SET = "cache_dir=cache evaluation.intervals=20 data.eval_dir=eval"
TINY = {  # what makes a run of a script small
    "train": f"""model=mini model.shape.hidden_size=32 model.shape.num_hidden_layers=1 model.shape.num_attention_heads=2
        model.shape.intermediate_size=64 model.text.query_max_length=16 model.text.passage_max_length=32 tracking=off
        training.max_steps=1 training.per_device_train_batch_size=4 training.eval_steps=1 training.save_steps=1
        training.logging_steps=1 {_SET} {_ROWS}""",
    "eval": f"model.path=model {_SET}",
    "mine": f"model.path=model {_ROWS}",
    "export": "model.path=model output_dir=exported",
}


def hostile_settings(script: str, number: int, each: int) -> Iterator[tuple[str, ...]]:
    """`each` hostile overrides for every field and group of a script, chosen by the seed, and some of fields that are not there."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        config = OmegaConf.to_container(compose(script), resolve=False)
    GlobalHydra.instance().clear()
    paths = sorted(_paths(config))
    for path in paths:
        values = random.Random(f"{number} {script} {path}").sample(HOSTILE, len(HOSTILE))
        chosen = [value for value in values if not (path in LONG and re.fullmatch("1e300|10+", value))]
        yield from ((f"{path}={value}",) for value in chosen[:each])
    if script == "train":
        yield from ((f"training.{override}",) for override in UNLIKELY)
        yield from (tuple(overrides.split()) for overrides in TOGETHER)
    for group in sorted({path.rpartition(".")[0] for path in paths if "." in path}):
        yield from ((f"{group}.no_such_field=1",), (f"+{group}.no_such_field=1",))
    yield from (("no_such_field=1",), ("=",), ("data",), ("data=no_such_option",))


def _paths(values: dict, prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")


def check_command(
    script: str, overrides: Sequence[str], world: Path, report: Report, kind: str, files: Sequence[Path] = ()
) -> None:
    """Run a script with hostile overrides in place of, or beside, the small world's, and count its ending."""
    for old in ("exported", "outputs"):
        shutil.rmtree(world / old, ignore_errors=True)
    fields = {override.partition("=")[0].lstrip("+") for override in overrides}
    name = ["name=test"] if script in ("train", "mine") else []
    small = [override for override in (*name, *TINY[script].split()) if override.partition("=")[0] not in fields]
    if "model" in fields:  # another one, with a shape of its own
        small = [override for override in small if not override.startswith("model.")]
    [ended] = run_script(f"{script}.py", [*small, *overrides], world, seconds=SECONDS)
    # 0 accepted, 2 configuration, 3 data; and 1 for an upload, since there is no hub here.
    codes = (0, 1, 2, 3) if overrides[0].startswith("push=") else (0, 2, 3)
    report.check_ending(kind, ended, f"{script}.py {' '.join(overrides)}", files, codes)


def run_settings(number: int, each: int, report: Report, world: Path, *, share: float = 1.0) -> None:
    """Hostile settings of every script; `share` of them, a seeded choice."""
    generator = random.Random(number)
    for script in SCRIPTS:
        for overrides in hostile_settings(script, number, each):
            if generator.random() < share:
                check_command(script, overrides, world, report, f"settings of {script}.py")


def run_rows(count: int, number: int, report: Report, world: Path) -> None:
    """Damaged files of rows through train.py."""
    for case in range(count):
        generator = random.Random(f"{number * 100_000 + case} command")
        file = row_files.write(world, *row_files.damaged(generator))
        overrides = [f"data.train_file={file.name}", f"data.on_bad_row={generator.choice(['skip', 'fail'])}"]
        check_command("train", overrides, world, report, "rows through train.py", [file])
