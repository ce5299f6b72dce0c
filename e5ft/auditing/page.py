"""The audit for a person: a page with what was found, the worst examples in full and what to do, and the same in a few lines."""

from collections.abc import Iterator

import numpy as np

from e5ft.auditing.audit import Audit
from e5ft.auditing.kinds import KINDS
from e5ft.auditing.searched import DEPTH
from e5ft.auditing.words import WORDS
from e5ft.formatting import portable
from e5ft.reporting.html import Cell, Column, Details, Facts, Figure, Paragraph, Section, Table, number, render
from e5ft.reporting.plots import histogram
from e5ft.reporting.words import page_language

_LOOKED_AT = 200  # texts by which the page's language is chosen
_REMOVALS = 500  # shown on the page
_LONGEST = 0.99  # quantile of the lengths at which their picture ends


def page(audit: Audit, name: str, language: str, cleaned: str | None = None) -> str:
    """The page as one HTML text.

    Args:
        audit: what was found.
        name: of the rows.
        language: auto (Korean where some of the rows are), ko or en.
        cleaned: the file of the cleaned copy; None: none was written.
    """
    language = page_language(language, audit.rows.texts[:_LOOKED_AT])
    words = WORDS[language]
    sections = [
        Section(words["found"], [*_found(audit, language), *_not_looked_at(audit, words)]),
        *([Section(words["examples"], list(_examples(audit, language)))] if audit.kinds() else []),
        Section(words["rows"], list(_rows(audit, words))),
        Section(words["search"], [Paragraph(text) for text in _searched(audit, words)]),
        *([Section(words["overlap"], list(_overlap(audit, words)))] if audit.overlaps else []),
        Section(words["lengths"], list(_lengths(audit, words))),
        Section(words["languages"], [_languages(audit, words)]),
        Section(words["enough"], [Paragraph(words["rule"].format(queries=f"{audit.facts()['queries']:,}"))]),
        *([Section(words["removed"], list(_removed(audit, language, cleaned)))] if cleaned else []),
    ]
    tone = "bad" if audit.faulty(certain=True) else "" if audit.kinds() else "good"
    return render(words["title"].format(name=portable(name)), language, verdict(audit, language), sections, tone=tone)


def verdict(audit: Audit, language: str) -> str:
    """The audit in one sentence."""
    words, kinds = WORDS[language], audit.kinds()
    text = ""
    for certain in (True, False):
        count = sum(KINDS[kind].certain == certain for kind in kinds)
        faulty, rows = audit.faulty(certain), f"{audit.read:,}"
        named = words["kinds"][count != 1].format(n=count)
        given = {"kinds": named, "faulty": f"{faulty:,}", "rows": rows, "share": _percent(faulty, audit.read)}
        if certain:
            text = words["certain" if count else "clean"].format(**given)
        else:
            text += words["suspected"].format(**given) if count else words["end"]
    return text


def summary(audit: Audit) -> str:
    """The lines that a command prints."""
    facts, words = audit.facts(), WORDS["en"]
    counts = ", ".join(f"{facts[key]:,} {name}" for key, name in words["counts"].items() if facts[key])
    lines = [f"  rows        {counts}"]
    lines += [f"  {'search':<10}  {text}" for text in _searched(audit, words)]
    lines += [f"  overlap     {overlap.sentence}" for overlap in audit.overlaps if overlap.sentence]
    for source, roles in audit.lengths.items():
        for role, of in roles.items():
            if of.tokens is not None:
                text = f"{of.total_tokens:,} tokens, median {of.tokens[2]}, longest {of.tokens[-1]}, {of.cut:.1%} cut off"
                lines.append(f"  tokens      {f'{source}, ' if source else ''}{words['roles'][role]}: {text}")
    kinds = audit.kinds()
    if kinds:
        width = max(len(KINDS[kind].title("en")) for kind in kinds)
        lines += ["", f"  {'fault':<{width}}  {'rows':>7}  {'share':>6}  first"]
    for kind in kinds:
        count = audit.count(kind)
        [first] = audit.examples(kind)[:1]
        sure = "" if KINDS[kind].certain else f" ({words['sure'][KINDS[kind].certain]})"
        lines.append(
            f"  {KINDS[kind].title('en'):<{width}}  {count:>7,}  {_percent(count, audit.read):>6}  {first['place']}{sure}"
        )
    return "\n".join([*lines, "", verdict(audit, "en")])


def _found(audit: Audit, language: str) -> Iterator[Table | Paragraph]:
    words, kinds = WORDS[language], audit.kinds()
    if not kinds:
        yield Paragraph(words["none"].format(n=len(KINDS)), "good")
        return
    name, rows, share, sure, meaning, remedy = words["columns"]
    columns = [Column(name), Column(rows, numeric=True), Column(share, numeric=True), Column(sure), Column(meaning, wide=True)]
    lines = []
    for kind in kinds:
        told, count = KINDS[kind], audit.count(kind)
        tone = "bad" if told.certain else ""
        part = Cell(_percent(count, audit.read), count / audit.read)
        texts = (told.meaning(language), told.remedy(language))
        lines.append([Cell(told.title(language), tone=tone), number(count, ","), part, words["sure"][told.certain], *texts])
    yield Table([*columns, Column(remedy, wide=True)], lines, sortable=True, stacked=True)


def _not_looked_at(audit: Audit, words: dict) -> Iterator[Paragraph]:
    missing = [words["no_sets"]] * (not audit.overlaps) + [words["no_model"]] * (audit.searched.model is None)
    if missing:
        yield Paragraph(words["asked"].format(what="; ".join(missing)), "note")


