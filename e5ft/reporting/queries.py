"""Query by query: what got better and worse, with the texts, and what those that are not found have in common."""

import dataclasses
import html
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from e5ft.reporting.html import Block, Cell, Column, Details, Paragraph, Section, Table, cut, number
from e5ft.reporting.outcome import change_text
from e5ft.reporting.record import BASE, BM25, FINAL, Query, Run
from e5ft.retrieval.tables import cutoffs_of
from e5ft.retrieval.verdict import metric_of, set_outcomes

MOST = 300  # queries of each kind that the page shows
LENGTH = 400  # characters of a text
BYTES = 1_500_000  # of what the lists of queries hold in all, so that the page stays below 2 MB
_LISTED = 50  # of those that are not found
_FEWEST = 10  # of a group below which nothing is compared
_RARE = 2  # passages of the record that a rare letter pair is in at most
_CLEAR = 0.6  # share of the pairs in which one group has more, from which on a trait stands out
_P = 0.01
_SOURCES = 12
_EXAMPLES = 5  # of the largest losses
_ID = 60


@dataclasses.dataclass(frozen=True)
class Change:
    """A query that two systems answer differently.

    Attributes:
        before, after: what each made of it.
        bm25: the same by BM25; None: not measured.
        gain: after less before, by the metric.
        kind: key of the words that say what became of it.
    """

    before: Query
    after: Query
    bm25: Query | None
    gain: float
    kind: str


def changes_of(run: Run, depth: int) -> tuple[list[Change], list[Change], int]:
    """Queries that got better, those that got worse, the largest change first; and how many stayed as they were.

    Args:
        run: the record.
        depth: the rank within which an answer counts as found.
    """
    metric, name = metric_of(run.summary), run.summary["test_set"]
    before, after, bm25 = (run.queries(name, system) for system in (BASE, FINAL, BM25))
    won, lost = (
        [Change(old, new, bm25.get(new.identifier), gain, _kind(old.rank, new.rank, gain, depth)) for gain, old, new in part]
        for part in won_and_lost(before, after, metric)
    )
    return won, lost, len(before.keys() & after.keys()) - len(won) - len(lost)


def won_and_lost(
    before: Mapping[str, Query], after: Mapping[str, Query], metric: str
) -> tuple[list[tuple[float, Query, Query]], list[tuple[float, Query, Query]]]:
    """The queries of both that got better, and those that got worse: gain, before, after; the largest change first.

    Args:
        before, after: query's identifier -> what a system made of it.
        metric: name@K, by which.
    """
    gains = {key: after[key].metrics[metric] - before[key].metrics[metric] for key in before.keys() & after.keys()}
    order = sorted(gains, key=lambda key: (-abs(gains[key]), key))
    won, lost = ([(gains[key], before[key], after[key]) for key in order if sign * gains[key] > 0] for sign in (1, -1))
    return won, lost


def changed(run: Run, words: Mapping[str, str]) -> Section:
    """The queries that got better and worse, to be searched, sorted and filtered."""
    depth, metric = depth_of(run), metric_of(run.summary)
    won, lost, same = changes_of(run, depth)
    blocks: list[Block] = [Paragraph(words["changed_text"].format(metric=metric, won=len(won), lost=len(lost), same=same))]
    rows = {better: [_row(change, depth, words) for change in part[:MOST]] for better, part in ((True, won), (False, lost))}
    shown = within(rows[True], rows[False])
    if len(won) + len(lost) > sum(map(len, shown)):
        counts = {"won": len(shown[0]), "lost": len(shown[1]), "length": LENGTH, "place": _file_of(run.summary["test_set"])}
        blocks.append(Paragraph(words["cut_list"].format(**counts), "note"))
    texts = any(change.after.text is not None for change in won + lost)
    if won or lost:
        blocks.append(Paragraph(words["found_note" if texts else "no_texts"], "note"))
        blocks.append(_table(shown[0] + shown[1], words, texts))
    return Section(words["changed"], blocks)


