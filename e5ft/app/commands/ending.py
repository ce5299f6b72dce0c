"""Which weights a run ends with: those that the dev set chose, unless a keep set refutes them."""

import dataclasses
from pathlib import Path

import numpy as np

from e5ft.app.commands.data import TrainingData
from e5ft.app.settings.groups import TrainSettings
from e5ft.app.telling.report import say
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.merging import merge, plain
from e5ft.retrieval.comparison import Scores, paired_values
from e5ft.retrieval.evaluation import evaluator, score_model, score_sizes
from e5ft.retrieval.hybrid import Weight, weight_of
from e5ft.retrieval.sets import halves
from e5ft.retrieval.tables import main_metric
from e5ft.retrieval.verdict import ALPHAS, RULE, KeepResult, choose_alpha, keep_results


class Guard:
    """Measures what training made on the keep sets; where they refute it, a merger with the base is taken by `verdict.RULE`.

    Mergers are measured only then: on the dev set all of them, on keep sets from the best down to the first that holds.
    Every process makes the same measurements.

    Args:
        settings: of train.py.
        data: with the keep sets and the choices of theirs; without choices nothing is refuted.
        encoder: the model before training.
        keep: its scores on the keep sets, whole. `end` adds those after training and leaves what is to be reported.
        cache: where the vectors of the model before training are kept; None: nowhere.
    """

    def __init__(self, settings: TrainSettings, data: TrainingData, encoder: Encoder, keep: list[Scores], cache: Path | None):
        self.settings, self.data, self.keep, self._cache = settings, data, keep, cache
        self._metric = main_metric(settings.evaluation.cutoffs)
        options = {"seed": settings.seed, "cache": cache}
        self._before = [
            choice and score_model(encoder, choice, settings.evaluation, "before", **options) for choice in data.choice
        ]

    def end(self, trained: Encoder, best: dict, objective: str, weight: Weight | None) -> tuple[Encoder, dict, dict | None]:
        """Take the weights to end with, and measure them on the keep sets.

        Args:
            trained: what the dev set chose.
            best: its score (None: nothing was measured), step and alpha.
            objective: the dev metric.
            weight: of the keep sets' hybrids after training; None: there are none.

        Returns:
            The encoder; best with the taken weights' alpha and score; and the summary's "guard": rule, metric and what was tried,
            None where nothing may be refuted.
        """
        encoder, dev, tried = trained, {}, {1.0: self._measure(trained, best, weight)}
        if best["step"] and _refuting(tried[1.0]):
            say(f"refuted by {', '.join(_refuting(tried[1.0]))}: mergers with the model before training are measured")
            base = load_encoder(self.settings.model, trained.device).to("cpu")  # the device decides on padding
            tuned = plain(trained, base)
            evaluate = evaluator(self.data.dev, self.settings.evaluation)

            def merged(alpha: float) -> Encoder:
                return merge(base, tuned, alpha).to(trained.device)

            def refuted(alpha: float) -> bool:
                tried[alpha] = self._measure(merged(alpha), best, weight)
                return bool(_refuting(tried[alpha]))

            measured = {alpha: evaluate(merged(alpha)) for alpha in (0.0, *ALPHAS)}
            dev = {alpha: scores.get(objective, scores[self._metric]) for alpha, scores in measured.items()}
            alpha = choose_alpha(dev, refuted)
            encoder, best = merged(alpha), {**best, "alpha": alpha, "score": None if best["score"] is None else dev[alpha]}
            if not alpha:
                self._measure(encoder, best, weight)
        self._report()
        return encoder, best, self._record(tried, dev) if self.data.choice else None

    def _measure(self, encoder: Encoder, best: dict, weight: Weight | None) -> dict[str, KeepResult]:
        """Score an encoder on every keep set, and hold what may choose against the base."""
        values, evaluation, seed = {}, self.settings.evaluation, self.settings.seed
        for i, (scores, whole) in enumerate(zip(self.keep, self.data.keep, strict=True)):
            known = {"weight": weight_of(scores.before), "cache": self._cache} if is_base(best) else {"weight": weight}
            scores.after, scores.small = score_sizes(encoder, whole, evaluation, "after", seed=seed, bm25=scores.bm25, **known)
            if self.data.choice:
                values[whole.name] = self._changes(encoder, i)
        return keep_results(values, seed=seed)

    def _changes(self, encoder: Encoder, number: int) -> np.ndarray:
        """(Q, 1): what became of the queries of a keep set that may choose: its dev split's, or the first half."""
        choice, scores = self.data.choice[number], self.keep[number]
        if choice is not None:
            after = score_model(encoder, choice, self.settings.evaluation, "after", seed=self.settings.seed)
            return paired_values(after, self._before[number], [self._metric])
        values = paired_values(scores.after, scores.before, [self._metric])
        return values[np.isin(scores.after.scored, halves(self.data.keep[number])[0])]

    def _report(self) -> None:
        """Leave of every keep set what no choice has seen."""
        samples, seed = self.settings.evaluation.intervals, self.settings.seed
        for i, choice in enumerate(self.data.choice):
            if choice is None:
                self.keep[i] = self.keep[i].of_queries(halves(self.data.keep[i])[1], samples=samples, seed=seed)

    def _record(self, tried: dict[float, dict[str, KeepResult]], dev: dict[float, float]) -> dict:
        entries = [
            {
                "alpha": alpha,
                "dev": dev.get(alpha),
                "keep": {name: dataclasses.asdict(result) for name, result in tried.get(alpha, {}).items()},
            }
            for alpha in sorted({*tried, *dev}, reverse=True)
        ]
        return {"rule": f"where a keep set refutes alpha 1: {RULE}", "metric": self._metric, "tried": entries}


def is_base(best: dict) -> bool:
    """Whether the weights that a run ends with are those of the model before training."""
    return not (best["step"] and best["alpha"])


def _refuting(results: dict[str, KeepResult]) -> list[str]:
    return [name for name, result in results.items() if result.lost]
