"""What mining left out: examples of what each filter removed, the rows that got nothing, and filters that removed too much."""

from collections.abc import Callable

import numpy as np

from e5ft.retrieval.candidates import MiningIndex
from e5ft.retrieval.filters import FILTERS, OWN, Filtering, fates
from e5ft.retrieval.mined import EXAMPLES, ellipsis, number
from e5ft.retrieval.settings import Limits, Selection

LARGEST_SHARE = 0.15  # of the candidates, above which what a filter removed is questioned


def removed(
    index: MiningIndex, selection: Selection, limits: Limits, candidates: np.ndarray, given: np.ndarray
) -> dict[str, list[dict]]:
    """Examples of what each filter removed, at most `EXAMPLES` each, chosen by the seed.

    Args:
        index, selection, limits: what was mined, how, and the filters' settings.
        candidates, given: the lines of all processes, their fates decided.

    Returns:
        Name of each filter that removed something -> [{"query", "documents": [{"score", "text"}], "passage", "source", "rank",
        "score", ...}] in the order of the rows; long texts are cut. Beside the score stand the cross-encoder's, where there is
        one, and what the filter compared: "overlap" and "with", the answer it overlaps with, or "limit".
    """
    filtering, generator, found = Filtering(index, given, limits), np.random.default_rng(selection.seed), {}
    names = list(fates())
    for rule in FILTERS[1:]:  # the first one removes what stays, as another source's
        places = np.flatnonzero(candidates["fate"] == names.index(rule.name))
        if len(places):
            chosen = np.sort(generator.permutation(places)[:EXAMPLES])
            shown = (_shown(filtering, selection, candidates[at : at + 1]) for at in chosen)
            setting = getattr(limits, rule.name, None)
            evidence = (rule.evidence(filtering, candidates[at : at + 1], setting) for at in chosen)
            found[rule.name] = [
                {**example, **{name: ellipsis(value) if isinstance(value, str) else value for name, value in more.items()}}
                for example, more in zip(shown, evidence, strict=True)
            ]
    return found


def _shown(filtering: Filtering, selection: Selection, line: np.ndarray) -> dict:
    index, row = filtering.index, line["row"][0]
    given = filtering.given[slice(*np.searchsorted(filtering.given["row"], [row, row + 1]))]
    documents = given[given["finder"] != OWN]
    example = {
        "query": index.queries[int(index.query_of[row])],
        "documents": [_scored(index, document) for document in documents],
        "passage": ellipsis(index.passages[int(line["passage"][0])]),
        "source": selection.sources[line["finder"][0]],
        "rank": int(line["rank"][0]),
        "score": number(line["score"][0]),
    }
    teacher = number(line["teacher"][0])
    return example if teacher is None else {**example, "teacher_score": teacher}


def _scored(index: MiningIndex, document: np.void) -> dict:
    teacher = number(document["teacher"])
    scores = {"score": number(document["score"])} | ({} if teacher is None else {"teacher_score": teacher})
    return {**scores, "text": ellipsis(index.passages[int(document["passage"])])}


def rows_without(
    index: MiningIndex, candidates: np.ndarray, chosen: list[np.ndarray], place: Callable[[int], str | None]
) -> dict:
    """Rows for which nothing was mined, and why.

    Args:
        index, candidates, chosen: as above, from `select`.
        place: (row) -> where it is in the user's file; None where it is in none.

    Returns:
        {"reasons": {reason: rows}, "first": [{"place", "query", "reason", "candidates": {fate: count}}]}: of each row the filter
        that removed most of its candidates (known answers aside, unless there are no others), or "nothing_found".
    """
    names, reasons, first = list(fates()), {}, []
    rows = np.flatnonzero([len(positions) == 0 for positions in chosen])
    starts, ends = (np.searchsorted(candidates["row"], rows, side=side) for side in ("left", "right"))
    known = names.index("known_positive")
    for row, start, end in zip(rows.tolist(), starts, ends, strict=True):
        counts = np.bincount(candidates["fate"][start:end], minlength=len(names))
        others = np.where(np.arange(len(names)) == known, 0, counts)
        most = int(np.argmax(others)) if others.any() else known
        reason = names[most] if counts.any() else "nothing_found"
        reasons[reason] = reasons.get(reason, 0) + 1
        if len(first) < EXAMPLES:
            by_fate = {name: int(count) for name, count in zip(names, counts, strict=True) if count}
            query = index.queries[int(index.query_of[row])]
            first.append({"place": place(row), "query": query, "reason": reason, "candidates": by_fate})
    return {"reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])), "first": first}


def questioned(counts: dict[str, int], limits: Limits) -> list[dict]:
    """Filters that removed more than `LARGEST_SHARE` of the candidates.

    Args:
        counts: of the summary, "seen" and each fate.
        limits: the filters' settings.

    Returns:
        [{"filter", "share", "looser": the override that removes less}], in the filters' order.
    """
    shares = {rule: counts[rule.name] / max(counts["seen"], 1) for rule in FILTERS if not rule.always}
    return [
        {"filter": rule.name, "share": round(share, 4), "looser": rule.looser(getattr(limits, rule.name, None))}
        for rule, share in shares.items()
        if share > LARGEST_SHARE
    ]