def worse(run: Run, words: Mapping[str, str]) -> Section:
    """Where it got worse: the keep sets, how many queries of the test set, what these have in common, and the largest losses."""
    depth, name = depth_of(run), run.summary["test_set"]
    won, lost, _ = changes_of(run, depth)
    queries, before = (run.queries(name, system) for system in (FINAL, BASE))
    blocks = _keep_sets(run, words)
    if not before:
        return Section(words["worse"], [*blocks, Paragraph(words["unknown"], "note")])
    if not lost:
        return Section(words["worse"], [*blocks, Paragraph(words["worse_none"].format(set=name, queries=len(queries)))])
    kinds = Counter(change.kind for change in lost)
    counts = {"lost": len(lost), "won": len(won), "queries": len(queries), "share": per_cent(len(lost) / len(queries))}
    told = {"set": name, "depth": depth, "first": kinds["first_lost"], "within": kinds["within_lost"], "list": words["changed"]}
    blocks.append(Paragraph(words["worse_text"].format(**counts, **told)))
    ids = {change.after.identifier for change in lost}
    rest = [query for query in queries.values() if query.identifier not in ids]
    metric = metric_of(run.summary)
    before = {key: query for key, query in before.items() if query.metrics[metric] > 0}
    groups = Groups(words["lost_ones"], words["all_ones"], words["lost_share"], [change.after for change in lost], rest, before)
    blocks += common(groups, words)
    texts = any(change.after.text is not None for change in lost)
    table = _table([_row(change, depth, words) for change in lost[:_EXAMPLES]], words, texts)
    caption = words["worse_caption"].format(count=len(table.rows))
    return Section(words["worse"], [*blocks, dataclasses.replace(table, filters=(), search=False, caption=caption)])


def _keep_sets(run: Run, words: Mapping[str, str]) -> list[Block]:
    """What became of the sets that must not get worse, as the verdict has it."""
    metric, outcomes = set_outcomes(run.summary)
    keep = [each for each in outcomes if each.kind == "keep"]
    if not keep:
        return [Paragraph(words["worse_no_keep"], "note")]
    lost = [each for each in keep if each.word == "lost"]
    if not lost:
        return [Paragraph(words["worse_no_set"].format(sets=", ".join(each.set for each in keep)))]
    told = [{"set": each.set, "metric": metric, "change": change_text(each.change), "file": _file_of(each.set)} for each in lost]
    return [Paragraph(words["worse_set"].format(**each), "bad") for each in told]


def worst(run: Run, words: Mapping[str, str]) -> Section:
    """What the queries have in common whose answer is not found, and some of them."""
    depth = depth_of(run)
    queries = list(run.queries(run.summary["test_set"], FINAL).values())
    missed = [query for query in queries if query.rank is None or query.rank > depth]
    found = [query for query in queries if query.rank is not None and query.rank <= depth]
    if not missed:
        return Section(words["worst"], [Paragraph(words["worst_none"].format(depth=depth))])
    counts = {"depth": depth, "queries": len(queries), "count": len(missed), "share": per_cent(len(missed) / len(queries))}
    blocks: list[Block] = [Paragraph(words["worst_text"].format(**counts))]
    blocks += common(Groups(words["missed_ones"], words["found_ones"], words["failed"], missed, found), words)
    rows, room = [], BYTES // 10
    for query in missed[:_LISTED]:
        first = query.top[0].text if query.top else None
        row = [_query(query, words), _rank(query, depth, words), _text(first, words), _text(query.wanted, words)]
        room -= _size(row)
        rows += [row] if room > 0 else []
    columns = [Column(words["query"], wide=True), Column(words["rank_after"], True), Column(words["found_after"], wide=True)]
    columns.append(Column(words["wanted"], wide=True))
    table = Table(columns, rows, sortable=True, search=True, caption=words["worst_caption"].format(depth=depth), stacked=True)
    return Section(words["worst"], [*blocks, Details(words["worst_list"].format(count=len(rows)), [table])])


def depth_of(run: Run) -> int:
    """The rank within which an answer counts as found: that of the main metric."""
    return cutoffs_of([metric_of(run.summary)])[0]


def per_cent(share: float) -> str:
    """A share as per cent, to one digit."""
    return f"{100 * share:.1f} %"


def _kind(before: int | None, after: int | None, gain: float, depth: int) -> str:
    old, new = (rank or 10**9 for rank in (before, after))
    if (new >= old) if gain > 0 else (new <= old):  # of several answers the first one found is not the one that moved
        return "other_up" if gain > 0 else "other_down"
    if gain > 0:
        return "now_first" if new == 1 < old else "now_within" if new <= depth < old else "up"
    return "first_lost" if old == 1 < new else "within_lost" if old <= depth < new else "down"


