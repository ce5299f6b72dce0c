"""Where hard negatives may come from: the passages that may serve, and what each source finds among them."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from e5ft.data.rows import Row
from e5ft.errors import DataError
from e5ft.retrieval.bm25 import BM25, best
from e5ft.retrieval.columns import DistinctTexts, StringColumn

RRF_K = 60

# (queries, depth) -> (q, depth) int64 passages in the order of rank, -1 where there are no more; queries are indices.
Finder = Callable[[np.ndarray, int], np.ndarray]
# (queries (n,), passages (n,)) -> (n,) float32 scores of the pairs, both indices.
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class MiningIndex:
    """Rows and passages as numbers; equal texts (by `text_id`) are one.

    Attributes:
        queries: (Q,) distinct queries.
        query_ids: (Q,) int64 identities.
        passages: (P,) distinct passages: the candidates in ascending order of identity, so that nothing depends on the
            order of rows, then the rows' documents and own hard negatives that are no candidates.
        candidates: how many of them are candidates.
        query_of: (R,) the query of each row.
        positive_row, positive_passage: (all rows' documents end to end,) the row of each document and its passage.
        own_row, own_passage: the same of the hard negatives that the rows had, each once a row; empty unless they are kept.
        known_query, known_passage: (m,) every known answer, over all rows, also those not mined for; by ascending query.
        excluded: candidates left out because they are held out.
        overlap: documents of the rows that are held out.
    """

    queries: StringColumn
    query_ids: np.ndarray
    passages: StringColumn
    candidates: int
    query_of: np.ndarray
    positive_row: np.ndarray
    positive_passage: np.ndarray
    own_row: np.ndarray
    own_passage: np.ndarray
    known_query: np.ndarray
    known_passage: np.ndarray
    excluded: int
    overlap: int


def make_index(
    rows: Iterable[Row],
    corpus: Iterable[str] | None,
    held_out: Collection[int] = frozenset(),
    *,
    all_rows: Iterable[Row] = (),
    keep_own: bool = False,
) -> MiningIndex:
    """Number the queries and passages of rows.

    Args:
        rows: to mine for; read twice.
        corpus: texts of the candidates; None takes the documents of `rows` and `all_rows`.
        held_out: identities of passages that must not become negatives.
        all_rows: further rows, whose documents are known answers too.
        keep_own: whether the hard negatives that the rows have are kept, before the mined ones.

    Raises:
        DataError: no rows, or no candidate is left.
    """
    queries, documents, everything, own = DistinctTexts(), DistinctTexts(), DistinctTexts(), DistinctTexts()
    query_of, positive_row, positive_passage, own_row, own_passage = [], [], [], [], []
    for number, row in enumerate(rows):
        query_of.append(queries.add(row.query))
        for text in row.positives:
            positive_row.append(number)
            positive_passage.append(documents.add(text))
        for passage in dict.fromkeys(own.add(text) for text in row.negatives if keep_own):
            own_row.append(number)
            own_passage.append(passage)
    if not query_of:
        raise DataError("there are no rows to mine for")
    known = list(zip((query_of[row] for row in positive_row), positive_passage, strict=True))
    mined = len(queries.ids)
    for row in all_rows:
        query = queries.add(row.query)
        numbers = [documents.add(text) for text in row.positives]
        if query < mined:  # what answers a query that is not mined for need not be known
            known += [(query, number) for number in numbers]
    if corpus is None:
        everything = documents
    else:
        for text in corpus:
            everything.add(text)
    passages, candidates, position, own_position = _arranged(everything, documents, own, held_out)
    known = np.unique(np.array(known, dtype=np.int64), axis=0)
    return MiningIndex(
        queries=queries.finish()[:mined],
        query_ids=np.array(list(queries.ids)[:mined], dtype=np.int64),
        passages=passages,
        candidates=candidates,
        query_of=np.array(query_of, dtype=np.int64),
        positive_row=np.array(positive_row, dtype=np.int64),
        positive_passage=position[np.array(positive_passage, dtype=np.int64)],
        own_row=np.array(own_row, dtype=np.int64),
        own_passage=own_position[np.array(own_passage, dtype=np.int64)],
        known_query=known[:, 0],
        known_passage=position[known[:, 1]],
        excluded=sum(number in held_out for number in everything.ids),
        overlap=sum(number in held_out for number in documents.ids),
    )


def _arranged(
    corpus: DistinctTexts, documents: DistinctTexts, own: DistinctTexts, held_out: Collection[int]
) -> tuple[StringColumn, int, np.ndarray, np.ndarray]:
    """Passages, number of candidates, and the positions among the passages of the documents, and of the rows' own negatives."""
    chosen = sorted(number for number in corpus.ids if number not in held_out)
    if not chosen:
        raise DataError(
            "no candidate is left: the corpus is empty, or all of it is held out; held_out=judged holds out less, and without "
            "data.eval_dir and data.dev_file here nothing is (name them in train.py)"
        )
    position = {number: at for at, number in enumerate(chosen)}
    columns = {id(texts): texts.finish() for texts in (corpus, documents, own)}  # corpus may be documents
    parts = [columns[id(corpus)].take(corpus.ids[number] for number in chosen)]
    for texts in (documents, own):
        others = [number for number in texts.ids if number not in position]
        position |= {number: at for at, number in enumerate(others, start=len(position))}
        parts.append(columns[id(texts)].take(texts.ids[number] for number in others))
    positions = [np.array([position[number] for number in texts.ids], dtype=np.int64) for texts in (documents, own)]
    return StringColumn(itertools.chain(*parts)), len(chosen), *positions


@dataclasses.dataclass
class Searchers:
    """What sources search with.

    Attributes:
        index: rows and passages.
        seed: of what is random.
        model: finds what lies nearest by the model's vectors; there where a source needs "model".
        bm25: finds what BM25 ranks first; there where a source needs "bm25".
    """

    index: MiningIndex
    seed: int
    model: Finder | None = None
    bm25: Finder | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of candidates: its name in the setting `sources`, which of `Searchers` it needs, and its finder's builder."""

    name: str
    needs: tuple[str, ...]
    build: Callable[[Searchers], Finder]


def build_finders(names: Iterable[str], searchers: Searchers) -> dict[str, Finder]:
    """The finder of each of these sources."""
    return {source.name: source.build(searchers) for name in names for source in SOURCES if source.name == name}


def sources_that_need(searcher: str, names: Iterable[str]) -> list[str]:
    """Those of the named sources that need "model" or "bm25", in the order of the names."""
    needs = {source.name: source.needs for source in SOURCES}
    return [name for name in names if searcher in needs[name]]


def bm25_finder(bm25: BM25, index: MiningIndex) -> Finder:
    """What BM25 finds among the candidates; it may know further passages."""

    def find(queries: np.ndarray, depth: int) -> np.ndarray:
        scores = bm25.scores(index.queries.take(queries))
        return _padded((best(row[: index.candidates], depth)[1] for row in scores), depth)

    return find


def random_finder(index: MiningIndex, seed: int) -> Finder:
    """Candidates drawn without replacement, by seed and query alone: not by the order or number of queries."""

    def find(queries: np.ndarray, depth: int) -> np.ndarray:
        size = min(depth, index.candidates)
        draws = (generator_of(seed, index.query_ids[query]).choice(index.candidates, size, replace=False) for query in queries)
        return _padded(draws, depth)

    return find


def generator_of(seed: int, query_id: int) -> np.random.Generator:
    """A random generator of one query's own."""
    return np.random.default_rng((seed, int(query_id) & 0xFFFF_FFFF_FFFF_FFFF))


def fused_finder(first: Finder, second: Finder) -> Finder:
    """Two rankings as one by reciprocal rank: a passage scores the sum of 1 / (60 + rank); equal sums by index.

    Source: Cormack, Clarke and Büttcher 2009, with their k = 60.
    """

    def find(queries: np.ndarray, depth: int) -> np.ndarray:
        fused = []
        for rankings in zip(first(queries, depth).tolist(), second(queries, depth).tolist(), strict=True):
            sums: dict[int, float] = {}
            for rank, passage in (place for ranking in rankings for place in enumerate(ranking, start=1)):
                sums[passage] = sums.get(passage, 0.0) + 1 / (RRF_K + rank)
            sums.pop(-1, None)
            fused.append(sorted(sums, key=lambda passage: (-sums[passage], passage))[:depth])
        return _padded(fused, depth)

    return find


def remembered(finder: Finder) -> Finder:
    """The same, searching once for the same queries: a ranking may be a source itself and part of a fused one."""
    last: list = [None, None, None]

    def find(queries: np.ndarray, depth: int) -> np.ndarray:
        if last[1] != depth or not np.array_equal(last[0], queries):
            last[:] = queries, depth, finder(queries, depth)
        return last[2]

    return find


def bm25_scorer(bm25: BM25, index: MiningIndex) -> Scorer:
    """BM25's scores of pairs, one query at a time."""

    def score(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        values = np.zeros(len(queries), dtype=np.float32)
        distinct, group = np.unique(queries, return_inverse=True)
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], np.arange(len(distinct)), side="right")
        start = 0
        for end, row in zip(ends, bm25.scores(index.queries.take(distinct)), strict=True):
            values[order[start:end]] = row[passages[order[start:end]]]
            start = end
        return values

    return score


