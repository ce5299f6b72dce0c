"""What summary.json says of a finished training."""

import dataclasses
from collections.abc import Sequence
from itertools import chain

from e5ft.app.commands.data import TrainingData
from e5ft.app.commands.ending import is_base
from e5ft.app.settings.groups import TrainSettings
from e5ft.data.store import TokenStore
from e5ft.exporting.card import language_of
from e5ft.retrieval.comparison import Scores, keep_record, paired_values
from e5ft.retrieval.overlap import Overlap, leaking
from e5ft.retrieval.tables import main_metric
from e5ft.retrieval.verdict import keep_results, overall_verdict
from e5ft.training import schedule
from e5ft.training.trainer import ContrastiveTrainer


def summarise(
    settings: TrainSettings,
    data: TrainingData,
    tokens: TokenStore,
    trainer: ContrastiveTrainer,
    objective: str,
    best: dict,
    scores: Scores,
    keep: Sequence[Scores],
    overlaps: Sequence[Overlap],
    seconds: float,
) -> dict:
    """What was trained on what, and what it scores.

    Args:
        settings: as the user gave them, `auto` among them.
        data, tokens, trainer: of the run.
        objective: the dev metric that chose.
        best: score, step and alpha of the weights that the run ends with.
        scores, keep: of the test set and the keep sets, before and after.
        overlaps: of the sets with the rows.
        seconds: of the whole run.
    """
    runtime = next((entry["train_runtime"] for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), 0.0)
    tokens_seen = trainer.tokens_seen * trainer.args.world_size
    summary = {
        "state": "finished",
        "model": settings.model.label,
        "random_weights": settings.model.init == "random",
        "data": {
            "source": data.label,
            "read": data.rows.read,
            "rejected": data.rows.rejected,
            "train_rows": len(data.train.rows),
            "language": language_of(chain(*data.train.rows[:: max(1, len(data.train.rows) // 1000)]["positives"])),
        },
        "truncated_share": tokens.truncated / max(tokens.texts, 1),
        "test_set": data.test.name,
        "queries": len(scores.after.scored),
        "passages": scores.after.passages,
        "counts": dataclasses.asdict(data.test.counts),
        "chosen_on_test": data.dev_is_test,
        "corpus": data.corpus,
        "objective": objective,
        "best": best,
        "training": {
            "steps": trainer.state.global_step,
            "queries_per_step": trainer.sampler.step_rows,
            "epochs": round(trainer.state.global_step / trainer.sampler.steps, 3),
            "auto": sorted(name for name, value in vars(settings.training).items() if value == schedule.AUTO),
            "without_negatives": trainer.without_negatives,
            "seconds": round(runtime, 1),
            "evaluation_seconds": round(trainer.evaluation_seconds, 1),
            "tokens_per_second": round(tokens_seen / runtime) if runtime else None,
            "seconds_in_all": round(seconds, 1),
        },
        "scores": scores.record(),
        "differences": scores.differences(settings.seed),
        "hybrid": scores.hybrid_record(settings.seed),
        "threshold": scores.after.threshold,
        "no_threshold": scores.after.no_threshold,
        "keep": [keep_record(measured, settings.seed) for measured in keep],
        "overlap": [dataclasses.asdict(overlap) for overlap in overlaps],
    }
    return {**summary, "verdict": _verdict(settings, summary, scores, keep)}


def _verdict(settings: TrainSettings, summary: dict, scores: Scores, keep: Sequence[Scores]) -> dict:
    metric, best = main_metric(settings.evaluation.cutoffs), summary["best"]
    values = {measured.after.set_name: paired_values(measured.after, measured.before, [metric]) for measured in keep}
    results = keep_results(values, seed=settings.seed)
    seen = summary["chosen_on_test"] and (best["score"] is not None or best["alpha"] < 1)
    leaks = any(leak.set == summary["test_set"] for leak in leaking(summary))
    difference, queries = summary["differences"][metric], len(scores.after.scored)
    verdict = overall_verdict(difference, queries, results, base_kept=is_base(best), chosen_on_test=seen, leaks=leaks)
    return {**verdict, "metric": metric, "set": scores.after.set_name, "against": scores.before.label}
