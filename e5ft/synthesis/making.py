"""From chunks and queries to rows and an evaluation set: sift, split by document, and keep account of everything left out."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from e5ft.data.rows import Row
from e5ft.errors import DataError
from e5ft.synthesis.chunks import Chunk
from e5ft.synthesis.folder import write_folder
from e5ft.synthesis.queries import Query
from e5ft.synthesis.sifting import Search, distinct, lost, near_queries, repeated
from e5ft.synthesis.splitting import DEV, TEST, TRAIN, set_apart, units

RECORD = "rows.json"
FEWEST = 10  # documents (else sections, else chunks) that can be split
FEWEST_NATURAL = 30  # queries of an evaluation set that people wrote, or a language model did; of fewer all kinds are taken
ARTIFICIAL = ("first_sentence", "keywords")  # kinds that nobody would type
# Kinds by worth: of two near-duplicate queries of a chunk the first stays.
_ORDER = ("faq", "generated", "heading", "title", "keywords", "first_sentence")
_EXAMPLES = 5
_LOST, _NEAR = "does not find its chunk", "near-duplicate of an evaluation query"
_UNNATURAL = "nobody would type it: not evaluated by"


@dataclasses.dataclass
class Account:
    """What was left out, by reason, with examples; and what was made and kept, by kind."""

    made: Counter = dataclasses.field(default_factory=Counter)
    kept: Counter = dataclasses.field(default_factory=Counter)
    dropped: Counter = dataclasses.field(default_factory=Counter)
    reasons: dict[str, Counter] = dataclasses.field(default_factory=dict)
    examples: dict[str, list[dict]] = dataclasses.field(default_factory=dict)

    def drop(self, query: Query, reason: str) -> None:
        """Count a query that is left out."""
        self.dropped[reason] += 1
        self.reasons.setdefault(query.kind, Counter())[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append({"kind": query.kind, "query": query.text, "passage": query.passage[:300]})


@dataclasses.dataclass(frozen=True)
class Made:
    """Rows and an evaluation set.

    Attributes:
        chunks: those that are searched.
        queries: those that were kept; `parts` (TRAIN, DEV, TEST) of each.
        unit: what was split: documents, sections, chunks; None: nothing, there are too few.
        natural: whether the evaluation set is of natural queries alone.
        account: of what was left out.
    """

    chunks: list[Chunk]
    queries: list[Query]
    parts: np.ndarray
    unit: str | None
    natural: bool
    account: Account

    def counts(self) -> dict[str, int]:
        """Queries of each part."""
        return {name: int((self.parts == part).sum()) for name, part in (("train", TRAIN), ("dev", DEV), ("test", TEST))}

    def by_kind(self) -> dict[str, dict]:
        """Of each kind: queries made, kept, in each part, and left out by reason."""
        kinds = {kind: {"made": count, "kept": self.account.kept[kind]} for kind, count in self.account.made.items()}
        for kind, counted in kinds.items():
            of_kind = [part for query, part in zip(self.queries, self.parts.tolist(), strict=True) if query.kind == kind]
            counted |= {name: of_kind.count(part) for name, part in (("train", TRAIN), ("dev", DEV), ("test", TEST))}
            counted["left_out"] = dict(self.account.reasons.get(kind, {}))
        return kinds

    def of_part(self, part: int) -> list[Row]:
        """The rows of a part; of an evaluation part with the documents as they are searched."""
        searched, of_part = self.searched(), (q for q, p in zip(self.queries, self.parts.tolist(), strict=True) if p == part)
        return [Row(q.text, (q.passage if part == TRAIN else searched[q.chunk],)) for q in of_part]

    def searched(self) -> list[str]:
        """The texts of the corpus: no evaluation query is to be found word by word, so that of several passages the shortest stands."""
        texts = [chunk.text for chunk in self.chunks]
        for query, part in zip(self.queries, self.parts.tolist(), strict=True):
            if part != TRAIN:
                texts[query.chunk] = min(texts[query.chunk], query.passage, key=len)
        return texts

    def write(self, folder: Path, record: dict) -> None:
        """Write the folder."""
        ids = [f"c{number:07}" for number in range(len(self.chunks))]
        names, judged = {}, {"dev": [], "test": []}
        part_of = dict(zip((query.chunk for query in self.queries), self.parts.tolist(), strict=True))
        for number, (query, part) in enumerate(zip(self.queries, self.parts.tolist(), strict=True)):
            if part == TRAIN:
                continue
            names[f"q{number:07}"] = query.text
            right = [query.chunk, *(other for other in query.also if part_of.get(other, part) == part)]
            judged["dev" if part == DEV else "test"] += [(f"q{number:07}", ids[chunk], 1) for chunk in right]
        corpus = (
            {
                "_id": name,
                "text": text,
                "source": chunk.name,
                "headings": list(dict.fromkeys(filter(None, (chunk.title, *chunk.headings)))),
            }
            for name, text, chunk in zip(ids, self.searched(), self.chunks, strict=True)
        )
        rows = {"train": self.of_part(TRAIN), **({"dev": self.of_part(DEV)} if judged["dev"] else {})}
        qrels = {split: pairs for split, pairs in judged.items() if pairs}
        write_folder(folder, rows, corpus, names.items(), qrels, (RECORD, record))


def searched_chunks(chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[str]]:
    """The chunks without near-copies of earlier ones, and the texts that are left out."""
    kept, copies = distinct(chunks)
    return [chunks[number] for number in kept], [chunks[number].text for number in copies]


def make(
    chunks: Sequence[Chunk], queries: Sequence[Query], k: int | None, search: Search, shares: tuple[float, float], seed: int
) -> Made:
    """Sift queries and split them.

    Args:
        chunks: distinct ones.
        queries: of them.
        k: the round trip: a query must find its chunk among the first k; None: it need not.
        search: what finds.
        shares: dev and test, of the queries.
        seed: of the split.

    Raises:
        DataError: no query is left.
    """
    account = Account(made=Counter(query.kind for query in queries))
    queries = sorted(
        queries, key=lambda query: _ORDER.index(query.kind.partition("_")[0] if _is_generated(query) else query.kind)
    )
    near = near_queries(queries)
    left = np.ones(len(queries), dtype=bool)

    def leave_out(reasons: dict[int, str]) -> None:
        for number, reason in sorted(reasons.items()):
            account.drop(queries[number], reason)
            left[number] = False

    leave_out(repeated(queries, near))
    if k is not None and left.any():
        there = np.flatnonzero(left)
        missing = lost([queries[n] for n in there], chunks, k, search)
        leave_out({int(there[place]): _LOST for place in missing})
    if not left.any():
        raise DataError(f"no query is left of {len(queries):,}; more kinds, or round_trip=null")
    parts = np.full(len(queries), TRAIN)
    unit, parts[left] = _split(chunks, [queries[n] for n in np.flatnonzero(left)], shares, seed)
    natural = np.array([query.kind not in ARTIFICIAL for query in queries])
    is_natural = int((left & natural & (parts == TEST)).sum()) >= FEWEST_NATURAL
    if is_natural:
        leave_out(dict.fromkeys(np.flatnonzero(left & ~natural & (parts != TRAIN)).tolist(), _UNNATURAL))
    near = near[left[near].all(axis=1)]
    # The test part takes precedence over the dev part, and this over the training part: their numbers ascend in this order.
    leaking = near[parts[near[:, 0]] < parts[near[:, 1]], 0]
    leave_out(dict.fromkeys(np.unique(leaking).tolist(), _NEAR))
    kept = [queries[n] for n in np.flatnonzero(left)]
    account.kept = Counter(query.kind for query in kept)
    if not (parts[left] == TRAIN).any():
        raise DataError("no row is left to train on; more documents, more kinds, or a smaller test_share")
    return Made(list(chunks), kept, parts[left], unit, is_natural, account)


def _is_generated(query: Query) -> bool:
    return query.kind.startswith("generated_")


def _split(
    chunks: Sequence[Chunk], queries: Sequence[Query], shares: tuple[float, float], seed: int
) -> tuple[str | None, np.ndarray]:
    """Which part each query is in, and what was split; all in TRAIN where there is too little."""
    of_chunk = [chunks[query.chunk] for query in queries]
    divisions = [
        ("documents", [chunk.document for chunk in of_chunk]),
        ("sections", [chunk.section for chunk in of_chunk]),
        ("chunks", [query.chunk for query in queries]),
    ]
    name, groups = units(divisions, FEWEST)
    if groups.max() + 1 < FEWEST:
        return None, np.full(len(queries), TRAIN)
    try:
        return name, set_apart(groups, *shares, seed)
    except DataError:
        if name == "chunks":
            return None, np.full(len(queries), TRAIN)
        return "chunks", set_apart(np.unique(divisions[2][1], return_inverse=True)[1], *shares, seed)
