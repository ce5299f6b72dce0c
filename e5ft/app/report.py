"""What a run says to a person: before it, one screen; after it, one table and what to do next. And the model card."""

import shutil
from pathlib import Path

from omegaconf import DictConfig

from e5ft import distributed
from e5ft.app.configuration import plain
from e5ft.app.estimate import bf16_is_emulated, checkpoint_disk, free_memory, size, training_memory
from e5ft.app.pacing import EvaluationPlan
from e5ft.app.tracking import duration
from e5ft.data.mixing import MixSampler
from e5ft.errors import ConfigurationError
from e5ft.modeling.compact import CompactEmbedding, compacted
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.tables import difference_text, format_table, gain_and_loss, gain_and_loss_rows, headline, main_metric

_REAL_ONE = "python train.py model=e5_small data.train_file=mine.jsonl"


def say(text: str) -> None:
    """Print on the main process."""
    if distributed.is_main():
        print(text, flush=True)


def opening(config: DictConfig, source, data) -> str:
    """First lines: what is about to be trained on what."""
    lines = [f"e5ft: {source.label}, on {data.label}"]
    if source.init == "random":
        lines.append(f"  The model starts from random weights, to try things out. The real one: {_REAL_ONE}")
    if data.chosen_on_test:
        lines.append(
            "  No separate test set: the figures below are of the dev set that chooses the checkpoint, and a little optimistic."
        )
    return "\n".join(lines)


def preflight(trainer, data, tokens, row_tokens: float, pace: float, plan: EvaluationPlan | None) -> str:
    """One screen before step 1: rows, steps, truncation, memory, disk, time.

    Args:
        trainer: with its data.
        data: the TrainingData.
        tokens: the TokenStore.
        row_tokens: tokens that a row shows in an epoch, on average.
        pace: tokens a second of a forward pass, measured a moment ago.
        plan: of the evaluations while training.

    Raises:
        ConfigurationError: the disk cannot hold the checkpoints.
    """
    args = trainer.args
    sampler = trainer.make_sampler()
    steps = args.max_steps if args.max_steps > 0 else int(-(-args.num_train_epochs * sampler.steps // 1))
    table = compacted(trainer.model)
    aside = 0 if table is None else table.rest.numel()
    weights = sum(p.numel() for p in trainer.model.parameters()) + (0 if table is None else aside - table.weight.numel())
    checkpoints = (args.save_total_limit or max(1, steps)) + 1
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    disk = checkpoint_disk(weights, trained, checkpoints if args.save_strategy != "no" else 0)
    free_disk = shutil.disk_usage(args.output_dir).free
    memory = training_memory(weights, trained, args.world_size if trainer.is_fsdp_enabled else 1)
    memory += 0 if table is None else 4 * table.weight.numel()
    shown = row_tokens * sampler.step_rows * steps / args.world_size
    passes = 4 - 1 / args.gradient_accumulation_steps if args.gradient_accumulation_steps > 1 else 3
    micro = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}" + (
        f" x {args.world_size} processes" if args.world_size > 1 else ""
    )
    skipped = f" ({data.rejected:,} rejected)" if data.rejected else ""
    if disk > free_disk:
        raise ConfigurationError(
            f"{args.output_dir}: checkpoints need {size(disk)}, {size(free_disk)} are free; lower training.save_total_limit or use another disk"
        )
    lines = [
        f"  rows        {len(data.train.rows):,} for training{skipped}, {len(data.dev.queries):,} dev queries, {len(data.test.queries):,} test queries",
        *_sources(sampler),
        f"  steps       {steps:,} of {sampler.step_rows:,} queries ({micro}); {args.num_train_epochs if args.max_steps < 0 else steps / sampler.steps:.3g} epochs",
        f"  texts       {tokens.texts:,}, of which {tokens.truncated / max(tokens.texts, 1):.1%} are cut to the model's length",
        *_embeddings(table),
        *_evaluations(plan),
        f"  memory      {size(memory)} for weights, gradient and optimizer, more for activations; {size(free_memory(args.device))} are free",
        f"  disk        {size(disk)} for {checkpoints} checkpoints and the model; {size(free_disk)} are free",
        f"  time        about {duration(passes * shown / pace)} on {args.device}, by the speed of a forward pass just measured",
    ]
    if args.bf16 and args.device.type == "cpu" and bf16_is_emulated():
        lines.append(
            "  note        this CPU has no bfloat16 instructions: training.bf16=true will be many times slower than without it"
        )
    return "\n".join(lines)


def _evaluations(plan: EvaluationPlan | None) -> list[str]:
    """A line on what is measured while training, and what it costs."""
    if plan is None:
        return []
    often = "once" if plan.times == 1 else f"{plan.times} times"
    return [
        f"  evaluation  {often} while training, {plan.queries:,} dev queries against {plan.passages:,} passages: about {plan.share:.1%} of training's work"
    ]


def _embeddings(table: CompactEmbedding | None) -> list[str]:
    if table is None:
        return []
    return [
        f"  embeddings  {len(table.weight):,} of {len(table.rest):,} token embeddings occur in the rows; the others only decay"
    ]


