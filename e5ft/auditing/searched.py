"""What searching the rows' documents with their own queries tells: by BM25, and by a model where one is named.

Queries that BM25 answers at rank 1 teach little. Queries that find other documents and hardly their own may have a wrong one: words
alone cannot tell that from a question in other words, a model can; and by its scores other rows' documents may answer, too.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from e5ft.auditing.rows import DOCUMENT, NEGATIVE, QUERY, AuditedRows, Finding, field_name
from e5ft.data.store import seeded_choice
from e5ft.retrieval.bm25 import BM25, best
from e5ft.retrieval.columns import StringColumn

if TYPE_CHECKING:
    from e5ft.modeling.encoder import Encoder

QUERIES = 2_000  # seeded, unless asked otherwise
DEPTH = 100  # ranks looked at
CANDIDATES = 10  # of BM25's first documents that a model reads beside the row's own
HARDLY = 0.3  # of the first document's BM25 score: an answer below it needs a model
# Of cosine, by which a hard negative, or another row's document, must be above the answer to be told.
NEGATIVE_MARGIN, MARGIN = 0.01, 0.02
# With a model: the mean of BM25's share and of the model's, from all documents' mean (0) to the best other (1), below which an
# answer is doubted.
UNLIKE = 0.35


@dataclasses.dataclass
class Searched:
    """What was found.

    Attributes:
        queries: looked at.
        total: distinct queries.
        first, found: of them those whose answer BM25 has at rank 1, and among the first 100.
        documents: searched.
        model: the model's name; None without one.
        model_first: as `first`, by the model, among the documents it read.
        faults: what is doubtful.
    """

    queries: int
    total: int
    first: int
    found: int
    documents: int
    model: str | None = None
    model_first: int | None = None
    faults: list[Finding] = dataclasses.field(default_factory=list)


def search(
    rows: AuditedRows, *, seed: int = 0, queries: int | None = QUERIES, encoder: "Encoder | None" = None, label: str = ""
) -> Searched:
    """Search the documents of all rows with the queries of some.

    Args:
        rows: what is audited.
        seed: chooses the queries.
        queries: at most so many, each once; None: all.
        encoder: the model that reads the queries, their documents and hard negatives, and BM25's first ten.
        label: the model's name.
    """
    asked = rows.same[rows.uses[QUERY].numbers]
    distinct, first_row = np.unique(asked, return_index=True)
    chosen = seeded_choice(len(distinct), queries, seed)
    documents = rows.distinct(DOCUMENT)
    position = np.full(len(rows.texts), -1)
    position[documents] = np.arange(len(documents))
    known_query, known_passage = rows.answers()
    index = BM25(StringColumn(rows.texts[number] for number in documents))
    result = Searched(len(chosen), len(distinct), 0, 0, len(documents))
    asked_of, answers, candidates, shares = [], [], [], []
    for number, scores in zip(distinct[chosen].tolist(), index.scores(rows.texts[n] for n in distinct[chosen]), strict=True):
        own = position[known_passage[slice(*np.searchsorted(known_query, [number, number + 1]))]]
        top, most = float(scores.max()), float(scores[own].max())
        rank = 1 + int((scores > most).sum())
        result.first += rank == 1 and most > 0
        result.found += rank <= DEPTH and most > 0
        asked_of.append(number)
        answers.append(own)
        ranked = best(scores, CANDIDATES)[1]
        candidates.append(ranked[~np.isin(ranked, [*own.tolist(), -1])])
        shares.append(most / top if top > 0 else 1.0)
    own_row = dict(zip(distinct.tolist(), first_row.tolist(), strict=True))
    if encoder is None:
        for at, share in enumerate(shares):
            if share < HARDLY:
                row = own_row[asked_of[at]]
                other = rows.texts[int(documents[candidates[at][0]])] if len(candidates[at]) else ""
                document = int(rows.of_row(DOCUMENT, row)[0])
                result.faults.append(Finding("hardly_found", row, DOCUMENT, document, f"BM25 {share:.2f}: {other}", 1 - share))
        return result
    result.model = label
    read = _Read(rows, encoder, asked_of, documents, answers, candidates, own_row, shares)
    result.model_first = read.first
    result.faults = list(read.faults())
    return result


class _Read:
    """The same by a model: cosines of the queries with all documents and hard negatives that it read."""

    def __init__(self, rows: AuditedRows, encoder: "Encoder", asked, documents, answers, candidates, own_row, shares):
        self._rows, self._asked, self._own_row, self._shares = rows, asked, own_row, shares
        wanted = [documents[np.concatenate([own, other])] for own, other in zip(answers, candidates, strict=True)]
        self._negatives = [rows.same[rows.of_row(NEGATIVE, own_row[number])] for number in asked]
        self._passages = np.unique(np.concatenate([*wanted, *self._negatives]))
        position = {number: at for at, number in enumerate(self._passages.tolist())}
        self._answers = [[position[n] for n in documents[own].tolist()] for own in answers]
        self._is_document = np.isin(self._passages, documents)
        queries = encoder.encode([rows.texts[number] for number in asked], "query")
        passages = encoder.encode([rows.texts[number] for number in self._passages], "passage")
        self._scores = queries @ passages.T
        self.first = sum(int(scores[own].max() >= scores.max()) for scores, own in zip(self._scores, self._answers, strict=True))

    def faults(self) -> Iterator[Finding]:
        """Yield what the scores make doubtful."""
        texts = self._rows.texts
        for at, (scores, own) in enumerate(zip(self._scores, self._answers, strict=True)):
            row, mine = self._own_row[self._asked[at]], float(scores[own].max())
            others = scores.copy()
            others[own] = -np.inf
            most, mean = float(others.max()), float(np.delete(scores, own).mean()) if len(scores) > len(own) else mine
            document = int(self._rows.of_row(DOCUMENT, row)[0])
            share = (mine - mean) / max(most - mean, 1e-6)
            if (min(share, 1.5) + self._shares[at]) / 2 < UNLIKE:
                first = texts[int(self._passages[int(others.argmax())])]
                yield Finding("label_error", row, DOCUMENT, document, f"{mine:.3f} < {most:.3f}: {first}", most - mine)
                continue
            above = others > mine + MARGIN
            negatives = self._rows.of_row(NEGATIVE, row)
            for place, number in enumerate(self._rows.same[negatives].tolist()):
                score = float(others[np.searchsorted(self._passages, number)])
                if score > mine + NEGATIVE_MARGIN:
                    told = f"{score:.3f} > {mine:.3f}: {texts[document]}"
                    yield Finding("negative_answers", row, field_name(NEGATIVE, place), int(negatives[place]), told, score - mine)
                above[np.searchsorted(self._passages, number)] = False
            above &= self._is_document
            if above.any():
                place = int(np.where(above, others, -np.inf).argmax())
                told = f"{others[place]:.3f} > {mine:.3f}: {texts[int(self._passages[place])]}"
                yield Finding("false_negative", row, DOCUMENT, document, told, float(others[place]) - mine)
