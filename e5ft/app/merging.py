"""The merging stage of export.py: weights between a model and its base, and which mixture to take."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from e5ft.app import configuration
from e5ft.app.datasets import keep_folders, load_keep_sets, load_set
from e5ft.app.pacing import AUTO, LARGEST
from e5ft.app.report import inline, plain_card, say
from e5ft.data.remote import Fetched
from e5ft.errors import ConfigurationError, DataError
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.modeling.merging import check_alpha, check_mergeable, merge
from e5ft.retrieval.comparison import paired_differences
from e5ft.retrieval.evaluation import Evaluation, score_model
from e5ft.retrieval.sets import RetrievalSet, shrink_corpus
from e5ft.retrieval.tables import aligned, headline, interval_text, main_metric

RULE = (
    "of the alphas whose score on every keep set is not below the lower end of the base's (alpha 0) 95 % interval there, "
    "the one with the largest score on the target; of equal ones the smallest. Alpha 0 always qualifies"
)


@dataclasses.dataclass(frozen=True)
class Merged:
    """What merging gives: the encoder, its name in tables, its model card, and the content of merge.json."""

    encoder: Encoder
    label: str
    card: str
    record: dict


def merge_models(config: DictConfig, source: ModelSource) -> Merged:
    """Merge `merge.base` and the `model` group's model; of a list of alphas take the best.

    Args:
        config: the composed configuration of export.py.
        source: the fine-tuned model.

    Raises:
        ConfigurationError: alpha is no share or list of shares, a list without data.eval_dir, or models that do not fit.
        DataError: an evaluation folder, or the split `merge.split` in it, is not there.
    """
    given = _alphas(config.merge.alpha)
    folders = _folders(config, chooses=isinstance(given, list))
    tuned = load_encoder(source)
    base_source = _base_source(config, source, tuned)
    base = load_encoder(base_source)
    check_mergeable(base, tuned)
    record = {"base": base_source.label, "fine_tuned": source.label, "alpha": given, "rule": None}
    if folders:
        alphas = sorted({0.0, 1.0, *(given if isinstance(given, list) else [given])})
        sets = _sets(config, folders)
        measured = {alpha: _measure(config, base, tuned, alpha, sets) for alpha in alphas}
        record.update(_outcome(measured, given, config))
        say("\n" + sweep_table(record))
    label = f"{source.label} and {base_source.label} merged, alpha {record['alpha']:g}"
    encoder = merge(base, tuned, record["alpha"])
    return Merged(encoder, label, plain_card(label, encoder) + _card_section(record), record)


def choose_alpha(
    target: Mapping[float, float], keep: Mapping[str, Mapping[float, float]], floors: Mapping[str, float]
) -> tuple[float, list[float]]:
    """Apply `RULE`.

    Args:
        target: alpha -> score on the target; alpha 0 is among them.
        keep: keep set -> alpha -> score there.
        floors: keep set -> the score below which it counts as lost.

    Returns:
        The chosen alpha, and the ones that qualify in ascending order.
    """
    qualifying = [
        alpha for alpha in sorted(target) if alpha == 0 or all(keep[name][alpha] >= floor for name, floor in floors.items())
    ]
    return max(qualifying, key=lambda alpha: (target[alpha], -alpha)), qualifying


def sweep_table(record: dict) -> str:
    """The sweep for people: a row an alpha, a column a set, which qualify, which is taken, and by what rule."""
    metric, names = record["metric"], [record["target"], *record["keep"]]
    cells = [["alpha", *(f"{name} {metric}" for name in names), "qualifies", ""]]
    for entry in record["alphas"]:
        taken = ("chosen" if record["rule"] else "given") if entry["alpha"] == record["alpha"] else ""
        figures = [_cell(entry["sets"][name], metric) for name in names]
        cells.append([_alpha_label(entry["alpha"]), *figures, "yes" if entry["qualifies"] else "no", taken])
    lines = [f"split {record['split']}, 95 % intervals; an alpha is the fine-tuned model's share", "", aligned(cells), ""]
    lines += [f"{name}: below {low:.3f} an alpha does not qualify" for name, low in record["floors"].items()]
    if record["rule"]:
        lines.append(f"alpha {record['alpha']:g} is chosen: {record['rule']}.")
        if not record["keep"]:
            lines.append("No keep set is named (data.keep_dir): the target alone decided.")
        if record["alpha"] == 0:
            lines.append("Nothing that qualifies is better than the base: the model written is the base, unchanged.")
    return "\n".join(lines)


def _alphas(value: object) -> float | list[float]:
    """merge.alpha as a share or a list of different ones."""
    if not OmegaConf.is_list(value):
        check_alpha(value, "merge.alpha")
        return float(value)
    given = list(value)
    if not given:
        raise ConfigurationError("merge.alpha=[]: a number or a list of numbers is needed, for instance [0.25,0.5,0.75]")
    for alpha in given:
        check_alpha(alpha, "merge.alpha")
    double = [alpha for i, alpha in enumerate(given) if alpha in given[:i]]
    if double:
        raise ConfigurationError(f"merge.alpha={given}: {double[0]:g} stands there twice; name each once")
    return [float(alpha) for alpha in given]


def _folders(config: DictConfig, chooses: bool) -> list[Path | Fetched]:
    """The target's folder and the keep sets', checked to have the split; empty where nothing is to be measured."""
    data, split, cache = config.data, config.merge.split, Path(config.cache_dir)
    if data.eval_dir is None and chooses:
        raise ConfigurationError(
            f"merge.alpha={config.merge.alpha}: there is nothing to choose one by; name data.eval_dir=DIR (and data.keep_dir=[DIR]), "
            "or give one number"
        )
    if not isinstance(split, str) or not split:
        raise ConfigurationError(f"merge.split={split!r}: the name of a split is needed, of qrels/NAME.tsv, for instance dev")
    try:
        folders = keep_folders(data.keep_dir, split, cache)
        if data.eval_dir is None and folders:
            raise ConfigurationError("data.keep_dir: the target is needed beside it, data.eval_dir=DIR")
        return [] if data.eval_dir is None else [*keep_folders([data.eval_dir], split, cache, "data.eval_dir"), *folders]
    except DataError as error:
        raise DataError(
            f"{error} (merge.split={split}: what alphas are measured on, so that the test split stays unseen)"
        ) from error


def _base_source(config: DictConfig, source: ModelSource, tuned: Encoder) -> ModelSource:
    """The base under the fine-tuned model's lengths: a published folder records none, and no weight depends on them."""
    path = configuration.model_folder(config.merge.base, "merge.base")
    if source.path is not None and Path(path).resolve() == Path(source.path).resolve():
        raise ConfigurationError(f"merge.base={config.merge.base}: this is model.path itself; name the model before fine-tuning")
    lengths = {field: getattr(tuned.spec.text, field) for field in ("query_max_length", "passage_max_length")}
    return dataclasses.replace(
        source, path=path, hub=None, revision=None, init="pretrained", shape=None, text={**source.text, **lengths}
    )


