"""Retrieval sets: queries, the corpus they are asked of, and the relevance judgements."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from e5ft.data.remote import Fetched
from e5ft.data.rows import Row
from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import digest_of
from e5ft.retrieval import beir
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.columns import DistinctTexts, StringColumn
from e5ft.retrieval.copies import NearCopies
from e5ft.retrieval.judging import Counts, judge
from e5ft.retrieval.layouts import find_files

_UINT64 = 0xFFFF_FFFF_FFFF_FFFF


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Queries, passages and judgements. Ids are in ascending order, so that index order is id order everywhere.

    Attributes:
        name: what tables and folders call the set.
        query_ids: (Q,) ids, ascending.
        queries: (Q,) texts, without prefix.
        passage_ids: (P,) ids, ascending.
        passages: (P,) texts, title included, without prefix.
        qrels: query id -> passage id -> relevance, above 0 being relevant; its keys are `query_ids`. A passage that the corpus
            lacks is never found.
        left_out: query id -> id of a passage that is left out of this query's ranking.
        counts: what the set's files held that its figures depend on.
    """

    name: str
    query_ids: StringColumn
    queries: StringColumn
    passage_ids: StringColumn
    passages: StringColumn
    qrels: dict[str, dict[str, int]]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    counts: Counts = Counts()

    @functools.cached_property
    def left_out_at(self) -> np.ndarray:
        """(Q,) int64: for each query the index of the passage that is left out of its ranking; -1 where there is none."""
        positions = self.passage_ids.positions_of(self.left_out.values()) if self.left_out else {}
        return np.array([positions.get(self.left_out.get(query_id), -1) for query_id in self.query_ids], np.int64)


def load_beir(folder: str | os.PathLike, split: str, *, name: str | None = None) -> RetrievalSet:
    """Load an evaluation folder.

    Args:
        folder: (a URL's: what `beir.set_folder` gave) holds a corpus {_id, title (may be absent), text}, queries {_id, text} and
            judgements, in one of the layouts of `layouts`.
        split: which judgements; only queries judged there are loaded.
        name: the set's name; the folder's own unless given.

    Returns:
        The set; a passage is title, space, text.

    Raises:
        DataError: a file is missing, or a line is faulty (`path:line: reason`).
    """
    folder = folder if isinstance(folder, Fetched) else Path(folder)
    files = find_files(folder, split)
    passage_ids, passages = beir.read_passages(files.corpus)
    query_ids, queries = beir.read_queries(files.queries)
    judgements = list(beir.read_qrels(files.qrels))
    judged = judge(judgements, query_ids, queries, passage_ids, passages, str(files.qrels[0]))
    if judged.counts.copies:
        passage_ids, passages = passage_ids.take(judged.passages), passages.take(judged.passages)
    return RetrievalSet(
        name=name or Path(folder).resolve().name,
        query_ids=query_ids.take(judged.queries),
        queries=queries.take(judged.queries),
        passage_ids=passage_ids,
        passages=passages,
        qrels=judged.qrels,
        left_out=judged.left_out,
        counts=judged.counts,
    )


def from_rows(name: str, rows: Iterable[Row], passages: Iterable[str] | None = None) -> RetrievalSet:
    """A retrieval set from rows: the distinct queries against the distinct documents and hard negatives.

    Args:
        name: the set's name.
        rows: read once; texts are normalised, and equal ones are one. A query's relevant passages are the documents of
            all its rows (relevance 1), also where another row has one of them as a hard negative.
        passages: further ones of the corpus, read once. Where they are given, even none, near-copies of relevant passages
            that are relevant to no query are left out of the corpus: an unlabelled copy of an answer is no wrong answer.

    Returns:
        The set, with ids that depend on the text alone: `q` or `d` and 16 hexadecimal digits.

    Raises:
        DataError: there are no rows.
    """
    queries, corpus, judged = DistinctTexts(), DistinctTexts(), {}
    for row in rows:
        relevant = judged.setdefault(queries.add(row.query), {})
        relevant.update((corpus.add(text), 1) for text in row.positives)
        for text in row.negatives:
            corpus.add(text)
    if not judged:
        raise DataError(f"{name}: there are no rows to make a retrieval set of")
    for text in passages or ():
        corpus.add(text)
    (query_ids, query_texts), (passage_ids, passage_texts) = _named(queries, "q"), _named(corpus, "d")
    names = [f"d{identity & _UINT64:016x}" for identity in corpus.ids]
    qrels = {f"q{i & _UINT64:016x}": {names[p]: 1 for p in judged[number]} for i, number in queries.ids.items()}
    made = RetrievalSet(name, query_ids, query_texts, passage_ids, passage_texts, dict(sorted(qrels.items())))
    return made if passages is None else _without_copies(made)


def from_passages(name: str, passages: Iterable[str]) -> RetrievalSet:
    """A corpus of distinct texts, with ids as `from_rows` gives them, of which nobody asked anything yet.

    Raises:
        DataError: there are no passages.
    """
    corpus = DistinctTexts()
    for text in passages:
        corpus.add(text)
    if not corpus.ids:
        raise DataError(f"{name}: there are no passages to search")
    return RetrievalSet(name, StringColumn(), StringColumn(), *_named(corpus, "d"), {})


