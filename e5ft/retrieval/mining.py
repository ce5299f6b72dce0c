"""Hard negatives for rows: candidates from several sources, filtered, chosen; every candidate's fate is on record."""

from collections.abc import Mapping

import numpy as np

from e5ft import distributed
from e5ft.modeling.cross_encoder import CrossEncoder
from e5ft.retrieval import filters
from e5ft.retrieval.candidates import Finder, Problem, Scorer, generator_of
from e5ft.retrieval.selection import Limits, Selection

# What becomes of a candidate, in the order in which it is decided. The first is nobody's in the end.
FATES = (
    "open", "found_by_another_source", "known_positive", "near_duplicate", "percent", "margin", "max_score", "cross_encoder",
    "max_uses", "not_chosen", "chosen",
)  # fmt: skip
OPEN = 0

# One line per (row, source, candidate), or per (row, document): 24 bytes, so that it travels as three int64.
LINE = np.dtype(
    [
        ("row", np.int32),
        ("rank", np.int32),  # from 1, in the source's own list; of a document: its place in the row
        ("passage", np.int32),
        ("score", np.float32),  # the same scorer's for documents and candidates of whatever source; NaN without one
        ("teacher", np.float32),  # the cross-encoder's; NaN without one, or where an earlier filter had decided
        ("source", np.int16),  # index into the selection's sources; -1: a document
        ("fate", np.int16),  # index into FATES
    ]
)


def find_candidates(
    problem: Problem, finders: Mapping[str, Finder], selection: Selection, scorer: Scorer | None
) -> tuple[np.ndarray, np.ndarray]:
    """Search for this process's share of the queries.

    Args:
        problem: rows and passages.
        finders: one for each of the selection's sources.
        selection: the window; ranks are those of the source's whole list. (Cutting the window out of what the filters
            leave would move it: with the first ten removed, ranks 11 to 20 would be 21 to 30.)
        scorer: gives documents and candidates comparable scores.

    Returns:
        Lines of the candidates and of the documents (`LINE`), ascending by row.
    """
    own = np.flatnonzero(problem.query_of % distributed.world_size() == distributed.rank())
    queries, place = np.unique(problem.query_of[own], return_inverse=True)
    low, high = selection.window
    parts = []
    for source, name in enumerate(selection.sources):
        passages = finders[name](queries, high)[:, low - 1 :][place]  # (distinct queries, depth) -> (rows, window)
        row, rank = np.nonzero(passages >= 0)
        parts.append(_lines(own[row], rank + low, passages[row, rank], source))
    candidates = np.concatenate(parts)
    candidates = candidates[np.lexsort((candidates["rank"], candidates["source"], candidates["row"]))]
    mine = np.isin(problem.positive_row, own)
    starts = np.searchsorted(problem.positive_row, problem.positive_row[mine])
    documents = _lines(problem.positive_row[mine], np.flatnonzero(mine) - starts + 1, problem.positive_passage[mine], -1)
    if scorer is not None:
        for lines in (candidates, documents):
            lines["score"] = _by_pair(problem, lines, scorer)
    return candidates, documents


def apply_filters(
    problem: Problem, candidates: np.ndarray, documents: np.ndarray, limits: Limits, teacher: CrossEncoder | None = None
) -> None:
    """Decide the fate of candidates that must not become negatives; scores of the cross-encoder are filled in.

    Args:
        problem: rows and passages.
        candidates, documents: from `find_candidates`, changed in place.
        limits: the filters.
        teacher: the cross-encoder.
    """
    _remove(candidates, "found_by_another_source", _repeated)
    query_of = problem.query_of
    known = problem.known_query, problem.known_passage
    _remove(candidates, "known_positive", lambda lines: filters.among_pairs(query_of[lines["row"]], lines["passage"], *known))
    if limits.near_duplicate is not None:
        alike = filters.NearDuplicates(problem.passages, **limits.near_duplicate)
        _remove(candidates, "near_duplicate", lambda lines: _by_pair(problem, lines, _near_answers(problem, alike)))
    lowest = _lowest(len(query_of), documents, "score")
    if limits.percent is not None:
        limit = filters.percent_limit(lowest, limits.percent)
        _remove(candidates, "percent", lambda lines: lines["score"] > limit[lines["row"]])
    if limits.margin is not None:
        limit = filters.margin_limit(lowest, limits.margin)
        _remove(candidates, "margin", lambda lines: lines["score"] > limit[lines["row"]])
    if limits.max_score is not None:
        _remove(candidates, "max_score", lambda lines: lines["score"] > limits.max_score)
    if teacher is not None:
        _judge(problem, candidates, documents, limits, teacher)


def gathered(lines: np.ndarray) -> np.ndarray:
    """The lines of all processes, ascending by row as in one process."""
    everyone = distributed.gather_arrays(np.ascontiguousarray(lines).view(np.int64))
    lines = np.concatenate(everyone).view(LINE)
    return lines[np.argsort(lines["row"], kind="stable")]


