"""Filters of candidates that must not become hard negatives: passages that answer the query although the row does not say so.

A filter is one entry of `FILTERS`: its name is its setting, its fate in mining.json and its line in the report.

Source: Qu et al. 2021 (RocketQA) for what unfiltered negatives cost; Moreira et al. 2024 (NV-Retriever) for the limits that
depend on the positive's score.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from e5ft.retrieval.candidates import MiningIndex, Scorer
from e5ft.retrieval.near_duplicates import NearDuplicates
from e5ft.retrieval.sets import pair_keys

OPEN = 0  # the fate of a candidate that is not decided yet
OWN = -2  # the finder of a hard negative that its row had before

# One line per (row, finder, candidate), or per (row, text that it brings): 24 bytes, so that it travels as three int64.
LINE = np.dtype(
    [
        ("row", np.int32),
        ("rank", np.int32),  # from 1, in the finder's own list; of a document or an own negative: its place in the row
        ("passage", np.int32),
        ("score", np.float32),  # the same scorer's for documents and candidates of whatever finder; NaN without one
        ("teacher", np.float32),  # the cross-encoder's; NaN without one, or where an earlier filter had decided
        ("finder", np.int16),  # index into the selection's sources; -1: a document; OWN
        ("fate", np.int16),  # index into `fates`
    ]
)


@dataclasses.dataclass(frozen=True)
class Filtering:
    """What a filter may look at beside the candidates.

    Attributes:
        index: rows and passages.
        given: the lines of what the rows bring: documents, and own hard negatives.
        limits: the settings of all filters.
    """

    index: MiningIndex
    given: np.ndarray
    limits: object

    def lowest(self, field: str, lines: np.ndarray) -> np.ndarray:
        """(n,) float64: the lowest score of the documents of each line's row."""
        lowest, documents = np.full(len(self.index.query_of), np.inf), self.given[self.given["finder"] != OWN]
        np.minimum.at(lowest, documents["row"], documents[field])
        return lowest[lines["row"]]


@dataclasses.dataclass(frozen=True)
class Filter:
    """A filter of candidates.

    Attributes:
        name: of its setting (`filters.NAME`) and of the fate.
        reason: says in the report why a candidate was removed.
        rejects: (filtering, lines of the candidates that are left, setting) -> (n,) bool; may fill in fields of the lines.
        needs_scores: whether it compares the scores of a model or of BM25.
        always: whether it has no setting and cannot be switched off.
        evidence: (filtering, a removed line (1,), setting) -> what removed it, name -> value, beside the scores.
        looser: (setting) -> the override that removes less.
    """

    name: str
    reason: str
    rejects: Callable[[Filtering, np.ndarray, object], np.ndarray]
    needs_scores: bool = False
    always: bool = False
    evidence: Callable[[Filtering, np.ndarray, object], dict[str, object]] = lambda filtering, line, setting: {}
    looser: Callable[[object], str] = lambda setting: ""


def apply_filters(index: MiningIndex, candidates: np.ndarray, given: np.ndarray, limits, teacher=None) -> None:
    """Decide the fate of candidates that must not become negatives; scores of the cross-encoder are filled in.

    Args:
        index: rows and passages.
        candidates, given: from `find_candidates`, changed in place.
        limits: the filters' settings, an attribute each; None switches one off.
        teacher: the cross-encoder; None switches its filter off.
    """
    filtering, settings = Filtering(index, given, limits), {**vars(limits), "cross_encoder": teacher}
    names = list(fates())
    for rule in FILTERS:
        setting = settings.get(rule.name)
        if rule.always or setting is not None:
            left = np.flatnonzero(candidates["fate"] == OPEN)
            lines = candidates[left]
            lines["fate"][rule.rejects(filtering, lines, setting)] = names.index(rule.name)
            candidates[left] = lines


def need_scores(limits) -> bool:
    """Whether a filter that is on asks for the scores of a model or of BM25."""
    return any(getattr(limits, rule.name, None) is not None for rule in FILTERS if rule.needs_scores)


def fates() -> dict[str, str]:
    """What may become of a candidate, in the order in which it is decided, and in words; none remains open."""
    last = {"max_uses": "used max_uses times already", "not_chosen": "left over", "chosen": "taken"}
    return {"open": "not decided", **{rule.name: rule.reason for rule in FILTERS}, **last}


def by_pair(index: MiningIndex, lines: np.ndarray, function: Scorer) -> np.ndarray:
    """The values of a function of (query, passage) for every line; it is called with each pair once, ascending."""
    pairs, back = np.unique(pair_keys(index.query_of[lines["row"]], lines["passage"]), return_inverse=True)
    return function(pairs >> 32, pairs & 0xFFFF_FFFF)[back]


def percent_limit(positive: np.ndarray, percent: float) -> np.ndarray:
    """Return the largest score that a negative may have beside a positive's: positive - |positive| * (1 - percent).

    For scores above 0 this is NV-Retriever's TopK-PercPos, positive * percent. Below 0 the product would lie above the
    positive's own score and let everything pass; the limit here lies below it on both sides of 0.

    Source: Moreira et al. 2024 (NV-Retriever), section 4.1, TopK-PercPos.
    """
    return positive - np.abs(positive) * (1 - percent)


