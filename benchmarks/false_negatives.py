"""Measure how many false negatives each filter catches, by kind, and how many unjudged passages it throws away.

    python -m benchmarks.false_negatives --rows train.jsonl --model outputs/base/model --queries 400 --limit-rows 6000 --output outputs/false_negatives

False negatives are withheld (a query's other documents), twins (documents of nearly the same question) and planted rewritings.
What stands outside a ranking's top 50 could not be mined and is counted apart. Thresholds are chosen on half of the queries and
measured on the others. Writes report.md, report.json and thrown_away.txt (100 unjudged passages, to be read by eye).
"""

import argparse
import random
import sys
from pathlib import Path

import numpy as np

from benchmarks.candidates import KINDS, Pairs, Sample, make_pairs, make_sample
from benchmarks.operating_points import Point, cheapest, cheapest_pair, measure, thrown
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.errors import E5ftError
from e5ft.files import write_json, write_text
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.filters import NearDuplicates

SHARE, COST = 0.8, 0.1  # the goal: of each kind, at a cost of
FEWEST = 20  # false negatives of a kind below which no threshold is set by it
READ = 100
SWEEP = {
    "containment3": (0.3, 0.5, 0.6, 0.7, 0.8),
    "jaccard3": (0.3, 0.4, 0.5),
    "containment5": (0.3, 0.5, 0.7),
    "jaccard5": (0.2, 0.3, 0.45),
    "passage cosine": (0.8, 0.9, 0.95),
    "bm25 passage": (0.2, 0.3, 0.5),
    "bm25 percent": (0.7, 0.9, 1.0),
    "percent": (0.90, 0.95, 0.98),
    "margin": (-0.05, 0.0, 0.1),  # 0.1: the loss's mask, s(q, c) > s(q, p) + 0.1
    "guide passage cosine": (0.8, 0.9, 0.95),
    "guide percent": (0.90, 0.95, 0.98),
    "guide margin": (-0.05, 0.0, 0.1),
}


def main() -> int:
    """Run from the command line."""
    arguments = _parser().parse_args()
    output = Path(arguments.output)
    try:
        rows = load_rows(arguments.rows, Columns(), output / "cache")
        sample = make_sample(rows, arguments.queries, arguments.limit_rows, arguments.seed)
        model = load_encoder(ModelSource(path=arguments.model))
        guide = load_encoder(ModelSource(path=arguments.guide)) if arguments.guide else None
        pairs = make_pairs(sample, model, guide, cache=output / "cache")
    except E5ftError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    results, text = _report(sample, pairs, arguments)
    write_json(output / "report.json", {"arguments": vars(arguments), **results})
    write_text(output / "report.md", text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="rows of query and document")
    parser.add_argument("--model", required=True, help="folder of the model that ranks and scores")
    parser.add_argument("--guide", help="folder of a second model, for the guide's filters")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--limit-rows", type=int, help="size of the corpus, in rows")
    parser.add_argument("--source", choices=("dense", "bm25", "either"), default="either", help="whose top 50 is filtered")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", required=True, help="folder of the report")
    return parser


def _report(sample: Sample, pairs: Pairs, arguments: argparse.Namespace) -> tuple[dict, str]:
    stands = {"dense": pairs.dense, "bm25": pairs.bm25, "either": pairs.dense | pairs.bm25}[arguments.source]
    values = {name: found[stands] for name, found in pairs.values.items()}
    kinds, query = pairs.kind[stands], pairs.query[stands]
    tuning = query % 2 == 0
    swept = [measure(values, kinds, (name,), (limit,)) for name, limits in SWEEP.items() if name in values for limit in limits]
    wanted = [i for i, _ in enumerate(KINDS) if min(np.sum(kinds[tuning] == i), np.sum(kinds[~tuning] == i)) >= FEWEST / 2]
    planted = [i for i in wanted if KINDS[i] not in ("withheld", "twin")]
    points = {}
    for name, goal in (("planted kinds", planted), ("all kinds", wanted)):
        if goal:
            points[name] = _operating_points(values, kinds, tuning, goal)
    kinds_table = [_kind_row(sample, pairs, stands, i) for i in range(len(KINDS))]
    lines = [
        _heading(sample, pairs, stands, arguments),
        _table(["kind", "n", "trigram Jaccard", "dense top 50", "bm25 top 50", "n measured"], kinds_table),
    ]
    header = ["filter", *(f"{KINDS[i]}" for i in _present(kinds)), "cost"]
    lines += ["Caught share by kind, over all queries:", _table(header, [_row(point, kinds) for point in swept])]
    for name, found in points.items():
        lines.append(
            f"Cheapest settings that catch {SHARE:.0%} of each of the {name}, chosen on one half, measured on the other:"
        )
        lines.append(_table(header, [_row(point, kinds) for point in found]))
    if points:
        widest = list(points.values())[-1]
        write_text(Path(arguments.output) / "thrown_away.txt", _thrown_away(sample, pairs, stands, widest, arguments.seed))
    results = {
        "kinds": kinds_table,
        "sweep": [_plain(point) for point in swept],
        "operating_points": {name: [_plain(point) for point in found] for name, found in points.items()},
    }
    return results, "\n\n".join(lines) + "\n"


