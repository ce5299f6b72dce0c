"""per_query.jsonl: what an evaluation says of each query, with the texts, so that a person can read what was found and what not."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from e5ft.retrieval.runs import Run
from e5ft.retrieval.sets import RetrievalSet

SHOWN = 5  # passages found first that a line holds
# JSON may hold these as they are, but str.splitlines ends a line at each.
_LINE_ENDS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})


def line_of(query: dict) -> str:
    """What `queries` yields as a line of the file."""
    return json.dumps(query, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)


def queries(
    retrieval_set: RetrievalSet, run: Run, scored: np.ndarray, metrics: Sequence[str], values: np.ndarray
) -> Iterator[dict]:
    """Yield for each scored query {"query", a key a metric, "text", "answers", "top"}.

    "answers" are the relevant passages, the best graded first: {"id", "grade", "rank" (from 1), "score", "text"}. Rank and score
    are None where the run does not hold the passage, and so is the text where the corpus lacks it. "top" are the first `SHOWN`
    passages of the run: {"id", "score", "text"}. Texts are whole.

    Args:
        retrieval_set: the set.
        run: of the set; only what it holds counts as found.
        scored: (n,) indices of queries in the set.
        metrics: (M) names.
        values: (n, M) what each of these queries has of each metric.
    """
    ids, texts = (list(column.take(scored)) for column in (retrieval_set.query_ids, retrieval_set.queries))
    judged = [{p: grade for p, grade in retrieval_set.qrels[query].items() if grade > 0} for query in ids]
    positions = retrieval_set.passage_ids.positions_of(passage for relevant in judged for passage in relevant)
    for query, text, relevant, figures, row in zip(ids, texts, judged, values.tolist(), scored, strict=True):
        listed = run[1][row] >= 0
        found, scores = run[1][row][listed].tolist(), run[0][row][listed].tolist()
        ranks = {position: rank for rank, position in enumerate(found, start=1)}
        answers = []
        for passage, grade in sorted(relevant.items(), key=lambda item: (-item[1], item[0])):
            position = positions.get(passage)
            rank = ranks.get(position)
            answers.append({
                "id": passage, "grade": grade, "rank": rank, "score": None if rank is None else scores[rank - 1],
                "text": None if position is None else retrieval_set.passages[position],
            })  # fmt: skip
        first = [retrieval_set.passage_ids.take(found[:SHOWN]), scores[:SHOWN], retrieval_set.passages.take(found[:SHOWN])]
        top = [dict(zip(("id", "score", "text"), each, strict=True)) for each in zip(*first, strict=True)]
        yield {"query": query, **dict(zip(metrics, figures, strict=True)), "text": text, "answers": answers, "top": top}
