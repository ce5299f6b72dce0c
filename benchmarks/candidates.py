"""A corpus with false negatives in known places, each query's candidates in it, and what filters see of them."""

import dataclasses
import itertools
import random
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.sparse

from benchmarks import planting
from e5ft.data.rows import Row
from e5ft.data.text import normalise, text_id
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.filters import NearDuplicates
from e5ft.retrieval.search import top_k
from e5ft.retrieval.vectors import encode_collection

KINDS = ("withheld", "twin", *planting.KINDS)
DEPTH = 50
TWIN = 0.7  # overlap of two questions' character trigrams from which each one's positive counts as answering the other


@dataclasses.dataclass(frozen=True)
class Sample:
    """Attributes:
    queries: (Q,) texts.
    texts: the corpus, then the planted passages.
    corpus: how many of the texts are the corpus.
    positives: (Q,) the one positive each query admits to, an index into the texts.
    false: (query, index into the texts, kind) of every false negative.
    """

    queries: list[str]
    texts: list[str]
    corpus: int
    positives: np.ndarray
    false: list[tuple[int, int, int]]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Candidates: every false negative, and the unjudged passages of each query's top 50.

    Attributes:
        query, passage, kind: (n,) ints; kind -1 is unjudged.
        dense, bm25: (n,) bool, whether it stands in that ranking's top 50 (a false negative: would stand there if it were
            the only one in the corpus).
        values: what each filter looks at, name -> (n,) float64, larger is more suspicious.
    """

    query: np.ndarray
    passage: np.ndarray
    kind: np.ndarray
    dense: np.ndarray
    bm25: np.ndarray
    values: dict[str, np.ndarray]


def make_sample(rows: Iterable[Row], queries: int, limit_rows: int | None, seed: int) -> Sample:
    """Draw queries, withhold and plant.

    Withheld: a query with several documents admits to the first alone. Twin: the document of a row whose question is nearly
    the same (character trigrams; passages are not compared, so that no filter over passages is favoured). At most half of the
    queries are drawn for these; the others at random.
    """
    generator, answers, wording = random.Random(seed), {}, {}
    for row in rows:
        query = normalise(row.query)
        wording.setdefault(text_id(query), query)
        answers.setdefault(text_id(query), {}).update({text_id(text): normalise(text) for text in row.positives})
    names = sorted(answers)
    twins = _twins([wording[name] for name in names])
    several = [i for i, name in enumerate(names) if len(answers[name]) > 1]
    natural = sorted({*several, *twins})
    drawn = generator.sample(natural, min(len(natural), queries // 2))
    others = sorted(set(range(len(names))) - set(drawn))
    drawn += generator.sample(others, min(len(others), queries - len(drawn)))
    kept = list(dict.fromkeys([*drawn, *itertools.chain.from_iterable(twins.get(i, ()) for i in drawn)]))
    rest = sorted(set(range(len(names))) - set(kept))
    generator.shuffle(rest)
    kept += rest[: max(0, (limit_rows or len(names)) - len(kept))]
    numbers: dict[int, int] = {}
    texts: list[str] = []
    for i in kept:
        for identity, text in answers[names[i]].items():
            if identity not in numbers:
                numbers[identity] = len(texts)
                texts.append(text)
    documents = [[numbers[identity] for identity in answers[names[i]]] for i in drawn]
    corpus, false = len(texts), []
    for q, i in enumerate(drawn):
        found = dict.fromkeys(documents[q][1:], KINDS.index("withheld"))
        for twin in twins.get(i, ()):
            for identity in answers[names[twin]]:
                found.setdefault(numbers[identity], KINDS.index("twin"))
        found.pop(documents[q][0], None)
        false += [(q, passage, kind) for passage, kind in found.items()]
        for kind in planting.KINDS:
            rewritten = planting.plant(texts[documents[q][0]], kind, seed, wording[names[i]])
            if rewritten is not None:
                false.append((q, len(texts), KINDS.index(kind)))
                texts.append(rewritten)
    positives = np.array([mine[0] for mine in documents])
    return Sample([wording[names[i]] for i in drawn], texts, corpus, positives, false)


def make_pairs(sample: Sample, model: Encoder, guide: Encoder | None, *, depth: int = DEPTH, cache: Path | None = None) -> Pairs:
    """Rank the corpus for every query, dense and by BM25, and compute what the filters see; vectors are kept in `cache`."""
    queries, passages = _vectors(model, sample, cache)
    index = BM25(sample.texts)
    lexical = _all_scores(index, sample.queries, len(sample.texts))
    false_of: dict[int, list[int]] = {}
    for query, passage, _ in sample.false:
        false_of.setdefault(query, []).append(passage)
    most = depth + 1 + max((len(found) for found in false_of.values()), default=0)
    _, nearest = top_k(queries, passages[: sample.corpus], most)
    rows = []
    for q, positive in enumerate(sample.positives):
        known = [positive, *false_of.get(q, ())]
        ranked = [nearest[q], np.argsort(-lexical[q, : sample.corpus], kind="stable")[:most]]
        tops = [found[~np.isin(found, known)][:depth] for found in ranked]
        tops[1] = tops[1][lexical[q, tops[1]] > 0]
        rows += [(q, c, -1, c in tops[0], c in tops[1]) for c in np.union1d(*tops)]
        last = [queries[q] @ passages[tops[0][-1]], lexical[q, tops[1][-1]] if len(tops[1]) == depth else 0.0]
        for _, c, kind in (entry for entry in sample.false if entry[0] == q):
            rows.append((q, c, kind, queries[q] @ passages[c] >= last[0], lexical[q, c] > last[1]))
    query, passage, kind = np.array([row[:3] for row in rows]).T
    dense, bm25 = np.array([row[3:] for row in rows], dtype=bool).T
    values = _dense_values(queries, passages, query, passage, sample.positives, "")
    if guide is not None:
        values |= _dense_values(*_vectors(guide, sample, cache), query, passage, sample.positives, "guide ")
    values |= _lexical_values(sample, index, lexical, query, passage)
    return Pairs(query, passage, kind, dense, bm25, values)


def _vectors(encoder: Encoder, sample: Sample, cache: Path | None) -> list[np.ndarray]:
    """Of the queries (Q, D) and of the texts (P, D)."""
    texts = {"query": sample.queries, "passage": sample.texts}
    return [encode_collection(encoder, found, role, cache=cache) for role, found in texts.items()]


def _dense_values(queries, passages, query, passage, positives, prefix: str) -> dict[str, np.ndarray]:
    """Scores beside the positive's, and the likeness to the positive itself."""
    scores = np.einsum("nd,nd->n", queries[query], passages[passage]).astype(np.float64)
    positive = np.einsum("nd,nd->n", queries[query], passages[positives[query]]).astype(np.float64)
    likeness = np.einsum("nd,nd->n", passages[positives[query]], passages[passage]).astype(np.float64)
    return {
        f"{prefix}percent": 1 + (scores - positive) / np.maximum(np.abs(positive), 1e-9),  # right for scores below 0 too
        f"{prefix}margin": scores - positive,
        f"{prefix}passage cosine": likeness,
    }