def _examples(audit: Audit, language: str) -> Iterator[Details]:
    words = WORDS[language]
    place, where, text, evidence, query = words["example_columns"]
    columns = [Column(place), Column(where), Column(text, wide=True), Column(evidence, wide=True), Column(query, wide=True)]
    for kind in audit.kinds():
        shown = audit.examples(kind)
        texts = [[each.get(name, "") for name in ("text", "evidence", "query")] for each in shown]
        rows = [[portable(each["place"]), _field(each, words), *some] for each, some in zip(shown, texts, strict=True)]
        told = words["shown"].format(title=KINDS[kind].title(language), shown=len(shown), rows=f"{audit.count(kind):,}")
        about = Paragraph(f"{KINDS[kind].meaning(language)} {KINDS[kind].remedy(language)}")
        yield Details(told, [about, Table(columns, rows, search=len(rows) > 5, stacked=True)])


def _field(example: dict, words: dict) -> str:
    role, _, number = example.get("field", "").partition(" ")
    return " ".join(filter(None, (words["fields"].get(role, ""), number)))


def _rows(audit: Audit, words: dict) -> Iterator[Facts | Table]:
    facts = audit.facts()
    yield Facts([(name, f"{facts[key]:,}") for key, name in words["counts"].items()])
    if facts["most_reused"]:
        count, document = words["reused_columns"]
        rows = [[each["rows"], each["document"]] for each in facts["most_reused"]]
        yield Table([Column(count, numeric=True), Column(document, wide=True)], rows, caption=words["reused"])


def _searched(audit: Audit, words: dict) -> Iterator[str]:
    of = audit.searched
    missing = of.queries - of.found
    given = {"first": f"{of.first:,}", "queries": f"{of.queries:,}", "missing": f"{missing:,}", "documents": f"{of.documents:,}"}
    shares = {"first_share": _percent(of.first, of.queries), "missing_share": _percent(missing, of.queries)}
    sampled = words["sampled"].format(total=f"{of.total:,}") if of.queries < of.total else ""
    yield words["bm25"].format(**given, **shares, depth=DEPTH) + sampled
    if of.model is not None:
        yield words["model"].format(model=of.model, first=f"{of.model_first:,}", share=_percent(of.model_first, of.queries))


def _overlap(audit: Audit, words: dict) -> Iterator[Paragraph]:
    for overlap in audit.overlaps:
        if not overlap.sentence:
            yield Paragraph(words["no_overlap"].format(names=overlap.set), "good")
            continue
        passages = overlap.shared_judged + overlap.near_judged
        queries = {"shared": overlap.shared_queries, "near": overlap.near_queries, "queries": overlap.queries}
        counts = {"set": overlap.set, "judged": overlap.judged, "passages": passages, **queries}
        yield Paragraph(words["shared"].format(**counts), "bad" if overlap.leaks else "")


def _lengths(audit: Audit, words: dict) -> Iterator[Table | Figure]:
    source, texts, count, unit, *ends, cut = words["length_columns"]
    rows = []
    for name, roles in audit.lengths.items():
        for role, of in roles.items():
            kinds = zip(words["units"], (of.characters, of.tokens), (None, of.cut), strict=True)
            for label, quantiles, share in kinds:
                if quantiles is not None:
                    part = "" if share is None else Cell(f"{share:.1%}", share)
                    rows.append(
                        [name, words["roles"][role], number(of.texts, ","), label, *(number(q, ",") for q in quantiles), part]
                    )
    columns = [
        source,
        texts,
        Column(count, numeric=True),
        unit,
        *(Column(end, numeric=True) for end in ends),
        Column(cut, numeric=True),
    ]
    skipped = 1 if list(audit.lengths) == [""] else 0  # one source needs no name
    yield Table(columns[skipped:], [row[skipped:] for row in rows])
    x, y, caption, description = words["histogram"]
    sizes = np.array([len(text) for text in audit.rows.texts])
    values = {words["roles"][role]: sizes[uses.numbers] for role, uses in audit.rows.uses.items() if len(uses.numbers)}
    shown = {name: lengths[lengths <= np.quantile(lengths, _LONGEST)] for name, lengths in values.items()}
    medians = ", ".join(f"{name} {int(np.median(lengths)):,}" for name, lengths in values.items())
    yield Figure(histogram(shown, x, y), caption, description.format(medians=medians))


def _languages(audit: Audit, words: dict) -> Table:
    texts, language, count, share = words["language_columns"]
    rows = [
        [words["roles"][role], name or words["unknown"], number(n, ","), Cell(_percent(n, sum(counts.values())), n)]
        for role, counts in audit.languages.items()
        for name, n in counts.items()
    ]
    return Table([texts, language, Column(count, numeric=True), Column(share, numeric=True)], rows, sortable=True)


def _removed(audit: Audit, language: str, cleaned: str) -> Iterator[Paragraph | Facts | Details]:
    words, removals = WORDS[language], audit.to_dict()["removals"]
    kept = sum(1 for _ in audit.clean())
    yield Paragraph(words["removal"].format(kept=f"{kept:,}", rows=f"{audit.read:,}", file=portable(cleaned)))
    if removals["counts"]:
        yield Facts([(KINDS[kind].title(language), f"{count:,}") for kind, count in removals["counts"].items()])
        rows = [
            [portable(each["place"]), each["what"], KINDS[each["fault"]].title(language)]
            for each in removals["listed"][:_REMOVALS]
        ]
        yield Details(words["removal_columns"][0], [Table(list(words["removal_columns"]), rows, search=True)])


def _percent(part: int, whole: int) -> str:
    share = part / max(whole, 1)
    return f"{share:.1%}" if share >= 0.001 or not part else "<0.1%"