def _repeated(filtering: Filtering, lines: np.ndarray, setting: object) -> np.ndarray:
    """Whether an earlier line of the same row holds the passage already."""
    repeated = np.ones(len(lines), dtype=bool)
    repeated[np.unique(pair_keys(lines["row"], lines["passage"]), return_index=True)[1]] = False
    return repeated


def _known(filtering: Filtering, lines: np.ndarray, setting: object) -> np.ndarray:
    index = filtering.index
    pairs = pair_keys(index.query_of[lines["row"]], lines["passage"])
    return np.isin(pairs, pair_keys(index.known_query, index.known_passage))


def _own(filtering: Filtering, lines: np.ndarray, setting: object) -> np.ndarray:
    own = filtering.given[filtering.given["finder"] == OWN]
    return np.isin(pair_keys(lines["row"], lines["passage"]), pair_keys(own["row"], own["passage"]))


def _near_duplicate(filtering: Filtering, lines: np.ndarray, setting: object) -> np.ndarray:
    index, alike = filtering.index, NearDuplicates(filtering.index.passages, **dataclasses.asdict(setting))

    def near(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """Whether each passage is nearly the same as an answer of its query; pairs by ascending query."""
        result, starts = np.zeros(len(queries), dtype=bool), np.unique(queries, return_index=True)[1].tolist()
        for start, end in zip(starts, [*starts, len(queries)][1:], strict=True):  # the pairs of one query
            first, last = np.searchsorted(index.known_query, [queries[start], queries[start] + 1])
            result[start:end] = alike(index.known_passage[first:last], passages[start:end])
        return result

    return by_pair(index, lines, near)


def _overlap(filtering: Filtering, line: np.ndarray, setting: object) -> dict[str, object]:
    """The share of n-grams in common with the known answer that shares most, and that answer."""
    index, alike = filtering.index, NearDuplicates(filtering.index.passages, **dataclasses.asdict(setting))
    query = index.query_of[line["row"][0]]
    answers = index.known_passage[slice(*np.searchsorted(index.known_query, [query, query + 1]))]
    overlaps = [float(alike.overlaps(int(answer), line["passage"])[0]) for answer in answers]
    return {"overlap": round(max(overlaps), 6), "with": index.passages[int(answers[np.argmax(overlaps)])]}


def _cross_encoder(filtering: Filtering, lines: np.ndarray, teacher) -> np.ndarray:
    index = filtering.index

    def score(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """The cross-encoder's score of each pair."""
        return teacher.score([index.queries[q] for q in queries], [index.passages[p] for p in passages])

    for scored in (lines, filtering.given):
        scored["teacher"] = by_pair(index, scored, score)
    return lines["teacher"] > _teacher_limit(filtering, lines)


def _teacher_limit(filtering: Filtering, lines: np.ndarray) -> np.ndarray:
    limits = filtering.limits
    limit = np.full(len(lines), np.inf if limits.teacher_max_score is None else limits.teacher_max_score)
    if limits.teacher_margin is not None:
        limit = np.minimum(limit, filtering.lowest("teacher", lines) - limits.teacher_margin)
    return limit


def _by_score(name: str, reason: str, limit: Callable[[Filtering, np.ndarray, float], np.ndarray], looser) -> Filter:
    """A filter of candidates that score above a limit, (filtering, lines, setting) -> (n,)."""
    return Filter(
        name,
        reason,
        lambda filtering, lines, setting: lines["score"] > limit(filtering, lines, setting),
        needs_scores=True,
        evidence=lambda filtering, line, setting: {"limit": round(float(limit(filtering, line, setting)[0]), 6)},
        looser=looser,
    )


# In the order in which they decide. Source of the limits: Moreira et al. 2024 (NV-Retriever), section 4.1: TopK-PercPos,
# TopK-MarginPos, TopK-Abs.
FILTERS = (
    Filter("found_by_another_source", "found by another source already", _repeated, always=True),
    Filter("known_positive", "a known answer of the query", _known, always=True),
    Filter("own_negative", "a hard negative that the row had", _own, always=True),
    Filter(
        "near_duplicate",
        "nearly the same as a known answer",
        _near_duplicate,
        evidence=_overlap,
        looser=lambda setting: f"filters.near_duplicate.threshold={(1 + setting.threshold) / 2:.3g}",
    ),
    _by_score(
        "percent",
        "scored too close to the answer (filters.percent)",
        lambda filtering, lines, percent: percent_limit(filtering.lowest("score", lines), percent),
        lambda percent: f"filters.percent={'null' if percent == 1 else f'{(1 + percent) / 2:.3g}'}",
    ),
    _by_score(
        "margin",
        "scored too close to the answer (filters.margin)",
        lambda filtering, lines, margin: filtering.lowest("score", lines) - margin,
        lambda margin: f"filters.margin={margin / 2:.3g}" if margin else "filters.margin=null",
    ),
    _by_score(
        "max_score",
        "scored too high (filters.max_score)",
        lambda filtering, lines, largest: np.full(len(lines), largest),
        lambda largest: "filters.max_score=null",
    ),
    Filter(
        "cross_encoder",
        "judged an answer by the cross-encoder",
        _cross_encoder,
        evidence=lambda filtering, line, setting: {"limit": round(float(_teacher_limit(filtering, line)[0]), 6)},
        looser=lambda setting: "cross_encoder.margin=null cross_encoder.max_score=null",
    ),
)
