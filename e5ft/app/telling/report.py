"""What commands print for a person: first lines, last lines with the table and what to do next, and what the model card says of a run."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e5ft import distributed
from e5ft.app.settings.build import shipped
from e5ft.auditing.quick import quick
from e5ft.data.shards import stem
from e5ft.exporting.card import model_card
from e5ft.files import write_text
from e5ft.formatting import duration
from e5ft.modeling.settings import ModelSource
from e5ft.reporting.run_page import PAGE, run_page
from e5ft.retrieval.overlap import Overlap, leaking
from e5ft.retrieval.sets import halves
from e5ft.retrieval.tables import (
    cutoffs_of,
    difference_text,
    few_passages,
    few_queries,
    format_table,
    headline,
    in_words,
    main_metric,
)
from e5ft.retrieval.threshold import threshold_line
from e5ft.retrieval.verdict import gain_and_loss, outcome_rows, result_text, verdict_line

if TYPE_CHECKING:
    from e5ft.exporting.origin import Base
    from e5ft.modeling.encoder import Encoder
    from e5ft.retrieval.evaluation import Evaluation
    from e5ft.retrieval.sets import RetrievalSet

_WORTH_KEEPING = ("columns", "format", "encoding", "on_bad_row")  # of the data group
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
    lines.append(header_line("audit", quick(data.rows)))
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
    main = main_metric(cutoffs_of(metrics))
    difference, start = summary["differences"][main], _start(summary, "before")
    change = difference_text(difference["mean"], difference["low"], difference["high"])
    speed = f", {training['tokens_per_second']:,} tokens a second" if training["tokens_per_second"] else ""
    lines = [
        "",
        f"{summary['model']}: {training['steps']:,} steps on {data['train_rows']:,} rows of {data['source']}, {duration(training['seconds'])}{speed}",
        f"{summary['test_set']}, {len(scores.after.scored):,} queries, {scores.after.passages:,} passages, 95 % intervals",
        "",
        format_table(rows, metrics),
        "",
        counts_in_words(summary),
        "",
        f"{main}: {change} after against {start}, p = {difference['p_value']:.2g}",
        *hybrid_line(summary, main),
        *threshold_lines(scores.after),
    ]
    if summary["keep"]:
        lines += ["", gain_and_loss(summary), ""]
    lines += few_queries(summary["test_set"], len(scores.after.scored), main, difference)
    for entry in summary["keep"]:
        lines += few_queries(entry["set"], entry["queries"], main, entry["differences"][main])
    lines += [f"overlap: {overlap.sentence}" for overlap in leaking(summary)]
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
        *([f"report      {run}/{PAGE}   (open it in a browser)"] if (folder / PAGE).is_file() else []),
        f"record      {run}/summary.json, metrics.jsonl, eval/",
        f"next        make eval RUN={run} DATA=...   (your own test questions: a BEIR folder, or rows as FILE.csv)",
    ]
    if summary["random_weights"]:
        lines.append(f"            a real model: {_REAL_RUN}")
    return "\n".join([*lines, "", last])


def write_page(folder: Path) -> Path | None:
    """Write a finished run's page into its folder. Where that fails a line says so, None is returned, and the run is as good."""
    try:
        write_text(folder / PAGE, run_page(folder))
        return folder / PAGE
    except Exception as error:  # whatever it is, the run is finished
        (folder / PAGE).unlink(missing_ok=True)  # of an earlier process
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        say(
            f"{relative(folder / PAGE)} could not be written ({reason}); the record is whole, and python -m e5ft report makes it again"
        )
        return None


def taken(summary: dict) -> list[str]:
    """Which weights model/ has and why, in one line; none where they are the last ones and no keep set was asked."""
    best, guard, start = summary["best"], summary["guard"], _start(summary, "the model before training")
    if best["step"] == 0:
        return [f"Nothing beat {start} on the dev set: model/ is that model, unchanged."]
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
        return [f"model/ is {start}, unchanged: {step} is refuted by {lost}, and no merger that holds is better on the dev set."]
    return [f"model/ is {best['alpha']:g} x {step} and {1 - best['alpha']:g} x {start}: alpha 1 is refuted by {lost}."]