def _operating_points(values, kinds, tuning, goal: list[int]) -> list[Point]:
    """Each filter alone, and the best pair, set on the tuning half, measured on the other; cheapest first."""
    ours = {name: found[tuning] for name, found in values.items()}
    found = [cheapest(ours, kinds[tuning], name, goal, SHARE) for name in values]
    found.append(cheapest_pair(ours, kinds[tuning], goal, SHARE))
    theirs = {name: found[~tuning] for name, found in values.items()}
    measured = [measure(theirs, kinds[~tuning], point.names, point.thresholds, point.how) for point in found]
    return sorted(measured, key=lambda point: point.cost)


def _heading(sample: Sample, pairs: Pairs, stands: np.ndarray, arguments: argparse.Namespace) -> str:
    unjudged = int(np.sum(stands & (pairs.kind < 0)))
    return (
        f"# False negatives\n\n{len(sample.queries):,} queries, {sample.corpus:,} passages, {len(sample.texts) - sample.corpus:,} planted; "
        f"{unjudged:,} unjudged candidates (source: {arguments.source}); model {arguments.model}, seed {arguments.seed}"
    )


def _kind_row(sample: Sample, pairs: Pairs, stands: np.ndarray, kind: int) -> list:
    of_kind = pairs.kind == kind
    if not of_kind.any():
        return [KINDS[kind], 0, "", "", "", 0]
    texts = NearDuplicates(sample.texts, ngram=3, threshold=0.5, measure="jaccard")
    places = zip(sample.positives[pairs.query[of_kind]], pairs.passage[of_kind], strict=True)
    overlap = np.mean([texts.overlaps(int(p), np.array([c]))[0] for p, c in places])
    retrieved = [f"{found[of_kind].mean():.2f}" for found in (pairs.dense, pairs.bm25)]
    return [KINDS[kind], int(of_kind.sum()), f"{overlap:.2f}", *retrieved, int((of_kind & stands).sum())]


def _present(kinds: np.ndarray) -> list[int]:
    return [int(kind) for kind in np.unique(kinds[kinds >= 0])]


def _row(point: Point, kinds: np.ndarray) -> list[str]:
    return [str(point), *(f"{point.caught.get(kind, float('nan')):.2f}" for kind in _present(kinds)), f"{point.cost:.3f}"]


def _table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _plain(point: Point) -> dict:
    return {
        "filter": str(point), "names": point.names, "thresholds": point.thresholds, "how": point.how,
        "caught": {KINDS[kind]: share for kind, share in point.caught.items()}, "cost": point.cost,
        "reaches_the_goal": min(point.caught.values()) >= SHARE and point.cost <= COST,
    }  # fmt: skip


def _thrown_away(sample: Sample, pairs: Pairs, stands: np.ndarray, points: list[Point], seed: int) -> str:
    """Unjudged passages that each filter throws away, as many of each, with everything that was known of them."""
    generator, blocks, shown = random.Random(seed), [], set()
    for number, point in enumerate(points):
        away = stands & (pairs.kind < 0) & thrown(pairs.values, point.names, point.thresholds, point.how)
        places = [i for i in np.flatnonzero(away).tolist() if i not in shown]
        chosen = generator.sample(places, min((READ - len(shown)) // (len(points) - number), len(places)))
        shown.update(chosen)
        blocks.append(f"## {point}: throws {away.sum():,} unjudged candidates away; {len(chosen)} of them")
        for i in chosen:
            query, passage = pairs.query[i], pairs.passage[i]
            scores = ", ".join(f"{name} {found[i]:.3f}" for name, found in pairs.values.items())
            texts = (sample.queries[query], sample.texts[sample.positives[query]], sample.texts[passage])
            blocks.append(f"query: {texts[0]}\n  positive: {texts[1]}\n  candidate: {texts[2]}\n  {scores}")
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
