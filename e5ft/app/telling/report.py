"""What commands print for a person: first lines, last lines with the table and what to do next, and the model card."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from e5ft import distributed
from e5ft.formatting import duration, inline
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.overlap import Overlap
from e5ft.retrieval.sets import halves
from e5ft.retrieval.tables import (
    cutoffs_of,
    difference_text,
    few_queries,
    format_table,
    gain_and_loss,
    gain_and_loss_rows,
    headline,
    main_metric,
)
from e5ft.retrieval.verdict import result_text, verdict_line

if TYPE_CHECKING:
    from e5ft.modeling.encoder import Encoder
    from e5ft.retrieval.sets import RetrievalSet

_REAL_RUN = "the same command with model=e5_small and another name= (or none)"


def say(text: str) -> None:
    """Print on the main process."""
    if distributed.is_main():
        print(text, flush=True)


def header_line(name: str, text: str) -> str:
    """A line of a command's header: a fact's name and the fact."""
    return f"  {name:<10}  {text}"


def opening(source: ModelSource, encoder: "Encoder", data, overlaps: Sequence[Overlap]) -> str:
    """The first facts of a training: what its scores can tell, and how texts are read.

    Args:
        source: where the model comes from.
        encoder: the model.
        data: the TrainingData.
        overlaps: of its sets with its rows.
    """
    lines = []
    if source.init == "random":
        real = "model=e5_small" if source.path is None else "model.init=pretrained"
        lines.append(f"  The model starts from random weights, to try things out. A real one: {real}")
    if data.dev_is_test:
        lines.append("  No separate test set: the scores are of the dev set that chooses the checkpoint, so a little optimistic.")
        lines.append(f"  corpus      {data.corpus}: {len(data.test.passages):,} passages, all ranked before and after")
    lines += [f"  overlap     {overlap.sentence}" for overlap in overlaps if overlap.sentence]
    for keep, choice in zip(data.keep, data.choice, strict=False):
        if choice is None:
            parts = " and ".join(f"{len(part):,}" for part in halves(keep))
            who = f"its queries in halves ({parts}): the first may refute the result, the second is reported"
        else:
            who = f"{choice.name} ({len(choice.queries):,} queries, {len(choice.passages):,} passages) may refute the result"
        lines.append(header_line("keep", f"{keep.name}: {who}"))
    return "\n".join([*lines, *set_notes([data.test, data.dev, *data.keep]), text_format(encoder)])


def set_notes(sets: Iterable["RetrievalSet"]) -> list[str]:
    """What the files of evaluation sets held that their figures depend on; each set once, none where there is nothing."""
    lines = {(s.name, line): None for s in sets for line in s.counts.lines()}
    return [f"  note        {name}: {line}" for name, line in lines]


def text_format(encoder: "Encoder", place: str = "") -> str:
    """The header line that says how a model reads texts, and who says so."""
    return f"  text        {f'{place}: ' if place else ''}{encoder.spec}"


def closing(summary: dict, scores, folder: Path, in_sweep: bool) -> str:
    """The last lines of a training: the table and, outside a sweep, what to do next.

    Args:
        summary: as summary.json holds it.
        scores: the test set's evaluations.
        folder: the run's.
        in_sweep: whether the run is a job of a multirun.
    """
    training, data, run = summary["training"], summary["data"], relative(folder)
    metrics = headline(cutoffs_of(scores.after.metrics))
    rows = [row for name, row in scores.named().items() if name != "hybrid_before"]
    main = main_metric(metrics)
    difference = summary["differences"][main]
    change = difference_text(difference["mean"], difference["low"], difference["high"])
    speed = f", {training['tokens_per_second']:,} tokens a second" if training["tokens_per_second"] else ""
    lines = [
        "",
        f"{summary['model']}: {training['steps']:,} steps on {data['train_rows']:,} rows of {data['source']}, {duration(training['seconds'])}{speed}",
        f"{summary['test_set']}, {len(scores.after.scored):,} queries, {scores.after.passages:,} passages, 95 % intervals",
        "",
        format_table(rows, metrics),
        "",
        f"{main}: {change} after against before, p = {difference['p_value']:.2g}",
        *hybrid_line(summary, main),
    ]
    if summary["keep"]:
        lines += ["", gain_and_loss(summary), ""]
    lines += few_queries(summary["test_set"], len(scores.after.scored), main, difference)
    for entry in summary["keep"]:
        lines += few_queries(entry["set"], entry["queries"], main, entry["differences"][main])
    lines += [f"overlap: {sentence}" for sentence in leaks(summary)]
    if training["without_negatives"]:
        unit = "steps (with step.negatives=micro_batch: micro-batches)"
        lines.append(f"Without any negative, and so without effect: {training['without_negatives']:,} {unit}.")
    lines += taken(summary)
    last = verdict_line(summary["verdict"])
    if in_sweep:
        return "\n".join([*lines, last])
    lines += [
        "",
        f"model       {run}/model   (SentenceTransformer(...) and AutoModel load it)",
        *([f"adapter     {run}/adapter   (peft's PeftModel loads it over the base)"] if (folder / "adapter").is_dir() else []),
        f"record      {run}/summary.json, metrics.jsonl, eval/",
        f"next        make eval RUN={run} DATA=...   (your own test questions: a BEIR folder, or rows as FILE.csv)",
    ]
    if summary["random_weights"]:
        lines.append(f"            a real model: {_REAL_RUN}")
    return "\n".join([*lines, "", last])


def taken(summary: dict) -> list[str]:
    """Which weights model/ has and why, in one line; none where they are the last ones and no keep set was asked."""
    best, guard = summary["best"], summary["guard"]
    if best["step"] == 0:
        return ["Nothing beat the model before training on the dev set: model/ is that model, unchanged."]
    step = (
        f"the checkpoint of step {best['step']:,}{', the best on the dev set' * (best['step'] != summary['training']['steps'])}"
    )
    if guard is None:
        return [f"model/ is {step}."] if best["step"] != summary["training"]["steps"] else []
    results = guard["tried"][0]["keep"]
    if best["alpha"] == 1:
        return [f"model/ is {step}; no keep set refutes it ({guard['metric']} on what chooses: {_results(results)})."]
    lost = _results({name: result for name, result in results.items() if result["lost"]})
    if not best["alpha"]:
        return [
            f"model/ is the model before training, unchanged: {step} is refuted by {lost}, and no merger that holds is better on the dev set."
        ]
    return [
        f"model/ is {best['alpha']:g} x {step} and {1 - best['alpha']:g} x the model before training: alpha 1 is refuted by {lost}."
    ]


def _results(results: dict) -> str:
    return ", ".join(f"{name} {result_text(result)}" for name, result in results.items())


def hybrid_line(summary: dict, metric: str) -> list[str]:
    """The hybrid's paired difference to the model alone, and who chose its weight; empty where there is none."""
    if summary.get("hybrid") is None:
        return []
    difference = summary["hybrid"]["differences"][metric]
    change = difference_text(*(difference[end] for end in ("mean", "low", "high")))
    source = summary["hybrid"]["weight"]["source"]
    return [f"{metric}: {change} hybrid against after, p = {difference['p_value']:.2g}; its weight: {source}"]