def _start(summary: dict, usual: str) -> str:
    """What the training started from: the model of the round before, or as it is usually called."""
    return usual if summary.get("start_round") is None else f"round {summary['start_round']}"


def _results(results: dict) -> str:
    return ", ".join(f"{name} {result_text(result)}" for name, result in results.items())


def counts_in_words(summary: dict) -> str:
    """The table of the test set as counts of questions, the model after training first."""
    names = {"after": "after", "before": _start(summary, "before"), "bm25": "BM25", "hybrid": "hybrid"}
    scores = summary["scores"]
    return in_words(summary["queries"], {name: scores[key]["metrics"] for key, name in names.items() if key in scores})


def hybrid_line(summary: dict, metric: str) -> list[str]:
    """The hybrid's paired difference to the model alone, and who chose its weight; empty where there is none."""
    if summary.get("hybrid") is None:
        return []
    difference = summary["hybrid"]["differences"][metric]
    change = difference_text(*(difference[end] for end in ("mean", "low", "high")))
    source = summary["hybrid"]["weight"]["source"]
    return [f"{metric}: {change} hybrid against after, p = {difference['p_value']:.2g}; its weight: {source}"]


def threshold_lines(evaluation: "Evaluation") -> list[str]:
    """From which score on the first passage may be shown as the answer; empty without dev set."""
    return [] if evaluation.dev is None else [f"threshold: {threshold_line(evaluation.threshold, evaluation.no_threshold)}"]


def saved_choices(overrides: Sequence[str], data: Mapping[str, Any]) -> str | None:
    """How rows are read, as it was given on a command line, as a YAML to paste: other commands need no retyping then.

    None where there is little to keep.
    """
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    fields = [field.split(".")[1:] for field in given if field.startswith("data.")]
    if data.get("mix") is not None or not any(field[0] in _WORTH_KEEPING for field in fields):
        return None
    base = next((o.removeprefix("data=").strip("'\"") for o in overrides if o.startswith("data=")), "default")
    kept: dict = {"defaults": [base, "_self_"]}
    for *groups, field in fields:
        values, place = data, kept
        for group in groups:
            values, place = values[group], place.setdefault(group, {})
        place[field] = values[field]
    name = re.sub(r"\W+", "_", stem(data["train_file"] or ""), flags=re.ASCII).strip("_")
    name = name if name[:1].isalpha() else "rows"  # Hydra would read 2024 as a number
    while any((conf / f"data/{name}.yaml").exists() for conf in (Path("conf"), shipped("conf"))):
        name += "_2"
    flag = "" if Path("conf").resolve() == shipped("conf").resolve() else " --config-dir=conf"
    text = "\n".join(f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in kept.items())  # JSON is YAML
    return (
        f"\nkeep how the rows are read: then data={name}{flag} says it to train, mine and eval"
        f"\nmkdir -p conf/data && cat > conf/data/{name}.yaml <<'END'\n{text}\nEND"
    )


def card_of_run(settings: dict, summary: dict, encoder: "Encoder", base: "Base") -> str:
    """The README.md of a run's model.

    Args:
        settings: of the run as plain values, without secrets.
        summary: as summary.json holds it.
        encoder: the model.
        base: before training.
    """
    told = {
        "metrics": [
            name for name in headline(settings["evaluation"]["cutoffs"]) if name in summary["scores"]["after"]["metrics"]
        ],
        "verdict": verdict_line(summary["verdict"]),
        "leaks": [overlap.sentence for overlap in leaking(summary)],
        "caveats": [
            *few_queries(summary["test_set"], summary["queries"], summary["verdict"]["metric"], summary["verdict"]),
            *few_passages(summary["test_set"], summary["passages"]),
        ],
        "threshold": threshold_line(summary["threshold"]) if summary["threshold"] else None,
        "keep": outcome_rows(summary) if summary["keep"] else [],
    }
    return model_card(encoder, base, settings, summary, told)


def relative(path: Path) -> str:
    """Return a path as a person in the current folder would type it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