def _sets(config: DictConfig, folders: list[Path | Fetched]) -> list[RetrievalSet]:
    target = load_set(folders[0], config.merge.split)
    keep = load_keep_sets(folders[1:], config.merge.split, target)
    size = LARGEST if config.data.eval_corpus_size == AUTO else config.data.eval_corpus_size
    return [shrink_corpus(whole, size, seed=config.seed) for whole in (target, *keep)]


def _measure(config: DictConfig, base: Encoder, tuned: Encoder, alpha: float, sets: list[RetrievalSet]) -> list[Evaluation]:
    """One alpha on every set; its vectors are used once, and not kept."""
    encoder = merge(base, tuned, alpha).to(configuration.device(config))
    label = f"alpha {_alpha_label(alpha)}"
    found = [score_model(encoder, retrieval_set, config.evaluation, label, seed=config.seed) for retrieval_set in sets]
    metric = main_metric(headline(list(config.evaluation.cutoffs)))
    say(f"  {label}: {metric} " + ", ".join(f"{e.metrics[metric]:.3f} on {e.set_name}" for e in found))
    return found


def _outcome(measured: dict[float, list[Evaluation]], given: float | list[float], config: DictConfig) -> dict:
    """The chosen alpha and every figure, for merge.json, the table and the model card."""
    metric = main_metric(headline(list(config.evaluation.cutoffs)))
    target, *keep = measured[0.0]
    floors = {e.set_name: e.intervals[metric][0] for e in keep}
    scores = {
        e.set_name: {alpha: found[i].metrics[metric] for alpha, found in measured.items()} for i, e in enumerate([target, *keep])
    }
    chosen, qualifying = choose_alpha(scores[target.set_name], scores, floors)
    return {
        **({"alpha": chosen, "rule": RULE} if isinstance(given, list) else {}),
        "split": config.merge.split,
        "metric": metric,
        "target": target.set_name,
        "keep": list(floors),
        "floors": floors,
        "alphas": [
            {
                "alpha": alpha,
                "qualifies": alpha in qualifying,
                "sets": {
                    e.set_name: _figures(e, base, metric, config.seed) for e, base in zip(found, measured[0.0], strict=True)
                },
            }
            for alpha, found in measured.items()
        ],
    }


def _figures(evaluation: Evaluation, base: Evaluation, metric: str, seed: int) -> dict:
    return {
        "queries": len(evaluation.scored),
        "passages": evaluation.passages,
        "metrics": evaluation.metrics,
        "intervals": evaluation.intervals,
        "difference_to_base": dataclasses.asdict(paired_differences(evaluation, base, [metric], seed=seed)[metric]),
    }


def _card_section(record: dict) -> str:
    """What a reader of the model card must know: which two models, how much of each, and how that was decided."""
    text = f"""
## Merged weights

(1 - {record["alpha"]:g}) x base + {record["alpha"]:g} x fine-tuned, tensor by tensor (WiSE-FT, arXiv:2109.01903; LM-Cocktail, arXiv:2311.13534).

- base: {inline(record["base"])}
- fine-tuned: {inline(record["fine_tuned"])}
- alpha: {record["alpha"]:g}, {"chosen by a rule: " + record["rule"] if record["rule"] else "given"}
"""
    if "alphas" not in record:
        return text
    metric, names = record["metric"], [record["target"], *record["keep"]]
    table = ["| alpha | " + " | ".join(f"{inline(name)} {metric}" for name in names) + " | qualifies |"]
    table.append("|---|" + "---:|" * len(names) + "---|")
    for entry in record["alphas"]:
        cells = [_cell(entry["sets"][name], metric) for name in names]
        table.append(f"| {_alpha_label(entry['alpha'])} | {' | '.join(cells)} | {'yes' if entry['qualifies'] else 'no'} |")
    return (
        f"{text}\nThe target first, then the sets to keep, split {inline(record['split'])}, 95 % intervals:\n\n"
        + "\n".join(table)
        + "\n"
    )


def _cell(figures: dict, metric: str) -> str:
    return interval_text(figures["metrics"][metric], figures["intervals"][metric])


def _alpha_label(alpha: float) -> str:
    return {0.0: "0 (base)", 1.0: "1 (fine-tuned)"}.get(alpha, f"{alpha:g}")