def _lexical_values(sample: Sample, index: BM25, lexical, query, passage) -> dict[str, np.ndarray]:
    own = np.arange(len(sample.queries))
    of_positive = np.maximum(lexical[own, sample.positives], 1e-9)
    to_positive = _all_scores(index, [sample.texts[i] for i in sample.positives], len(sample.texts))
    values = {
        "bm25 percent": lexical[query, passage] / of_positive[query],
        "bm25 passage": to_positive[query, passage] / np.maximum(to_positive[own, sample.positives], 1e-9)[query],
    }
    for ngram, how in itertools.product((3, 5), ("containment", "jaccard")):
        overlap = NearDuplicates(sample.texts, ngram=ngram, threshold=0.5, measure=how).overlaps
        values[f"{how}{ngram}"] = np.concatenate([overlap(int(p), passage[query == q]) for q, p in enumerate(sample.positives)])
    return values


def _all_scores(index: BM25, queries: list[str], passages: int) -> np.ndarray:
    """BM25 of every passage for every query, (Q, P) float32."""
    scores = np.zeros((len(queries), passages), dtype=np.float32)
    for q, query in enumerate(queries):
        found = index.search([query], passages)[0]
        if found:
            numbers, values = zip(*found, strict=True)
            scores[q, list(numbers)] = values
    return scores


def _twins(queries: list[str]) -> dict[int, list[int]]:
    """Query -> the others whose character trigrams overlap with its own by `TWIN` (Jaccard) or more."""
    vocabulary: dict[str, int] = {}
    ends, columns = [0], []
    for query in queries:
        bare = re.sub(r"\W", "", query)
        columns += [vocabulary.setdefault(gram, len(vocabulary)) for gram in {bare[i : i + 3] for i in range(len(bare) - 2)}]
        ends.append(len(columns))
    table = scipy.sparse.csr_matrix((np.ones(len(columns), np.float32), columns, ends), (len(queries), len(vocabulary)))
    sizes, twins = np.diff(ends), {}
    for start in range(0, len(queries), 1000):
        shared = (table[start : start + 1000] @ table.T).tocoo()
        rows = shared.row + start
        alike = (shared.data >= TWIN * (sizes[rows] + sizes[shared.col] - shared.data)) & (rows != shared.col)
        for a, b in zip(rows[alike].tolist(), shared.col[alike].tolist(), strict=True):
            twins.setdefault(a, []).append(b)
    return {query: sorted(found) for query, found in twins.items()}
