"""The evaluation command: one model, or two, and BM25 on a retrieval set."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e5ft.app.commands.data import load_dev_beside
from e5ft.app.commands.reading import evaluation_set, suite_tasks
from e5ft.app.runs.script import device_of
from e5ft.app.settings.groups import EvalSettings
from e5ft.app.telling.report import header_line, relative, say, set_notes, text_format
from e5ft.errors import ConfigurationError
from e5ft.files import write_json
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource, model_folder
from e5ft.retrieval.comparison import paired_differences
from e5ft.retrieval.evaluation import Evaluation, score_bm25, score_model, score_sizes
from e5ft.retrieval.hybrid import choosing_set, weighting
from e5ft.retrieval.mteb_suite import MtebEncoder, mean_of, public_name, run_tasks, score_table
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.small_vectors import Centre, centre_words
from e5ft.retrieval.tables import aligned, difference_text, few_queries, format_table, headline, main_metric


def evaluate(settings: EvalSettings, read: RetrievalSet | list[Any] | None = None) -> float:
    """Run one evaluation.

    Args:
        settings: of eval.py.
        read: what it ranks, or the suite's tasks, where they have been read already.

    Returns:
        The model's nDCG at 10 (or at the largest cutoff below it); of a suite the mean of its tasks' scores.
    """
    return _on_set(settings, read) if settings.suite is None else _on_suite(settings, read)


def _on_set(settings: EvalSettings, retrieval_set: RetrievalSet | None) -> float:
    source = settings.model
    other = None if settings.compare is None else ModelSource(path=model_folder(settings.compare, "compare"))
    retrieval_set = retrieval_set or evaluation_set(settings)
    folder = _output(settings, source) / retrieval_set.name
    _check_free(folder)
    counts = f"{len(retrieval_set.queries):,} queries, {len(retrieval_set.passages):,} passages"
    say("\n".join([header_line("set", f"{retrieval_set.name}: {counts}{_corpus(settings)}"), *set_notes([retrieval_set])]))
    dev = load_dev_beside(settings)
    weight = weighting(settings.evaluation, None if dev is None else choosing_set(dev, dev, dev, seed=settings.seed))
    bm25 = score_bm25(retrieval_set, settings.evaluation, seed=settings.seed)
    model, small = _score(settings, source, retrieval_set, score_sizes, bm25=bm25, weight=weight)
    evaluations = {"model": model, **{f"model_{key}": each for key, each in small.items()}}
    if bm25 is not None:
        evaluations["bm25"] = bm25
    if model.hybrid is not None:
        evaluations["hybrid"] = model.hybrid
    if other is not None:
        evaluations["compare"] = _score(settings, other, retrieval_set, score_model)
    for name, evaluation in evaluations.items():
        evaluation.save(folder / name)
    metrics = headline(list(settings.evaluation.cutoffs))
    say("\n" + format_table(list(evaluations.values()), metrics))
    if model.hybrid is not None:
        say(f"hybrid: its weight is {model.hybrid.weight.source}")
    main, lost = main_metric(metrics), [["kept as", "bytes", "lost", "p"]]
    for name, rival in evaluations.items():
        if name == "model":
            continue
        record = _difference(model, rival, metrics, folder / f"difference_{name}.json", settings.seed)
        if rival in small.values():
            figures = difference_text(*(record[main][end] for end in ("mean", "low", "high"))), f"{record[main]['p']:.2g}"
            lost.append([rival.label.removeprefix(f"{model.label}, "), f"{rival.bytes_per_passage:,}", *figures])
        else:
            _say_difference(model, rival, record)
    if small:
        whole = f"float32 ({model.bytes_per_passage:,} bytes)"
        say(f"\n{main} that small vectors lose against {whole}, paired over queries:\n{aligned(lost)}")
    say(f"\nmetrics, per-query results and TREC runs: {relative(folder)}")
    return model.metrics[main]


def _on_suite(settings: EvalSettings, tasks: list[Any] | None) -> float:
    tasks = tasks or suite_tasks(settings)
    source, scores = settings.model, []
    encoder = load_encoder(source, device_of(settings.device))
    say(text_format(encoder))
    options = {"batch_tokens": settings.evaluation.batch_tokens, "cache": Path(settings.cache_dir)}
    model = MtebEncoder(encoder, public_name(source.path, source.label), **options)
    folder = _output(settings, source) / ("" if settings.output_dir else "mteb")
    for score in run_tasks(model, tasks, folder):
        scores.append(score)
        say(header_line(f"{len(scores)} of {len(tasks)}", str(score)))
    say(f"\n{score_table(scores)}\n\nMTEB's results: {relative(folder)}")
    return mean_of(scores)


def _score(settings: EvalSettings, source: ModelSource, retrieval_set: RetrievalSet, score: Callable[..., Any], **mixed) -> Any:
    """What `score`, score_sizes or score_model, finds of a model."""
    encoder = load_encoder(source, device_of(settings.device))
    say(text_format(encoder, "" if source is settings.model else source.label))
    label = source.label + (" (random weights)" if source.init == "random" and "random" not in source.label else "")
    mixed = {"seed": settings.seed, "cache": Path(settings.cache_dir), **mixed}
    if score is score_sizes and "binary" in settings.evaluation.precisions:
        mixed["centre"] = None if source.path is None else Centre.load(source.path, encoder.dimension)
        say(header_line("centre", centre_words(mixed["centre"])))
    return score(encoder, retrieval_set, settings.evaluation, label, **mixed)


def _corpus(settings: EvalSettings) -> str:
    """Which passages a set made of rows is ranked among."""
    if settings.data.dev_file is None:
        return ""
    data = settings.data
    others = {"data.train_file's": data.train_file or data.mix, "data.corpus_file's": data.corpus_file}
    named = " and ".join(name for name, value in others.items() if value is not None)
    alone = "alone; name all there are with data.corpus_file=FILE, or data.train_file=FILE for its documents"
    return f" (the rows' own {f'and {named}' if named else alone})"


def _output(settings: EvalSettings, source: ModelSource) -> Path:
    """Where results go: beside the model in its run, unless output_dir says otherwise."""
    if settings.output_dir is not None:
        return Path(settings.output_dir)
    if source.path is not None:
        model = Path(source.path).resolve()
        return (model.parent if model.name == "model" else model) / "eval"
    return Path("outputs") / "eval" / re.sub(r"[/, ]+", "_", source.label)


def _check_free(folder: Path) -> None:
    """Refuse to replace what no evaluation wrote, before the work and not after it."""
    for path in folder.glob("*"):
        if path.is_symlink() or (path.is_dir() and any(path.iterdir()) and not (path / "metrics.json").is_file()):
            raise ConfigurationError(f"output_dir: {path} holds other files, which results would replace; name another folder")


def _difference(model: Evaluation, rival: Evaluation, metrics: list[str], path: Path, seed: int) -> dict[str, dict[str, float]]:
    record = {
        metric: {"mean": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p_value}
        for metric, difference in paired_differences(model, rival, metrics, seed=seed).items()
    }
    write_json(path, record)
    return record


def _say_difference(model: Evaluation, rival: Evaluation, record: dict[str, dict[str, float]]) -> None:
    say(f"\nagainst {rival.label}, paired over queries:")
    for metric, found in record.items():
        say(f"  {metric:<10} {difference_text(found['mean'], found['low'], found['high'])}  p = {found['p']:.2g}")
    main = main_metric(list(record))
    for line in few_queries(model.set_name, len(model.scored), main, record[main]):
        say(line)
