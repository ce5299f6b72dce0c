"""The evaluation command: one or several models, and BM25, on one or several retrieval sets."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

from e5ft.app.commands.data import load_dev_beside
from e5ft.app.commands.reading import evaluation_sets, suite_tasks
from e5ft.app.runs.script import device_of
from e5ft.app.settings.groups import EvalSettings
from e5ft.app.telling.report import header_line, relative, say, set_notes, text_format, threshold_lines
from e5ft.errors import ConfigurationError
from e5ft.files import write_json
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource, model_folders
from e5ft.retrieval.comparison import Difference, paired_differences
from e5ft.retrieval.evaluation import Evaluation, score_bm25, score_model, score_sizes
from e5ft.retrieval.hybrid import choosing_set, weight_of, weighting
from e5ft.retrieval.mteb_suite import MtebEncoder, mean_of, public_name, run_tasks, score_table
from e5ft.retrieval.robustness import NoisedSet, noise_record, noised_sets, robustness_table
from e5ft.retrieval.score_table import Row, ScoreTable
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.small_vectors import Centre, centre_words
from e5ft.retrieval.tables import few_queries, headline, in_words, main_metric


def evaluate(settings: EvalSettings, read: Sequence[Any] | None = None) -> float:
    """Run one evaluation: every model on every set, and one table of all; or one model on MTEB's tasks.

    Args:
        settings: of eval.py.
        read: what is ranked, where it has been read already: the target first, then those of data.keep_dir; or the tasks.

    Returns:
        The first model's nDCG at 10 (or at the largest cutoff below it) on the target; of a suite the mean of its tasks' scores.
    """
    return _on_sets(settings, read) if settings.suite is None else _on_suite(settings, read)


def _on_sets(settings: EvalSettings, sets: Sequence[RetrievalSet] | None) -> float:
    others = [ModelSource(path=path) for path in model_folders(settings.compare, "compare", settings.model.path, optional=True)]
    sets, root = sets or evaluation_sets(settings), _output(settings, settings.model)
    _check_free(root, sets)
    for each in sets:
        counts = f"{len(each.queries):,} queries, {len(each.passages):,} passages"
        say(header_line("set", f"{each.name}: {counts}{_corpus(settings) if each is sets[0] else ''}"))
    for line in set_notes(sets):
        say(line)
    dev = load_dev_beside(settings)
    dev = None if dev is None else choosing_set(dev, dev, dev, seed=settings.seed)
    weight = weighting(settings.evaluation, dev)
    measured: list[dict[str, Evaluation]] = []
    noisy, rough = [noised_sets(each, settings.robustness) for each in sets], []
    score = _scorer(settings, settings.model)
    for each, variants in zip(sets, noisy, strict=True):
        bm25 = score_bm25(each, settings.evaluation, seed=settings.seed)
        model, small = score(score_sizes, each, bm25=bm25, weight=weight, dev=dev)
        weight, dev = weight_of(model), None  # the target's decide
        named = {"model": model, **{f"model_{key}": one for key, one in small.items()}, "bm25": bm25, "hybrid": model.hybrid}
        measured.append({name: one for name, one in named.items() if one is not None})
        rough.append({"model": _noised(variants, partial(score, score_model))})
        if bm25 is not None:
            rough[-1]["bm25"] = _noised(variants, lambda each: score_bm25(each, settings.evaluation, seed=settings.seed))
    for number, source in enumerate(others, start=1):
        score = _scorer(settings, source)
        for each, named, variants, found in zip(sets, measured, noisy, rough, strict=True):
            name = "compare" if number == 1 else f"compare_{number}"
            named[name] = score(score_model, each)
            found[name] = _noised(variants, partial(score, score_model))
    metrics = headline(settings.evaluation.cutoffs)
    main, rows, notes, noise = main_metric(settings.evaluation.cutoffs), [], {}, []
    for named, variants, found_noised in zip(measured, noisy, rough, strict=True):
        for name, one in named.items():
            one.save(root / one.set_name / name)
            found = None if name == "model" else _difference(named["model"], one, metrics, root, name, settings.seed)
            rows.append(Row(one, None if found is None else -found[main]))
            if found is not None:
                notes |= dict.fromkeys(
                    few_queries(one.set_name, len(one.scored), main, dataclasses.asdict(found[main]), one.label)
                )
        for kind, variant in variants.items():
            for name, by_kind in found_noised.items():
                one = dataclasses.replace(by_kind[kind], label=f"{named[name].label}, {kind}")
                record = noise_record(variant, named[name], one, metrics, seed=settings.seed)
                one.save(root / one.set_name / f"{name}_{kind}", record)
                rows.append(Row(one, -paired_differences(named["model"], one, [main], seed=settings.seed)[main]))
                noise.append((f"{one.set_name}: {named[name].label}" if len(sets) > 1 else named[name].label, record))
    table, first = ScoreTable(rows, metrics, main), measured[0]["model"]
    table.write(root)
    say(f"\n{table.text()}\n{main} to the first: the row less {first.label}, paired over queries, with its 95 % interval")
    if first.hybrid is not None:
        say(f"hybrid: its weight is {first.hybrid.weight.source}")
    names = {"model": "model", "compare": "the other model", "bm25": "BM25", "hybrid": "hybrid"}
    say("\n" + in_words(len(first.scored), {name: measured[0][key].metrics for key, name in names.items() if key in measured[0]}))
    for line in [*threshold_lines(first), *notes]:
        say(line)
    if noise:
        say(f"\nnoise in the queries, paired over them:\n{robustness_table(noise)}")
    say(f"\ntable.md, table.csv, table.tex, metrics, per-query results and TREC runs: {relative(root)}")
    return first.metrics[main]


def _noised(variants: dict[str, NoisedSet], score: Callable[[RetrievalSet], Evaluation]) -> dict[str, Evaluation]:
    """What a system scores on a set under each kind of noise."""
    return {kind: score(variant.retrieval_set) for kind, variant in variants.items()}


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


def _scorer(settings: EvalSettings, source: ModelSource) -> Callable[..., Any]:
    """Load a model; the function by which `score_sizes` or `score_model` measures it on a set."""
    encoder = load_encoder(source, device_of(settings.device))
    say(text_format(encoder, "" if source is settings.model else source.label))
    label = source.label + (" (random weights)" if source.init == "random" and "random" not in source.label else "")
    options: dict[str, Any] = {"seed": settings.seed, "cache": Path(settings.cache_dir)}
    centre = {}
    if source is settings.model and "binary" in settings.evaluation.precisions:
        centre["centre"] = None if source.path is None else Centre.load(source.path, encoder.dimension)
        say(header_line("centre", centre_words(centre["centre"])))
    return lambda score, each, **more: score(encoder, each, settings.evaluation, label, **options, **centre, **more)


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


def _check_free(root: Path, sets: Sequence[RetrievalSet]) -> None:
    """Refuse to replace what no evaluation wrote, before the work and not after it."""
    tables = [] if any(root.glob("*/model/metrics.json")) else [*root.glob("table.*")]
    systems = [path for each in sets for path in (root / each.name).glob("*")]
    foreign = (
        path.is_symlink() or (path.is_dir() and any(path.iterdir()) and not (path / "metrics.json").is_file()) for path in systems
    )
    for path in [*tables, *compress(systems, foreign)]:
        raise ConfigurationError(f"output_dir: {path} holds other files, which results would replace; name another folder")


def _difference(
    model: Evaluation, rival: Evaluation, metrics: list[str], root: Path, name: str, seed: int
) -> dict[str, Difference]:
    """The model's paired differences to a rival, which are written beside it."""
    found = paired_differences(model, rival, metrics, seed=seed)
    record = {key: {"mean": each.mean, "low": each.low, "high": each.high, "p": each.p_value} for key, each in found.items()}
    write_json(root / model.set_name / f"difference_{name}.json", record)
    return found