def dense_scorer(queries: np.ndarray, passages: np.ndarray, *, block: int = 4096) -> Scorer:
    """Dot products of pairs, summed in float64 and rounded, as `e5ft.retrieval.search` does: the same numbers.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32, may be a memory map; only the rows asked for are read.
        block: pairs computed at once.
    """

    def score(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        values = np.empty(len(left), dtype=np.float32)
        for start in range(0, len(left), block):
            chosen = slice(start, start + block)
            products = queries[left[chosen]].astype(np.float64) * passages[right[chosen]]  # (block, D)
            values[chosen] = products.sum(axis=1)
        return values

    return score


def _padded(rankings: Iterable[Sequence[int]], depth: int) -> np.ndarray:
    rows = [np.pad(np.asarray(row, dtype=np.int64), (0, depth - len(row)), constant_values=-1) for row in rankings]
    return np.stack(rows) if rows else np.empty((0, depth), dtype=np.int64)


SOURCES = (
    Source("dense", ("model",), lambda searchers: searchers.model),
    Source("bm25", ("bm25",), lambda searchers: searchers.bm25),
    Source("fused", ("model", "bm25"), lambda searchers: fused_finder(searchers.model, searchers.bm25)),
    Source("random", (), lambda searchers: random_finder(searchers.index, searchers.seed)),
)