def _table(rows: Sequence[list], words: Mapping[str, str], texts: bool) -> Table:
    ranks = [Column(words[name], True) for name in ("rank_before", "rank_after", "rank_bm25")]
    columns = [Column(words["query"], wide=texts), Column(words["kind"]), *ranks]
    if texts:
        columns += [Column(words["found"], wide=True), Column(words["wanted"], wide=True)]
    rows = [row[: len(columns)] for row in rows]
    return Table(columns, rows, sortable=True, filters=[words["kind"]], search=True, caption=words["changed_table"], stacked=True)


def _row(change: Change, depth: int, words: Mapping[str, str]) -> list[Cell]:
    other = change.before if change.gain > 0 else change.after
    answers = {answer.identifier for answer in other.answers}
    instead = next((passage for passage in other.top if passage.identifier not in answers), None)
    kind = Cell(words[change.kind].format(depth=depth), tone="good" if change.gain > 0 else "bad")
    ranks = [_rank(query, depth, words) for query in (change.before, change.after, change.bm25)]
    return [
        _query(change.after, words), kind, *ranks,
        _text(None if instead is None else instead.text, words), _text(change.after.wanted, words),
    ]  # fmt: skip


def _query(query: Query, words: Mapping[str, str]) -> Cell:
    name = cut(query.identifier, _ID)
    return Cell(name) if query.text is None else Cell(cut(query.text, LENGTH) or words["no_text"], hint=name)


def _rank(query: Query | None, depth: int, words: Mapping[str, str]) -> Cell:
    if query is None:
        return Cell("–")
    if query.rank is None:
        deepest = max(cutoffs_of(query.metrics), default=depth)
        return Cell(words["not_found"], 10**6, words["not_found_hint"].format(depth=deepest))
    return Cell(words["rank"].format(rank=query.rank), query.rank)


def _text(text: str | None, words: Mapping[str, str]) -> Cell:
    return Cell(cut(text, LENGTH) if text else words["no_text"])


def within(won: list[list[Cell]], lost: list[list[Cell]]) -> tuple[list[list[Cell]], list[list[Cell]]]:
    """As many rows of both as a page has room for, in turn."""
    room, taken = BYTES, ([], [])
    for place in range(max(len(won), len(lost))):
        for rows, kept in zip((won, lost), taken, strict=True):
            if place < len(rows):
                room -= _size(rows[place])
                if room < 0:
                    return taken
                kept.append(rows[place])
    return taken


def _size(row: Iterable[Cell]) -> int:
    """Bytes of a row on the page, its texts as they are escaped."""
    return sum(len(html.escape(f"{cell.text}{cell.hint or ''}{cell.hint or ''}").encode()) + 120 for cell in row)


@dataclasses.dataclass(frozen=True)
class Groups:
    """Queries that something happened to, and those that it did not.

    Attributes:
        name: of the group, for a reader.
        against: what its medians are shown beside: the rest, or all.
        share: heading of the group's share of a source.
        group, rest: the queries.
        before: query's identifier -> what the model before training made of it, of those that could get worse: their ranks are
            shown, and medians of all queries. None: they are not.
    """

    name: str
    against: str
    share: str
    group: Sequence[Query]
    rest: Sequence[Query]
    before: Mapping[str, Query] | None = None


def common(groups: Groups, words: Mapping[str, str]) -> list[Block]:
    """What a group of queries has in common, where that is more than chance; else that nothing was found, or that they are few."""
    if min(len(groups.group), len(groups.rest)) < _FEWEST:
        return [Paragraph(words["worst_few"], "note")]
    sentences, traits = _traits(groups, words)
    told, sources = _sources(groups, words)
    said = [Paragraph(sentence) for sentence in [*sentences, *told] or [words["trait_none"]]]
    return [*said, *([Details(words["compared"], [*traits, *sources])] if traits or sources else [])]


