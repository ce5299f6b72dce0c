"""What noise in the queries costs: each system on the clean and on the noised queries of a set, paired."""

import dataclasses
from collections.abc import Mapping, Sequence

from e5ft.data.noise import noised
from e5ft.data.text import normalise
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.comparison import paired_differences
from e5ft.retrieval.evaluation import Evaluation
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.tables import aligned, cutoffs_of, difference_text, main_metric


@dataclasses.dataclass(frozen=True, eq=False)
class NoisedSet:
    """A retrieval set with noise in its queries; corpus and judgements are the clean one's.

    Attributes:
        kind: of noise, see `noised`.
        retrieval_set: the set.
        changed: how many of the scored queries, those with a relevant passage, the noise changed.
        example: the first changed query, clean and noised; None: there is none.
    """

    kind: str
    retrieval_set: RetrievalSet
    changed: int
    example: tuple[str, str] | None


def noised_sets(retrieval_set: RetrievalSet, kinds: Sequence[str]) -> dict[str, NoisedSet]:
    """The set under each kind of noise, by kind."""
    clean = [normalise(query) for query in retrieval_set.queries]
    scored = [any(grade > 0 for grade in retrieval_set.qrels[query].values()) for query in retrieval_set.query_ids]
    sets = {}
    for kind in kinds:
        queries = [noised(query, kind) for query in clean]
        changed = [pair for *pair, counts in zip(clean, queries, scored, strict=True) if counts and pair[0] != pair[1]]
        noisy = dataclasses.replace(retrieval_set, queries=StringColumn(queries))
        sets[kind] = NoisedSet(kind, noisy, len(changed), tuple(changed[0]) if changed else None)
    return sets


def noise_record(noisy: NoisedSet, clean: Evaluation, evaluation: Evaluation, metrics: Sequence[str], *, seed: int = 0) -> dict:
    """For metrics.json: the kind of noise, how many queries it changed, the first of them clean and noised, and the paired
    differences to the clean queries.

    Args:
        noisy: the set that was scored.
        clean, evaluation: of one system, on the clean and on the noised queries.
        metrics: those compared.
        seed: of intervals and tests.
    """
    differences = paired_differences(evaluation, clean, metrics, seed=seed)
    return {
        "noise": noisy.kind,
        "changed": noisy.changed,
        "example": noisy.example,
        "differences": {metric: dataclasses.asdict(difference) for metric, difference in differences.items()},
    }


def robustness_table(records: Sequence[tuple[str, Mapping]]) -> str:
    """A line for each system and kind of noise, changed queries and what the main metric loses; below, an example of each kind.

    Args:
        records: the system's name and what `noise_record` says, in the order of the lines; at least one.
    """
    main = main_metric(cutoffs_of(records[0][1]["differences"]))
    cells = [["queries", "model", "changed", f"{main} against clean ones", "p"]]
    for name, record in records:
        found = record["differences"][main]
        change = difference_text(*(found[end] for end in ("mean", "low", "high")))
        cells.append([record["noise"], name, f"{record['changed']:,}", change, f"{found['p_value']:.2g}"])
    # Decomposed Hangul looks as it did before.
    examples = {record["noise"]: record["example"] for _, record in records if record["example"] and record["noise"] != "nfd"}
    asked = [f"{kind}: {clean[:60]!r} became {noisy[:60]!r}" for kind, (clean, noisy) in examples.items()]
    return "\n".join([aligned(cells, text_columns=2), *asked])