def shrink_corpus(retrieval_set: RetrievalSet, size: int, *, seed: int = 0, depth: int = 100) -> RetrievalSet:
    """Bound the corpus, so that evaluation while training is cheap and still hard.

    Kept are all judged passages; then what BM25 finds: every query's first, every query's second, and so on, until the
    size is reached; then random ones. Scores on a cut corpus are higher than on the whole one: never compare the two.

    Args:
        retrieval_set: the whole set.
        size: passages to keep, at least 1; never fewer than the judged ones are kept.
        seed: fixes the random ones.
        depth: how many of BM25's passages a query may contribute, at least 1.

    Returns:
        The set with the smaller corpus; the same set if it is not larger than `size`.

    Raises:
        ConfigurationError: size or depth is below 1.
    """
    for field, value in (("size", size), ("depth", depth)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(f"{field}={value!r} of the corpus cut: must be a whole number of at least 1")
    total = len(retrieval_set.passages)
    if size >= total:
        return retrieval_set
    judged = (passage_id for judgements in retrieval_set.qrels.values() for passage_id in judgements)
    kept = set(retrieval_set.passage_ids.positions_of(judged).values())
    if len(kept) < size:
        _, indices = BM25(retrieval_set.passages).search(retrieval_set.queries, depth)
        in_turns = indices.T[indices.T >= 0]  # every query's first, then every query's second, ...
        for position in itertools.chain(in_turns.tolist(), np.random.default_rng(seed).permutation(total).tolist()):
            if len(kept) >= size:
                break
            kept.add(position)
    positions = sorted(kept)
    return dataclasses.replace(
        retrieval_set,
        passage_ids=retrieval_set.passage_ids.take(positions),
        passages=retrieval_set.passages.take(positions),
    )


def subsample(retrieval_set: RetrievalSet, queries: int, passages: int, *, seed: int = 0) -> RetrievalSet:
    """A smaller set of the same kind: a seeded choice of queries, and the corpus cut for them as `shrink_corpus` does.

    Args:
        retrieval_set: the whole set.
        queries: to keep, at least 1; all where there are not more.
        passages: to keep, at least 1; never fewer than those judged for the queries that are kept.
        seed: fixes the choice.
    """
    total = len(retrieval_set.queries)
    if queries < total:
        retrieval_set = with_queries(retrieval_set, np.sort(np.random.default_rng(seed).permutation(total)[:queries]))
    return shrink_corpus(retrieval_set, passages, seed=seed)


def with_queries(retrieval_set: RetrievalSet, queries: np.ndarray) -> RetrievalSet:
    """The set with some of its queries, (n,) indices in ascending order, and the whole corpus."""
    chosen = queries.tolist()
    ids = retrieval_set.query_ids.take(chosen)
    qrels = {query_id: retrieval_set.qrels[query_id] for query_id in ids}
    return dataclasses.replace(retrieval_set, query_ids=ids, queries=retrieval_set.queries.take(chosen), qrels=qrels)


def halves(retrieval_set: RetrievalSet) -> tuple[np.ndarray, np.ndarray]:
    """Divide a set's queries in two: by the first half a choice may be made, the second half is for the report alone.

    The order is that of a digest of the ids, with a seed of its own and not the run's: runs with other seeds are reported on
    the same queries, so that their scores compare, and what one run's choice saw is not reported by another. A question
    that several languages' sets hold under one id is in the same half of each.

    Args:
        retrieval_set: with two scored queries at least, those that have a relevant passage.

    Returns:
        Indices of queries, ascending: half of the scored ones, rounded down, and all others.

    Raises:
        DataError: there are fewer.
    """
    ids = list(retrieval_set.query_ids)
    scored = [i for i, query_id in enumerate(ids) if any(value > 0 for value in retrieval_set.qrels[query_id].values())]
    if len(scored) < 2:
        raise DataError(
            f"{retrieval_set.name}: {len(scored)} scored queries; a keep set must have 2 at least, or a dev split to choose by; "
            "or keep.guard=false"
        )
    first = np.sort(sorted(scored, key=lambda i: digest_of("half", ids[i]))[: len(scored) // 2])
    return first, np.setdiff1d(np.arange(len(ids)), first)


def _named(texts: DistinctTexts, letter: str) -> tuple[StringColumn, StringColumn]:
    """Ids made of the identities, ascending, and the normalised texts."""
    ids = StringColumn(f"{letter}{identity & _UINT64:016x}" for identity in texts.ids)
    order = ids.ascending()
    return ids.take(order), StringColumn(map(normalise, texts.finish().take(order)))


def _without_copies(made: RetrievalSet) -> RetrievalSet:
    """The set without near-copies of relevant passages that are not judged themselves."""
    judged = sorted(made.passage_ids.positions_of(p for judgements in made.qrels.values() for p in judgements).values())
    near = NearCopies(made.passages.take(judged)).pairs(made.passages)[:, 0]
    copies = np.setdiff1d(near, judged)
    if not len(copies):
        return made
    kept = np.setdiff1d(np.arange(len(made.passages)), copies)
    ids, passages = made.passage_ids.take(kept), made.passages.take(kept)
    counts = dataclasses.replace(made.counts, near_copies=len(copies))
    return dataclasses.replace(made, passage_ids=ids, passages=passages, counts=counts)


def pair_keys(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """One int64 for each pair of indices below 2^31, ascending as the pairs are; queries and passages are broadcast."""
    return (queries.astype(np.int64) << 32) | passages.astype(np.int64)
