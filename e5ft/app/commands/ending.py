"""Which weights a run ends with: those that the dev set chose, unless a keep set refutes them."""

import dataclasses
from pathlib import Path

from e5ft.app.commands.data import TrainingData
from e5ft.app.settings.groups import TrainSettings
from e5ft.app.telling.report import say
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.merging import merge, plain
from e5ft.retrieval.comparison import Scores, paired_values
from e5ft.retrieval.evaluation import Evaluation, evaluator, of_queries, score_model, score_sizes
from e5ft.retrieval.hybrid import Weight
from e5ft.retrieval.sets import RetrievalSet, halves
from e5ft.retrieval.tables import headline, main_metric
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
    """

    def __init__(self, settings: TrainSettings, data: TrainingData, encoder: Encoder, keep: list[Scores]):
        self.settings, self.data, self.keep = settings, data, keep
        self._metric = main_metric(headline(list(settings.evaluation.cutoffs)))
        self._cache = Path(settings.cache_dir)
        self._before = [
            self._choosing(encoder, scores.before, choice, self._cache) for scores, choice in zip(keep, data.choice, strict=False)
        ]

    def end(self, trained: Encoder, best: dict, objective: str, weight: Weight | None) -> tuple[Encoder, dict, dict | None]:
        """Take the weights to end with, and measure them on the keep sets.

        Args:
            trained: what the dev set chose.
            best: its score (None: nothing was measured) and step.
            objective: the dev metric.
            weight: of the keep sets' hybrids; None: there are none.

        Returns:
            The encoder; best with the trained weights' share, alpha, and the taken ones' score; and the summary's "guard":
            rule, metric and what was tried, None where nothing may be refuted.
        """
        self._weight, self._known = weight, not best["step"]
        best, tried = {**best, "alpha": 1.0}, {1.0: self._measure(trained)}
        encoder, dev = trained, {}
        if best["step"] and _refuting(tried[1.0]):
            say(f"refuted by {', '.join(_refuting(tried[1.0]))}: mergers with the model before training are measured")
            base = load_encoder(self.settings.model, trained.device).to("cpu")  # the device decides on padding
            tuned = plain(trained, base)
            evaluate = evaluator(self.data.dev, self.settings.evaluation)

            def merged(alpha: float) -> Encoder:
                return merge(base, tuned, alpha).to(trained.device)

            def refuted(alpha: float) -> bool:
                tried[alpha] = self._measure(merged(alpha))
                return bool(_refuting(tried[alpha]))

            measured = {alpha: evaluate(merged(alpha)) for alpha in (0.0, *ALPHAS)}
            dev = {alpha: scores.get(objective, scores[self._metric]) for alpha, scores in measured.items()}
            best["alpha"] = choose_alpha(dev, refuted)
            encoder = merged(best["alpha"])
            best["score"] = None if best["score"] is None else dev[best["alpha"]]
            if not best["alpha"]:
                self._measure(encoder)
        self._report()
        return encoder, best, self._record(tried, dev) if self.data.choice else None

    def _measure(self, encoder: Encoder) -> dict[str, KeepResult]:
        """Score an encoder on every keep set, and hold what may choose against the base."""
        values, settings = {}, self.settings
        for i, (scores, whole) in enumerate(zip(self.keep, self.data.keep, strict=True)):
            options = {"seed": settings.seed, "cache": self._cache if self._known else None}
            options |= {"bm25": scores.bm25, "weight": self._weight}
            scores.after, scores.cuts = score_sizes(encoder, whole, settings.evaluation, "after", **options)
            if self.data.choice:
                chosen = self._choosing(encoder, scores.after, self.data.choice[i])
                values[whole.name] = paired_values(chosen, self._before[i], [self._metric])
        return keep_results(values, seed=settings.seed)

    def _choosing(
        self, encoder: Encoder, whole: Evaluation, choice: RetrievalSet | None, cache: Path | None = None
    ) -> Evaluation:
        """What of a keep set may choose: the scores on its dev split, or those of the first half of its queries."""
        evaluation, seed = self.settings.evaluation, self.settings.seed
        if choice is not None:
            return score_model(encoder, choice, evaluation, whole.label, seed=seed, cache=cache)
        return of_queries(whole, halves(whole.retrieval_set)[0], samples=evaluation.intervals, seed=seed)

    def _report(self) -> None:
        """Leave of every keep set what no choice has seen."""
        for i, choice in enumerate(self.data.choice):
            if choice is None:
                rest = halves(self.data.keep[i])[1]
                samples, seed = self.settings.evaluation.intervals, self.settings.seed
                self.keep[i] = self.keep[i].of_queries(rest, samples=samples, seed=seed)

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


def _refuting(results: dict[str, KeepResult]) -> list[str]:
    return [name for name, result in results.items() if result.lost]
