"""One query against several systems side by side: what each ranks, with the query's words and the judged answers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from e5ft.data.text import normalise
from e5ft.modeling.encoder import BATCH_TOKENS, Encoder
from e5ft.retrieval.bm25 import BM25, DEFAULT_TOKENISATION, matches
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.hybrid import CANDIDATES, hybrid_runs
from e5ft.retrieval.runs import Run, dense_run, ranked
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.shards import Shards
from e5ft.retrieval.vectors import encode_collection

BASE, MODEL, BM25_ALONE, HYBRID = "base", "model", "bm25", "hybrid"
DEPTH = CANDIDATES  # ranks down to which an answer is looked for
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Hit:
    """A passage that a system found.

    Attributes:
        rank: from 1.
        passage_id: as in the corpus.
        pieces: the normalised text, cut where words of the query begin and end, and whether a piece is one.
        score: the system's own: cosine, BM25's, or the weighted sum of both standardised.
        relevance: as judged; 0 where it is not judged relevant.
    """

    rank: int
    passage_id: str
    pieces: tuple[tuple[str, bool], ...]
    score: float
    relevance: int


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What one system found.

    Attributes:
        system: BASE, MODEL, BM25_ALONE or HYBRID.
        hits: the first of them, best first; fewer, even none, where BM25 finds no more.
        answer_rank: of the first judged answer, from 1; None where none is among the first `DEPTH`, or none is judged.
    """

    system: str
    hits: tuple[Hit, ...]
    answer_rank: int | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What all systems found for a query.

    Attributes:
        query: normalised.
        query_id: of a judged query; None: nobody judged it.
        answers: passages that are judged relevant.
        rankings: of the systems, in their order.
    """

    query: str
    query_id: str | None
    answers: int
    rankings: tuple[Ranking, ...]


class SideBySide:
    """A corpus that is searched by a model, by the model before training, by BM25 and by a hybrid, as far as they are given.

    Args:
        retrieval_set: the corpus; its queries, if any, are the judged ones.
        models: BASE and MODEL -> encoder, in the order of the columns; MODEL must be there.
        bm25: how BM25 cuts texts; None: neither BM25 nor a hybrid.
        weight: the model's share in the hybrid, 0 to 1; None: no hybrid.
        batch_tokens: tokens that are encoded at once.
        cache: where the passages' vectors are kept; None: in memory.

    Attributes:
        systems: the names of what is searched by, in the order of the columns.
        weight: of the hybrid; None where there is none.
    """

    def __init__(
        self,
        retrieval_set: RetrievalSet,
        models: Mapping[str, Encoder],
        *,
        bm25: str | None = DEFAULT_TOKENISATION,
        weight: float | None = None,
        batch_tokens: int = BATCH_TOKENS,
        cache: Path | None = None,
    ):
        self.retrieval_set, self.models, self.weight = retrieval_set, dict(models), None if bm25 is None else weight
        self._tokenisation = bm25 or DEFAULT_TOKENISATION
        self._bm25 = None if bm25 is None else BM25(retrieval_set.passages, tokenisation=bm25)
        self._vectors: dict[str, np.ndarray | Shards] = {
            name: encode_collection(encoder, retrieval_set.passages, "passage", batch_tokens=batch_tokens, cache=cache)
            for name, encoder in self.models.items()
        }
        lexical = () if bm25 is None else (BM25_ALONE,) if weight is None else (BM25_ALONE, HYBRID)
        self.systems = (*self.models, *lexical)
        self._known: dict[str, int] = {}
        for number, query in enumerate(retrieval_set.queries):
            self._known.setdefault(normalise(query), number)

    def examples(self, count: int) -> list[str]:
        """At most so many of the judged queries, evenly spread over them."""
        known = list(self._known)
        return known[:: max(1, -(-len(known) // count))]

    def search(self, query: str, shown: int = SHOWN) -> Found:
        """What each system finds; not to be called from two threads at once.

        Args:
            query: raw text; normalised here, so that Hangul in NFD finds what NFC finds.
            shown: hits of each system, at most `DEPTH`.
        """
        query = normalise(query)
        alone = self._alone(query)
        query_id = alone.query_ids[0] if alone.qrels else None
        relevant = {name: value for name, value in alone.qrels.get(query_id, {}).items() if value > 0}
        rankings = tuple(self._ranking(name, run, query, relevant, shown) for name, run in self._runs(alone).items())
        return Found(query, query_id, len(relevant), rankings)

    def _alone(self, query: str) -> RetrievalSet:
        """The set with this query alone; where it is a judged one, with its judgements and what is left out of its ranking."""
        whole, number = self.retrieval_set, self._known.get(query)
        name = "" if number is None else whole.query_ids[number]
        parts = ({} if number is None or name not in part else {name: part[name]} for part in (whole.qrels, whole.left_out))
        qrels, left_out = parts
        alone = {"query_ids": StringColumn([name]), "queries": StringColumn([query])}
        return dataclasses.replace(whole, qrels=qrels, left_out=left_out, **alone)

    def _runs(self, alone: RetrievalSet) -> dict[str, Run]:
        runs, vectors = {}, {}
        for name, encoder in self.models.items():
            vectors[name] = encoder.encode(alone.queries, "query")  # (1, D)
            runs[name] = dense_run(vectors[name], self._vectors[name], alone, DEPTH, device=encoder.device)
        if self._bm25 is not None:
            runs[BM25_ALONE] = ranked(alone, DEPTH, lambda depth: self._bm25.search(alone.queries, depth))
        if self.weight is not None:
            both = runs[MODEL], runs[BM25_ALONE], vectors[MODEL], self._vectors[MODEL]
            (runs[HYBRID],) = hybrid_runs(*both, [self.weight], DEPTH)
        return runs

    def _ranking(self, system: str, run: Run, query: str, relevant: Mapping[str, int], shown: int) -> Ranking:
        indices = run[1][0][run[1][0] >= 0]
        ids, scores = list(self.retrieval_set.passage_ids.take(indices)), run[0][0].tolist()
        answer = next((rank for rank, name in enumerate(ids, start=1) if name in relevant), None)
        texts = self.retrieval_set.passages.take(indices[:shown])
        hits = (
            Hit(rank, ids[rank - 1], self._pieces(query, text), scores[rank - 1], relevant.get(ids[rank - 1], 0))
            for rank, text in enumerate(texts, start=1)
        )
        return Ranking(system, tuple(hits), answer)

    def _pieces(self, query: str, text: str) -> tuple[tuple[str, bool], ...]:
        spans, text, done, pieces = matches(query, text, self._tokenisation), normalise(text), 0, []
        for start, end in spans:
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = end
        return tuple(piece for piece in [*pieces, (text[done:], False)] if piece[0])
