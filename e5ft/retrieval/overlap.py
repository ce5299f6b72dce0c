"""How many queries and answers of a retrieval set are in training rows: what a score there can say."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from e5ft.data.store import RowStore
from e5ft.data.stored_texts import StoredTexts
from e5ft.data.text import text_id
from e5ft.retrieval.copies import NearCopies
from e5ft.retrieval.sets import RetrievalSet

LEAK = 0.02  # share of a set's queries from which on its scores tell of training: so far could these alone move a mean
ORIGINALS = 10_000  # of a kind, whose near-copies are looked for
LOOKED_AT = 200_000  # texts of the training rows among which they are looked for


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What a retrieval set and training rows have in common; texts are counted once.

    Attributes:
        set: the set's name.
        role: what a person calls it: test, dev, or its name.
        queries: queries with a relevant passage.
        shared_queries: those that are a training query.
        near_queries: those that are not, but nearly (`NearCopies`), of a training query with the same answer: questions
            made of one template are as near, and ask for something else.
        judged, shared_judged, near_judged: relevant passages, those that are a document of a training row, and nearly.
    """

    set: str
    role: str
    queries: int
    shared_queries: int
    near_queries: int
    judged: int
    shared_judged: int
    near_judged: int

    @property
    def leaks(self) -> bool:
        """Whether so many queries were trained on that the set's scores do not tell of new queries."""
        return self.shared_queries + self.near_queries >= LEAK * self.queries

    @property
    def sentence(self) -> str:
        """What a person must know of it; empty where nothing is shared."""
        queries = _counted(self.shared_queries, self.near_queries, self.queries, f"{self.role} queries")
        judged = _counted(self.shared_judged, self.near_judged, self.judged, "judged passages")
        if not self.shared_queries + self.near_queries:
            return (
                judged
                and f"no {self.role} query, but {judged} are in the training rows: the same knowledge base, other questions"
            )
        text = f"{' and '.join(filter(None, (queries, judged)))} are in the training rows"
        return (
            f"{text}: the {self.role} figures say how well they were learnt by heart; leave them out of data.train_file"
            if self.leaks
            else text
        )


def overlaps(
    sets: Sequence[tuple[str, RetrievalSet]], rows: RowStore, found: dict[int, str] | None = None
) -> tuple[Overlap, ...]:
    """Count what sets and training rows have in common.

    Equal texts are found among all; near-copies of 10,000 of the sets' other texts of a kind among 200,000 of the rows',
    both evenly spaced: of more, the counts of near-copies are lower bounds.

    Args:
        sets: role and set.
        rows: the training rows.
        found: takes the identity of every training query that is one of a set's queries, or nearly -> that query.
    """
    found = {} if found is None else found
    texts: dict[int, str] = {}
    asked = [_relevant(each, texts) for _, each in sets]
    answers = [set().union(*relevant.values()) for relevant in asked]
    queries, passages = ({i: texts[i] for i in sorted(set().union(*kind))} for kind in (asked, answers))
    seen_queries, near_queries = _found(queries, StoredTexts(rows, "query"))
    seen_passages, near_passages = _found(passages, StoredTexts(rows, "positives"))
    documents = _documents(rows, set().union(*near_queries.values()))
    counts = []
    for relevant, judged in zip(asked, answers, strict=True):
        nearly = 0
        for query, right in relevant.items():
            alike = right.union(*(near_passages.get(passage, ()) for passage in right))
            near = [other for other in near_queries.get(query, ()) if documents[other] & alike]
            nearly += bool(near)
            found.update(dict.fromkeys(near, texts[query]))
        found.update((query, texts[query]) for query in relevant.keys() & seen_queries)
        counts.append((len(relevant), len(relevant.keys() & seen_queries), nearly))
        counts[-1] += (len(judged), len(judged & seen_passages), len(judged & near_passages.keys()))
    return tuple(Overlap(each.name, role, *count) for (role, each), count in zip(sets, counts, strict=True))


def leaking(summary: Mapping) -> list[Overlap]:
    """Of a run's record the reported sets of which training saw so many queries that their scores do not tell of new ones.

    Args:
        summary: as summary.json holds it; older ones, without overlap, have none.
    """
    reported = {summary["test_set"], *(entry["set"] for entry in summary.get("keep", ()))}
    found = (Overlap(**entry) for entry in summary.get("overlap", ()) if entry["set"] in reported)
    return [overlap for overlap in found if overlap.leaks]


def _relevant(each: RetrievalSet, texts: dict[int, str]) -> dict[int, set[int]]:
    """Identity of each query that has a relevant passage -> identities of its relevant passages; `texts` takes both's texts."""
    places = each.passage_ids.positions_of(p for judged in each.qrels.values() for p, value in judged.items() if value > 0)
    passages = each.passages.take(places.values())
    identity = dict(zip(places, map(text_id, passages), strict=True))
    texts |= zip(identity.values(), passages, strict=True)
    relevant: dict[int, set[int]] = {}
    for query_id, query in zip(each.query_ids, each.queries, strict=True):
        right = {identity[p] for p, value in each.qrels[query_id].items() if value > 0 and p in identity}
        if right:
            relevant.setdefault(text_id(query), set()).update(right)
            texts[text_id(query)] = query
    return relevant


def _found(wanted: dict[int, str], texts: StoredTexts) -> tuple[set[int], dict[int, set[int]]]:
    """Which texts (by identity) stand among others, and of which of the rest there are near-copies: theirs."""
    shared = set(np.intersect1d(np.fromiter(wanted, np.int64, len(wanted)), texts.ids).tolist())
    rest = [identity for identity in wanted if identity not in shared]
    rest, texts = rest[:: max(1, -(-len(rest) // ORIGINALS))], texts.every(max(1, -(-len(texts) // LOOKED_AT)))
    near: dict[int, set[int]] = {}
    if rest:
        for text, original in NearCopies(wanted[identity] for identity in rest).pairs(texts).tolist():
            near.setdefault(rest[original], set()).add(int(texts.ids[text]))
    return shared, near


def _documents(rows: RowStore, queries: set[int]) -> dict[int, set[int]]:
    """The documents of some training queries; all by identity."""
    documents, counts = rows.positive_ids()
    owners = np.repeat(rows.query_ids(), counts)
    chosen = np.isin(owners, np.fromiter(queries, np.int64, len(queries)))
    found: dict[int, set[int]] = {query: set() for query in queries}
    for query, document in zip(owners[chosen].tolist(), documents[chosen].tolist(), strict=True):
        found[query].add(document)
    return found


def _counted(shared: int, near: int, total: int, what: str) -> str:
    """`8 of 9 test queries`, `8 (and 1 nearly) of 9 test queries`; empty where there are none."""
    nearly = f" (and {near:,} nearly)" if near and shared else ""
    return f"{shared:,}{nearly} of {total:,} {what}" if shared else f"(nearly) {near:,} of {total:,} {what}" if near else ""
