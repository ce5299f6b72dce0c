"""The evaluation job: one model, or two, and BM25 on a retrieval set."""

from pathlib import Path

from omegaconf import DictConfig

from e5ft.app import configuration
from e5ft.app.datasets import load_evaluation_set
from e5ft.app.scoring import headline, main_metric, score_bm25, score_sizes
from e5ft.app.telling.report import relative, say
from e5ft.errors import ConfigurationError
from e5ft.files import write_json
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.retrieval.evaluation import Evaluation, format_table, paired_difference
from e5ft.retrieval.sets import RetrievalSet


def evaluate(config: DictConfig) -> float:
    """Run one evaluation job.

    Args:
        config: the composed configuration of eval.py.

    Returns:
        The model's nDCG at 10 (or at the largest cutoff below it).
    """
    source = configuration.model_source(config)
    other = None if config.compare is None else _other(config)
    retrieval_set = load_evaluation_set(config)
    folder = _output(config, source) / retrieval_set.name
    _check_free(folder)
    say(
        f"{source.label} on {retrieval_set.name}: {len(retrieval_set.queries):,} queries, {len(retrieval_set.passages):,} passages"
    )
    model, cuts = _score(config, source, retrieval_set)
    found = {"model": model, **{f"model_{dimension}d": cut for dimension, cut in cuts.items()}}
    bm25 = score_bm25(retrieval_set, config.evaluation, seed=config.seed)
    if bm25 is not None:
        found["bm25"] = bm25
    if other is not None:
        found["compare"] = _score(config, other, retrieval_set)[0]
    for name, evaluation in found.items():
        evaluation.save(folder / name)
    metrics = headline(list(config.evaluation.cutoffs))
    say("\n" + format_table(list(found.values()), metrics))
    for name, rival in found.items():
        if name != "model":
            _compare(found["model"], rival, metrics, folder / f"difference_{name}.json", config.seed)
    say(f"\nmetrics, per-query results and TREC runs: {relative(folder)}")
    return found["model"].metrics[main_metric(metrics)]


def _score(config: DictConfig, source: ModelSource, retrieval_set: RetrievalSet) -> tuple[Evaluation, dict[int, Evaluation]]:
    encoder = load_encoder(source, configuration.device(config))
    label = source.label + (" (random weights)" if source.init == "random" and "random" not in source.label else "")
    cache = Path(config.cache_dir)
    return score_sizes(encoder, retrieval_set, config.evaluation, label, seed=config.seed, cache=cache)


def _other(config: DictConfig) -> ModelSource:
    return ModelSource(path=configuration.model_folder(config.compare, "compare"))


def _output(config: DictConfig, source: ModelSource) -> Path:
    """Where results go: beside the model in its run, unless told otherwise."""
    if config.output_dir is not None:
        return Path(config.output_dir)
    if source.path is not None:
        model = Path(source.path).resolve()
        return (model.parent if model.name == "model" else model) / "eval"
    return Path("outputs") / "eval" / source.label.replace("/", "_")


def _check_free(folder: Path) -> None:
    """Refuse to replace what no evaluation wrote, before the work and not after it."""
    for path in folder.glob("*"):
        if path.is_symlink() or (path.is_dir() and any(path.iterdir()) and not (path / "metrics.json").is_file()):
            raise ConfigurationError(f"output_dir: {path} holds other files, which results would replace; name another folder")


def _compare(model: Evaluation, rival: Evaluation, metrics: list[str], path: Path, seed: int) -> None:
    say(f"\nagainst {rival.label}, paired over queries:")
    written = {}
    for metric in metrics:
        difference = paired_difference(model, rival, metric, seed=seed)
        written[metric] = {"mean": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p_value}
        say(
            f"  {metric:<10} {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]  p = {difference.p_value:.2g}"
        )
    write_json(path, written)