def select(problem: Problem, candidates: np.ndarray, selection: Selection) -> list[np.ndarray]:
    """Take the negatives of every row from what is left.

    Args:
        problem: rows and passages.
        candidates: the lines of all processes; the last fates are filled in.
        selection: how many, and in which way.

    Returns:
        For every row the places of its negatives in `candidates`, in the order in which they were taken.
    """
    uses = np.zeros(problem.candidates, dtype=np.int64)
    ends = np.searchsorted(candidates["row"], np.arange(len(problem.query_of)), side="right")
    chosen, start = [], 0
    for row, end in enumerate(ends.tolist()):
        places = start + np.flatnonzero(candidates["fate"][start:end] == OPEN)
        if selection.choose == "sample":
            places = generator_of(selection.seed, problem.query_ids[problem.query_of[row]]).permutation(places)
        sources = candidates["source"][places]
        lists = [places[sources == source].tolist() for source in range(len(selection.sources))]
        chosen.append(np.array(_in_turns(lists, candidates, uses, selection), dtype=np.int64))
        start = end
    candidates["fate"][np.concatenate(chosen)] = FATES.index("chosen")
    candidates["fate"][candidates["fate"] == OPEN] = FATES.index("not_chosen")
    return chosen


def _in_turns(lists: list[list[int]], candidates: np.ndarray, uses: np.ndarray, selection: Selection) -> list[int]:
    """The first of every source, the second of every source, ... until there are enough."""
    taken, waiting = [], [iter(places) for places in lists]
    while waiting and len(taken) < selection.per_query:
        source = waiting.pop(0)
        for place in source:
            passage = candidates["passage"][place]
            if selection.max_uses is not None and uses[passage] >= selection.max_uses:
                candidates["fate"][place] = FATES.index("max_uses")
                continue
            uses[passage] += 1
            taken.append(place)
            waiting.append(source)
            break
    return taken


def _judge(problem: Problem, candidates: np.ndarray, documents: np.ndarray, limits: Limits, teacher: CrossEncoder) -> None:
    def score(queries, passages):
        return teacher.score([problem.queries[q] for q in queries], [problem.passages[p] for p in passages])

    left = candidates["fate"] == OPEN
    candidates["teacher"][left] = _by_pair(problem, candidates[left], score)
    documents["teacher"] = _by_pair(problem, documents, score)
    limit = np.full(len(problem.query_of), np.inf)
    if limits.teacher_margin is not None:
        limit = _lowest(len(limit), documents, "teacher") - limits.teacher_margin
    if limits.teacher_max_score is not None:
        limit = np.minimum(limit, limits.teacher_max_score)
    _remove(candidates, "cross_encoder", lambda lines: lines["teacher"] > limit[lines["row"]])


def _near_answers(problem: Problem, alike: filters.NearDuplicates) -> Scorer:
    order = np.argsort(problem.known_query, kind="stable")
    known_query, known_passage = problem.known_query[order], problem.known_passage[order]

    def near(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        def of_one(query: int, places: slice) -> np.ndarray:
            answers = slice(*np.searchsorted(known_query, [query, query + 1]))
            return alike(known_passage[answers], passages[places])

        return filters.apply_to_groups(queries, of_one)

    return near


def _remove(candidates: np.ndarray, fate: str, rule) -> None:
    left = np.flatnonzero(candidates["fate"] == OPEN)
    candidates["fate"][left[rule(candidates[left])]] = FATES.index(fate)


def _repeated(lines: np.ndarray) -> np.ndarray:
    """Which lines (all of them, by row and source) hold a passage that an earlier line of the same row holds."""
    first = np.zeros(len(lines), dtype=bool)
    first[np.unique(_pairs(lines["row"], lines["passage"]), return_index=True)[1]] = True
    return ~first


def _by_pair(problem: Problem, lines: np.ndarray, function: Scorer) -> np.ndarray:
    """A function of (query, passage) for every line, called with each pair once, ascending."""
    pairs, back = np.unique(_pairs(problem.query_of[lines["row"]], lines["passage"]), return_inverse=True)
    return function(pairs >> 32, pairs & 0xFFFF_FFFF)[back]


def _pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left.astype(np.int64) << 32) | right.astype(np.int64)


def _lowest(rows: int, documents: np.ndarray, field: str) -> np.ndarray:
    """(rows,) float64: the lowest score of each row's documents."""
    lowest = np.full(rows, np.inf)
    np.minimum.at(lowest, documents["row"], documents[field])
    return lowest


def _lines(row: np.ndarray, rank: np.ndarray, passage: np.ndarray, source: int) -> np.ndarray:
    lines = np.empty(len(row), dtype=LINE)
    lines["row"], lines["rank"], lines["passage"], lines["source"] = row, rank, passage, source
    lines["score"] = lines["teacher"] = np.nan
    lines["fate"] = OPEN
    return lines