def leaks(summary: dict) -> list[str]:
    """What must be known of the reported sets of which training saw many queries, a sentence a set."""
    reported = {summary["test_set"], *(entry["set"] for entry in summary["keep"])}
    overlaps = (Overlap(**entry) for entry in summary["overlap"] if entry["set"] in reported)
    return [overlap.sentence for overlap in overlaps if overlap.leaks]


def model_card(settings: dict, summary: dict, encoder: "Encoder") -> str:
    """The README.md of model/: how to use the model without e5ft, its scores, and how it was trained.

    Args:
        settings: of the run as plain values, without secrets.
        summary: as summary.json holds it.
        encoder: the model.
    """
    scores = summary["scores"]
    metrics = [name for name in headline(settings["evaluation"]["cutoffs"]) if name in scores["after"]["metrics"]]
    table = ["| | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    for entry in scores.values():
        cells = [
            f"{entry['metrics'][name]:.3f} [{entry['intervals'][name][0]:.3f}, {entry['intervals'][name][1]:.3f}]"
            for name in metrics
        ]
        table.append(f"| {inline(entry['label'])} | " + " | ".join(cells) + " |")
    source, alpha = summary["data"]["source"], summary["best"]["alpha"]
    merged = (
        "" if alpha == 1 else f", {alpha:g} x, and of the model before training, {1 - alpha:g} x (a keep set refuted alpha 1)"
    )
    return f"""{plain_card(summary["model"], encoder)}
## Scores

Of {inline(summary["test_set"])}, {summary["queries"]:,} queries among {summary["passages"]:,} passages, with 95 % intervals over queries{" (the set that chose the checkpoint: a little optimistic)" if summary["chosen_on_test"] else ""}.

{chr(10).join(table)}

{inline(verdict_line(summary["verdict"]))}
{"".join(f"{chr(10)}Trained on the test: {inline(sentence)}.{chr(10)}" for sentence in leaks(summary))}{_retention(summary)}
## Training

- rows: {summary["data"]["train_rows"]:,} of {inline(Path(str(source)).name)}
- steps: {summary["training"]["steps"]:,} of {summary["training"]["queries_per_step"]:,} queries; the weights are of step {summary["best"]["step"]:,}{merged}
- loss: {inline(str(settings["loss"]))}
- optimizer: {inline(str(settings["optimizer"]))}
- seed: {settings["seed"]}
"""


def _retention(summary: dict) -> str:
    """The model card's section on the sets whose scores training must not lower; empty where there are none."""
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


def plain_card(label: str, encoder: "Encoder") -> str:
    """A model card without scores: what the vectors are and how to use them without e5ft."""
    text = encoder.spec.text
    prefixes = json.dumps({"query": text.query_prefix, "document": text.passage_prefix}, ensure_ascii=False)
    # In JSON, not in a code span: there, an HTML entity would be read as it is written, and the prefix copied wrong.
    prefixes = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in prefixes)
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity, e5ft]
---
# {inline(label)}, fine-tuned with e5ft

Vectors of {encoder.dimension} dimensions, {encoder.spec.pooling} pooling, length 1: compare them by dot product.

**Prefixes are part of the model.** Queries and passages (documents) begin with, as JSON strings:

```json
{prefixes}
```

Texts are normalised to Unicode NFC first. At most {text.query_max_length} tokens of a query and {text.passage_max_length} of a passage are read.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
queries = model.encode(["..."], prompt_name="query")
passages = model.encode(["..."], prompt_name="document")
scores = queries @ passages.T
```
"""


def relative(path: Path) -> str:
    """Return a path as a person in the current folder would type it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
