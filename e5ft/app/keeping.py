"""What training cost elsewhere: the keep sets' figures, and gain and loss in one table."""

import dataclasses

from e5ft.app.scoring import headline, main_metric
from e5ft.retrieval.evaluation import Evaluation, paired_difference
from e5ft.retrieval.table import aligned, short_number


@dataclasses.dataclass
class Scores:
    """One set's evaluations; bm25 and after may be missing. `cuts` are those of vectors cut to fewer dimensions."""

    before: Evaluation
    bm25: Evaluation | None
    after: Evaluation | None = None
    cuts: dict[int, Evaluation] = dataclasses.field(default_factory=dict)

    def named(self) -> dict[str, Evaluation]:
        """Those there are, in the order of the tables."""
        cuts = {f"after_{dimension}d": cut for dimension, cut in self.cuts.items()}
        found = {"before": self.before, "bm25": self.bm25, "after": self.after, **cuts}
        return {name: evaluation for name, evaluation in found.items() if evaluation is not None}

    @property
    def files(self) -> dict[str, Evaluation]:
        """What is there, by the name of its folder below eval/<set>/."""
        return {{"before": "base", "after": "final"}.get(name, name): evaluation for name, evaluation in self.named().items()}

    def record(self) -> dict:
        """Labels, metrics and intervals, as the summary holds them."""
        return {name: {"label": e.label, "metrics": e.metrics, "intervals": e.intervals} for name, e in self.named().items()}

    def differences(self, seed: int) -> dict:
        """Metric -> after against before, paired over queries."""
        return {
            name: dataclasses.asdict(paired_difference(self.after, self.before, name, seed=seed)) for name in self.after.metrics
        }


def keep_record(scores: Scores, seed: int) -> dict:
    """A keep set's entry in the summary."""
    return {
        "set": scores.after.set_name,
        "queries": len(scores.after.per_query),
        "passages": scores.after.passages,
        "scores": scores.record(),
        "differences": scores.differences(seed),
    }


def verdict(difference: dict) -> str:
    """gained or lost where the difference's interval excludes 0; kept where no change was shown."""
    return "gained" if difference["low"] > 0 else "lost" if difference["high"] < 0 else "kept"


def gain_and_loss(summary: dict) -> str:
    """The target and the keep sets together: a line a set, the main metric before and after, and what became of it."""
    main, rows = gain_and_loss_rows(summary)
    table = aligned([["set", "", f"{main} before", "after", "difference", ""], *rows], text_columns=2)
    return f"{table}\nkept: no change shown, the paired 95 % interval of the difference includes 0"


def gain_and_loss_rows(summary: dict) -> tuple[str, list[list[str]]]:
    """The main metric, and a row a set, the target first: name, kind, before, after, difference, verdict."""
    metrics = summary["scores"]["after"]["metrics"]
    main = main_metric(headline(sorted({int(name.rpartition("@")[2]) for name in metrics})))
    rows = [_row(summary["test_set"], "target", summary, main)]
    return main, rows + [_row(entry["set"], "keep", entry, main) for entry in summary["keep"]]


def _row(name: str, kind: str, entry: dict, main: str) -> list[str]:
    difference = entry["differences"][main]
    before, after = (short_number(entry["scores"][when]["metrics"][main]) for when in ("before", "after"))
    change = f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return [name, kind, before, after, change, verdict(difference)]