def _sources(sampler) -> list[str]:
    """A line for each source of a mix: its rows, and how often it is drawn."""
    if not isinstance(sampler, MixSampler):
        return []
    drawn = sampler.steps * sampler.step_rows
    width = max(map(len, sampler.mix.names))
    return [
        f"  {'sources' if number == 0 else '':12}{name:{width}}  {len(rows):,} rows, {share:.1%} of the rows drawn: "
        f"each about {share * drawn / len(rows):.3g} times an epoch"
        for number, (name, rows, share) in enumerate(zip(sampler.mix.names, sampler.source_rows, sampler.shares, strict=True))
    ]


def closing(summary: dict, scores, folder: Path, in_sweep: bool) -> str:
    """The table and what to do next."""
    training, data, shown = summary["training"], summary["data"], relative(folder)
    metrics = headline(scores.after.cutoffs)
    rows = list(scores.named().values())
    main = main_metric(metrics)
    difference = summary["differences"][main]
    speed = f", {training['tokens_per_second']:,} tokens a second" if training["tokens_per_second"] else ""
    lines = [
        "",
        f"{summary['model']}: {training['steps']:,} steps on {data['train_rows']:,} rows of {data['source']}, {duration(training['seconds'])}{speed}",
        f"{summary['test_set']}, {len(scores.after.scored):,} queries, {scores.after.passages:,} passages, 95 % intervals",
        "",
        format_table(rows, metrics),
        "",
        f"{main}: {difference_text(difference['mean'], difference['low'], difference['high'])} after against before, p = {difference['p_value']:.2g}",
    ]
    if summary["keep"]:
        lines += ["", gain_and_loss(summary), ""]
    if summary["best"]["step"] == 0:
        lines.append("Nothing beat the model before training on the dev set: model/ is that model, unchanged.")
    elif summary["best"]["step"] != training["steps"]:
        lines.append(f"model/ is the checkpoint of step {summary['best']['step']:,}, the best on the dev set.")
    if in_sweep:
        return "\n".join(lines)
    lines += [
        "",
        f"model       {shown}/model   (SentenceTransformer(...) and AutoModel load it)",
        f"record      {shown}/summary.json, metrics.jsonl, eval/",
        f"next        make eval RUN={shown} DATA=my_eval_dir",
    ]
    if summary["random_weights"]:
        lines.append(f"            {_REAL_ONE}")
    return "\n".join(lines)


def model_card(config: DictConfig, summary: dict, encoder: Encoder) -> str:
    """The README.md of model/: data, settings, scores, and how to use it without e5ft."""
    scores = summary["scores"]
    metrics = [name for name in headline(list(config.evaluation.cutoffs)) if name in scores["after"]["metrics"]]
    table = ["| | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    for entry in scores.values():
        cells = [
            f"{entry['metrics'][name]:.3f} [{entry['intervals'][name][0]:.3f}, {entry['intervals'][name][1]:.3f}]"
            for name in metrics
        ]
        table.append(f"| {inline(entry['label'])} | " + " | ".join(cells) + " |")
    settings = plain(config)
    source = summary["data"]["source"]
    return f"""{plain_card(summary["model"], encoder)}
## Scores

Of {inline(summary["test_set"])}, with 95 % intervals over queries{" (the set that chose the checkpoint: a little optimistic)" if summary["chosen_on_test"] else ""}.

{chr(10).join(table)}
{_elsewhere(summary)}
## Training

- rows: {summary["data"]["train_rows"]:,} of {inline(Path(str(source)).name)}
- steps: {summary["training"]["steps"]:,} of {summary["training"]["queries_per_step"]:,} queries; the weights are of step {summary["best"]["step"]:,}
- loss: {inline(str(settings["loss"]))}
- optimizer: {inline(str(settings["optimizer"]))}
- seed: {config.seed}
"""


def _elsewhere(summary: dict) -> str:
    """The model card's section on the keep sets; empty where there are none."""
    if not summary["keep"]:
        return ""
    main, rows = gain_and_loss_rows(summary)
    table = [f"| set | | {main} before | after | difference | |", "|---|---|---:|---:|---:|---|"]
    table += ["| " + " | ".join(map(inline, row)) + " |" for row in rows]
    return f"""
## What it cost elsewhere

Before and after training, with the paired difference and its 95 % interval over queries; kept means that it includes 0.

{chr(10).join(table)}
"""


def plain_card(label: str, encoder: Encoder) -> str:
    """A model card without scores: what the vectors are and how to use them without e5ft."""
    text = encoder.spec.text
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity, e5ft]
---
# {inline(label)}, fine-tuned with e5ft

Vectors of {encoder.dimension} dimensions, {encoder.spec.pooling} pooling, length 1: compare them by dot product.

**Prefixes are part of the model.** A query begins with `{inline(text.query_prefix)}`, a passage with `{inline(text.passage_prefix)}`;
texts are normalised to Unicode NFC first. At most {text.query_max_length} tokens of a query and {text.passage_max_length} of a passage are read.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
queries = model.encode(["..."], prompt_name="query")
passages = model.encode(["..."], prompt_name="document")
scores = queries @ passages.T
```
"""


def relative(path: Path) -> str:
    """A path as a person here would type it."""
    here = Path.cwd()
    path = path.absolute()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


# What begins or ends something in Markdown, HTML, a table or a code span, as what a browser shows instead.
_ESCAPES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>`|\\"})


def inline(text: object) -> str:
    """A value that cannot break out of its place in Markdown or HTML: one line, no markup, no link, no character that hides."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown.translate(_ESCAPES).replace("](", "]&#40;")