def _traits(groups: Groups, words: Mapping[str, str]) -> tuple[list[str], list[Block]]:
    """The traits that stand out, as sentences, and a table of all."""
    from scipy.stats import mannwhitneyu

    texts = {p.identifier: p.text for q in (*groups.group, *groups.rest) for p in (*q.answers, *q.top) if p.text}
    spread = Counter(pair for text in texts.values() for pair in _pairs(text))
    measures: dict[str, Callable[[Query], float]] = {
        "query_length": lambda query: len(query.text),
        "answer_length": lambda query: len(query.wanted or ""),
        "rare": lambda query: _share(query, {pair for pair in _pairs(query.text) if spread[pair] <= _RARE}),
        "overlap": lambda query: _share(query, _pairs(query.wanted or "")),
        "answers_count": lambda query: len(query.answers),
    }
    measures = measures if groups.group[0].text is not None else {}
    before = groups.before or {}
    if before:
        measures["rank_before"] = lambda query: before[query.identifier].rank
    rows, sentences = [], []
    for name, measure in measures.items():
        parts = [groups.group, groups.rest]
        if name == "rank_before":
            parts = [[query for query in part if query.identifier in before] for part in parts]
        if min(map(len, parts)) < _FEWEST:
            continue
        values = [[float(measure(query)) for query in part] for part in parts]
        test = mannwhitneyu(*values)
        larger = float(test.statistic) / (len(values[0]) * len(values[1]))
        form = ".2f" if name in ("rare", "overlap") else ".0f"
        beside = values[0] + values[1] if before else values[1]
        medians = [number(statistics.median(each), form) for each in (values[0], beside)]
        differs = medians[0].text != medians[1].text
        # That those which got worse had a good rank says nothing: by chance alone, too, the best fall and the worst rise.
        clear = bool(name != "rank_before" and test.pvalue < _P and max(larger, 1 - larger) >= _CLEAR and differs)
        rows.append([words[name], *medians, Cell(words["yes" if clear else "no"], hint=words["stands_out_hint"])])
        if clear:
            sentence = words["trait_larger" if larger > 0.5 else "trait_smaller"]
            told = {"group": groups.name, "against": groups.against, "trait": words[name]}
            sentences.append(sentence.format(**told, own=medians[0].text, others=medians[1].text))
    if not rows:
        return [], []
    columns = [words["trait"], *((words["median"].format(group=name), True) for name in (groups.name, groups.against))]
    table = Table([*columns, words["stands_out"]], rows, caption=words["traits"], stacked=True)
    notes = [words["rare_note"].format(texts=f"{len(texts):,}", most=_RARE)] if texts else []
    notes += [words["rank_note"]] if before else []
    return sentences, [table, *(Paragraph(note, "note") for note in notes)]


def _share(query: Query, pairs: set[str]) -> float:
    """Which share of a query's letter pairs is among others."""
    own = _pairs(query.text)
    return len(own & pairs) / max(len(own), 1)


def _pairs(text: str) -> set[str]:
    """The pairs of letters side by side within words, in NFC and lower case."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())
    return {word[place : place + 2] for word in words for place in range(max(len(word) - 1, 1))}


def _sources(groups: Groups, words: Mapping[str, str]) -> tuple[list[str], list[Block]]:
    """The group's share by what stands before the first digit of the ids, where that tells sources apart; in words where it stands out."""
    from scipy.stats import fisher_exact

    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for place, part in enumerate((groups.group, groups.rest)):
        for query in part:
            counts[re.split(r"\d", query.identifier, maxsplit=1)[0].rstrip("-_:./#")][place] += 1
    if not 2 <= len(counts) <= _SOURCES:
        return [], []
    total, rows, sentences = (len(groups.group), len(groups.rest)), [], []
    for name, (inside, outside) in sorted(counts.items(), key=lambda item: -item[1][0] / sum(item[1])):
        share = inside / (inside + outside)
        rows.append([name or "–", inside + outside, Cell(per_cent(share), share)])
        others = [total[0] - inside, total[1] - outside]
        test = fisher_exact([[inside, outside], others], alternative="greater")
        if inside >= _FEWEST and test.pvalue < _P / len(counts):
            told = {"source": name or "–", "share": per_cent(share), "others": per_cent(others[0] / sum(others))}
            sentences.append(words["source_more"].format(group=groups.name, **told))
    columns = [words["source"], (words["queries"], True), (groups.share, True)]
    return sentences, [Table(columns, rows, sortable=True, caption=words["sources_table"])]


def _file_of(set_name: str) -> str:
    """Where the queries of a set stand whole, in the run's folder."""
    return f"eval/{set_name}/{FINAL}/per_query.jsonl"
