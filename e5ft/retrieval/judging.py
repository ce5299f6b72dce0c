"""What judgements say of a corpus: which passages are one, which are left out of a query's ranking, which are never found.

Sources: BEIR leaves the passage that has the query's own id out of its ranking (`ignore_identical_ids` of
https://github.com/beir-cellar/beir, beir/retrieval/evaluation.py); trec_eval and pytrec_eval count a judged passage that no
run can find in the ideal ranking and among the relevant ones, and pass over judged queries that are not run.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from e5ft.data.text import normalise, text_id
from e5ft.errors import DataError
from e5ft.retrieval.beir import Judgement
from e5ft.retrieval.columns import StringColumn
from e5ft.settings import shown


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a set's files held that its figures depend on.

    Attributes:
        queries: that are judged and there; 0 of a set made of rows.
        left_out: queries whose id a passage has, too: it is left out of their ranking.
        left_out_other: those of them where it has another text: ids that are merely numbered alike.
        left_out_relevant: those of them that are judged relevant to themselves: never found.
        kept: queries whose answer has their id and another text: ids that are numbered alike; it stays.
        absent_passages: relevant judgements whose passage the corpus lacks: never found.
        absent_queries: judged queries that the queries' file lacks: ignored.
        copies: passages whose text another one has: not ranked a second time.
        near_copies: passages of a set made of rows that nearly are an answer, and are not judged: not ranked.
    """

    queries: int = 0
    left_out: int = 0
    left_out_other: int = 0
    left_out_relevant: int = 0
    kept: int = 0
    absent_passages: int = 0
    absent_queries: int = 0
    copies: int = 0
    near_copies: int = 0

    def lines(self) -> list[str]:
        """What there is to be told, a line for each count that is not 0."""
        themselves = self.left_out - self.left_out_other
        own = f"{themselves:,} of {self.queries:,} queries are passages themselves: left out of their own ranking, as BEIR does"
        other = f"{self.left_out_other:,} of {self.queries:,} queries have the id of a passage with another text"
        also = f"; {self.left_out_relevant:,} of them judged relevant: never found" if self.left_out_relevant else ""
        said = (
            (themselves, own + also),
            (self.left_out_other, f"{other}: it is left out of their ranking, as BEIR does"),
            (self.kept, f"answers with their query's id and another text: {self.kept:,}, kept in its ranking"),
            (
                self.absent_passages,
                f"judged passages that the corpus lacks: {self.absent_passages:,}, counted as never found, as pytrec_eval does",
            ),
            (self.absent_queries, f"judged queries without a text: {self.absent_queries:,}, ignored"),
            (self.copies, f"passages with another passage's text: {self.copies:,}, each text is one passage"),
            (self.near_copies, f"near-copies of answers: {self.near_copies:,}, left out, since nobody judged them"),
        )
        return [text for count, text in said if count]


@dataclasses.dataclass(frozen=True)
class Judged:
    """The judged part of a set.

    Attributes:
        queries: positions of the judged queries, ascending.
        passages: positions of the passages that are ranked, ascending: of those of one text the one with the smallest id.
        qrels: query id -> passage id -> relevance, by ascending query id; of passages of one text the largest relevance
            under the id that is ranked. Passages that the corpus lacks stand there, too.
        left_out: query id -> id of the passage that is left out of its ranking.
        counts: of all this.
    """

    queries: list[int]
    passages: np.ndarray
    qrels: dict[str, dict[str, int]]
    left_out: dict[str, str]
    counts: Counts


def judge(
    judgements: Sequence[Judgement],
    query_ids: StringColumn,
    queries: StringColumn,
    passage_ids: StringColumn,
    passages: StringColumn,
    where: str,
) -> Judged:
    """Bring judgements, queries and passages together.

    A passage with the query's own id is left out of that query's ranking, except where it is judged relevant and its text
    is not the query's (ids that are merely numbered alike), or where a passage of the same text with another id is relevant.

    Args:
        judgements: as `beir.read_qrels` gives them.
        query_ids, queries: by ascending id.
        passage_ids, passages: by ascending id.
        where: the judgements' file, for messages.

    Raises:
        DataError: nothing is judged relevant, or more than half of what is names queries or passages that are not there.
    """
    query_at = query_ids.positions_of(judgement[1] for judgement in judgements)
    passage_at = passage_ids.positions_of(name for _, query_id, passage_id, _ in judgements for name in (query_id, passage_id))
    relevant = [judgement for judgement in judgements if judgement[3] > 0]
    if not relevant:
        raise DataError(f"{where}: no query has a relevant passage: there is nothing to score")
    absent = [judgement for judgement in relevant if judgement[1] not in query_at or judgement[2] not in passage_at]
    if 2 * len(absent) > len(relevant):
        place, query_id, passage_id, _ = absent[0]
        missing = f"query {shown(query_id)} is not among the queries"
        if query_id in query_at:
            missing = f"passage {shown(passage_id)} is not in the corpus"
        raise DataError(
            f"{place}: {missing}, as in {len(absent):,} of {len(relevant):,} relevant judgements: files of several sets? "
            "Up to half may be missing"
        )
    ranked, standing = _of_one_text(passages)
    qrels, groups = {}, {}
    for _, query_id, passage_id, relevance in judgements:
        if query_id not in query_at:
            continue
        name = passage_id
        if passage_id in passage_at:
            name = passage_id if standing is None else passage_ids[int(standing[passage_at[passage_id]])]
            groups.setdefault((query_id, name), []).append((passage_id, relevance))
        judged = qrels.setdefault(query_id, {})
        judged[name] = max(relevance, judged.get(name, relevance))
    left_out, counted = {}, {"left_out_other": 0, "left_out_relevant": 0, "kept": 0}
    for query_id in (name for name in query_at if name in passage_at):
        position = passage_at[query_id]
        name = query_id if standing is None else passage_ids[int(standing[position])]
        answers = {passage_id for passage_id, relevance in groups.get((query_id, name), ()) if relevance > 0}
        same = _same(queries[query_at[query_id]], passages[position])
        own = query_id in answers and same
        if not answers or (own and len(answers) == 1):
            left_out[query_id] = name
            counted["left_out_other"] += not same
        counted["left_out_relevant"] += own and len(answers) == 1
        counted["kept"] += query_id in answers and not own
    counts = Counts(
        queries=len(query_at),
        left_out=len(left_out),
        absent_passages=sum(judgement[1] in query_at for judgement in absent),
        absent_queries=len({judgement[1] for judgement in judgements} - query_at.keys()),
        copies=len(passages) - len(ranked),
        **counted,
    )
    return Judged(sorted(query_at.values()), ranked, dict(sorted(qrels.items())), left_out, counts)


def _of_one_text(passages: StringColumn) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions of the first passage of each text, ascending; and for each passage that of the first of its text, or None
    where every text stands once."""
    identities = np.fromiter(map(text_id, passages), np.int64, len(passages))
    _, first, group = np.unique(identities, return_index=True, return_inverse=True)
    return (np.arange(len(passages)), None) if len(first) == len(passages) else (np.sort(first), first[group])


def _same(query: str, passage: str) -> bool:
    """Whether a passage, with or without its title, is the query. A title is no longer than its text: a keyword that a text ends with
    is not that text."""
    query, passage = normalise(query), normalise(passage)
    return passage == query or (passage.endswith(f" {query}") and 2 * len(query) >= len(passage) - 1)
