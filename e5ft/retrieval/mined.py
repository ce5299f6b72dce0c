"""What mining leaves: rows with their negatives, and the figures and examples by which a person judges them."""

import heapq
import json
from collections.abc import Iterable, Iterator

import numpy as np

from e5ft.data.lines import MAX_LINE_BYTES
from e5ft.data.rows import Row
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.retrieval.candidates import MiningIndex
from e5ft.retrieval.filters import OWN, fates
from e5ft.retrieval.settings import Selection

BINS = 40
EXAMPLES = 10
_EXAMPLE_NEGATIVES = 3
_EXAMPLE_CHARACTERS = 300
_OWN = "own"  # in the place of a source's name


def mined_rows(
    rows: Iterable[Row],
    index: MiningIndex,
    selection: Selection,
    candidates: np.ndarray,
    given: np.ndarray,
    chosen: list[np.ndarray],
) -> Iterator[dict]:
    """The rows as train.py reads them.

    Args:
        rows: those of the index, in the same order; their texts are written as they stand there.
        index, selection: what was mined, and how.
        candidates, given: the lines of all processes.
        chosen: from `select`.

    Yields:
        {"query", "document", "hard_negative", "mining": {"document": [{"score"}], "hard_negative": [{"source", "rank",
        "score"}]}}; and, where a cross-encoder scored them, "scores": one of each document, then one of each negative.
        Hard negatives that the row had and keeps stand first; their source is "own", their rank their place in the row.
    """
    ends = np.searchsorted(given["row"], np.arange(len(chosen)), side="right")
    start, sources = 0, {OWN: _OWN, **dict(enumerate(selection.sources))}
    for row, end, positions in zip(rows, ends.tolist(), chosen, strict=True):
        own = given["finder"][start:end] == OWN
        answers, negatives = given[start:end][~own], np.concatenate([given[start:end][own], candidates[positions]])
        start = end
        made_by = [
            {"source": sources[int(line["finder"])], "rank": int(line["rank"]), "score": number(line["score"])}
            for line in negatives
        ]
        own_texts = {text_id(text): text for text in reversed(row.negatives)} if own.any() else {}
        own_texts = [own_texts[identity] for identity in dict.fromkeys(map(text_id, row.negatives)) if own_texts]
        mined = {
            "query": row.query,
            "document": list(row.positives) if len(row.positives) > 1 else row.positives[0],
            "hard_negative": [*own_texts, *(index.passages[int(passage)] for passage in candidates["passage"][positions])],
            "mining": {"document": [{"score": number(score)} for score in answers["score"]], "hard_negative": made_by},
        }
        scores = np.concatenate([answers["teacher"], negatives["teacher"]])
        if not np.isnan(scores).any():
            mined["scores"] = [number(score) for score in scores]
        yield mined


def mined_lines(rows: Iterable[dict]) -> Iterator[str]:
    """Rows as lines of JSON.

    Raises:
        DataError: one is longer than what is read.
    """
    for number, row in enumerate(rows, start=1):
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        if len(line.encode()) >= MAX_LINE_BYTES:
            raise DataError(
                f"row {number} would be a line of {len(line.encode()):,} bytes, which train.py refuses; lower per_query"
            )
        yield line


def summarise(
    index: MiningIndex, selection: Selection, candidates: np.ndarray, given: np.ndarray, chosen: list[np.ndarray]
) -> dict:
    """Counts and score histograms; see `mined_rows` for the arguments.

    Returns:
        Plain values for JSON, of what was mined; hard negatives that the rows had and keep are counted in "own_negatives".
        `candidates["seen"]` is the sum of all its other entries: none is lost on the way.
    """
    counts = np.array([len(positions) for positions in chosen])
    by_fate = np.bincount(candidates["fate"], minlength=len(fates())).tolist()
    negatives, documents = candidates[np.concatenate(chosen)], given[given["finder"] != OWN]
    by_finder = np.bincount(negatives["finder"], minlength=len(selection.sources)).tolist()
    return {
        "rows": len(chosen),
        "queries": len(index.queries),
        "corpus": index.candidates,
        "rows_by_negatives": {str(number): int(count) for number, count in enumerate(np.bincount(counts)) if count},
        "rows_with_fewer": int((counts < selection.per_query).sum()),
        "rows_with_none": int((counts == 0).sum()),
        "candidates": {"seen": len(candidates), **dict(list(zip(fates(), by_fate, strict=True))[1:])},
        "negatives_by_source": dict(zip(selection.sources, by_finder, strict=True)),
        "own_negatives": len(given) - len(documents),
        "distinct_negatives": len(np.unique(negatives["passage"])),
        "held_out": {"excluded_from_candidates": index.excluded, "documents_of_rows": index.overlap},
        "scores": _histograms(documents["score"], negatives["score"]),
        "teacher_scores": _histograms(documents["teacher"], negatives["teacher"]),
    }


def examples(lines: Iterable[dict], count: int, seed: int) -> list[dict]:
    """Some mined rows to read, long texts cut, chosen by the seed, rows with mined negatives only.

    Args:
        lines: from `mined_rows`; read once.
        count: how many rows these are.
        seed: of the choice.
    """
    order = np.random.default_rng(seed).permutation(count)
    mined = (at for at in enumerate(lines) if any(made["source"] != _OWN for made in at[1]["mining"]["hard_negative"]))
    chosen = heapq.nsmallest(EXAMPLES, mined, key=lambda at: order[at[0]])
    return [_readable(line) for _, line in sorted(chosen, key=lambda at: at[0])]


def _readable(line: dict) -> dict:
    documents = [line["document"]] if isinstance(line["document"], str) else line["document"]
    made_by = zip(line["hard_negative"], line["mining"]["hard_negative"], strict=True)
    negatives = [{**made, "text": ellipsis(text)} for text, made in made_by if made["source"] != _OWN]
    return {
        "query": line["query"],
        "documents": [
            {"score": made["score"], "text": ellipsis(text)}
            for text, made in zip(documents, line["mining"]["document"], strict=True)
        ],
        "hard_negatives": negatives[:_EXAMPLE_NEGATIVES],
    }


def ellipsis(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + "..."


def _histograms(positives: np.ndarray, negatives: np.ndarray) -> dict | None:
    """Both over the same bins, or None where nothing was scored."""
    kinds = {"positives": positives[~np.isnan(positives)], "negatives": negatives[~np.isnan(negatives)]}
    together = np.concatenate(list(kinds.values()))
    if not len(together):
        return None
    edges = np.histogram_bin_edges(together.astype(np.float64), BINS)
    return {
        "edges": [number(edge) for edge in edges],
        **{name: np.histogram(values, edges)[0].tolist() for name, values in kinds.items()},
        "medians": {name: number(np.median(values)) if len(values) else None for name, values in kinds.items()},
    }


def number(value: float) -> float | None:
    """A value for JSON. Six decimals: float32 holds no more of a cosine; null where there is no score."""
    return None if np.isnan(value) else round(float(value), 6)
