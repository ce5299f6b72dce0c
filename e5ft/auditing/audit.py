"""The audit: every family of checks over the rows, and what it says in figures, examples and rows that can go."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from e5ft.auditing.duplicates import Duplicates
from e5ft.auditing.kinds import KINDS
from e5ft.auditing.languages import counts_by_role, languages_of, other_languages
from e5ft.auditing.negatives import negative_faults
from e5ft.auditing.rows import DOCUMENT, NEGATIVE, QUERY, SURE, AuditedRows, Finding, LeftOut, field_name
from e5ft.auditing.searched import QUERIES, Searched, search
from e5ft.auditing.tokens import Lengths, lengths_of
from e5ft.auditing.writing import text_faults
from e5ft.data.rows import Row
from e5ft.data.text import text_id
from e5ft.retrieval.overlap import Overlap, overlaps
from e5ft.retrieval.sets import RetrievalSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from e5ft.data.text import TextSpec
    from e5ft.modeling.encoder import Encoder

EXAMPLES = 20  # of each kind, in full
PLACES = 10_000  # of each kind that are listed
_REUSED = 10  # documents that most rows have
_BROKEN = ("mojibake", "empty", "boilerplate")
# What one fault of a text makes look like another, is told once.
_EXPLAINED = {
    "label_error": _BROKEN,
    "hardly_found": _BROKEN,
    "language": _BROKEN,
    "empty": ("mojibake",),
    "cut_off": _BROKEN,
    "near_document": ("empty", "boilerplate"),
}


@dataclasses.dataclass(frozen=True)
class Removal:
    """What a cleaned copy leaves out: a row, or one of its documents or hard negatives (`field`), and for which fault."""

    row: int
    field: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found in rows.

    Attributes:
        rows: what was audited.
        left_out: what reading left out before.
        findings: kind -> its findings, the worst first; kinds without any are absent.
        searched: what searching told.
        overlaps: of the evaluation sets; empty where none is named.
        languages: role -> language -> texts.
        lengths: source -> role -> lengths.
        removals: what a cleaned copy leaves out.
        source_names: of a mix; one name otherwise.
    """

    rows: AuditedRows
    left_out: LeftOut
    findings: dict[str, list[Finding]]
    searched: Searched
    overlaps: tuple[Overlap, ...]
    languages: dict[str, dict[str, int]]
    lengths: dict[str, dict[str, Lengths]]
    removals: tuple[Removal, ...]
    source_names: tuple[str, ...]

    @property
    def read(self) -> int:
        """Rows read, those that cannot be used included."""
        return len(self.rows) + len(self.left_out.bad)

    def count(self, kind: str) -> int:
        """How many rows have a kind of fault."""
        bad = len(self.left_out.bad) if kind == "unreadable" else 0
        return bad + len({finding.row for finding in self.findings.get(kind, ())})

    def kinds(self) -> list[str]:
        """The kinds that were found, in the order in which they are told."""
        return [kind for kind in KINDS if self.count(kind)]

    def faulty(self, certain: bool) -> int:
        """How many rows have a fault that is certain, or a suspected one; what needs a model is neither."""
        found = [finding.row for kind, all_of in self.findings.items() if KINDS[kind].certain == certain for finding in all_of]
        return len(set(found)) + (len(self.left_out.bad) if certain else 0)

    def facts(self) -> dict:
        """Counts of the rows, as plain values."""
        rows, documents = self.rows, self.rows.uses[DOCUMENT]
        asked = rows.same[rows.uses[QUERY].numbers]
        queries, passages = rows.answers()
        uses = Counter(rows.same[documents.numbers].tolist())
        return {
            "rows": len(rows),
            "unreadable": len(self.left_out.bad),
            "queries": len(np.unique(asked)),
            "documents": len(uses),
            "hard_negatives": len(rows.uses[NEGATIVE].numbers),
            "rows_with_hard_negatives": len(np.unique(rows.uses[NEGATIVE].rows)),
            "queries_with_several_documents": int((np.unique(queries, return_counts=True)[1] > 1).sum()),
            "documents_of_several_queries": int((np.unique(passages, return_counts=True)[1] > 1).sum()),
            "most_reused": [{"rows": n, "document": rows.texts[number]} for number, n in uses.most_common(_REUSED) if n > 1],
        }

    def examples(self, kind: str) -> list[dict]:
        """The worst examples of a kind in full, as plain values."""
        if kind == "unreadable":
            return [{"place": str(bad.location), "evidence": bad.words} for bad in self.left_out.bad[:EXAMPLES]]
        shown, seen = [], set()
        for finding in self.findings.get(kind, ()):
            key = (
                finding.text if kind in ("prefix", "nfd", "mojibake", "html", "empty", "boilerplate", "cut_off") else finding.row
            )
            if key not in seen and len(shown) < EXAMPLES:  # twenty uses of one faulty text are one example
                seen.add(key)
                shown.append(self._example(finding))
        return shown

    def _example(self, finding: Finding) -> dict:
        rows, text = self.rows, finding.text
        roles = {role: [rows.texts[number] for number in rows.of_row(role, finding.row)] for role in (DOCUMENT, NEGATIVE)}
        return {
            "place": rows.place(finding.row),
            "field": finding.field,
            "text": rows.texts[text] if isinstance(text, int) else text,
            "evidence": finding.evidence,
            "query": rows.texts[int(rows.uses[QUERY].numbers[finding.row])],
            **roles,
        }

    def to_dict(self) -> dict:
        """The whole audit as plain values, for audit.json."""
        faults = {}
        for kind in self.kinds():
            found = dict.fromkeys(finding.row for finding in self.findings.get(kind, ()))
            places = [str(bad.location) for bad in self.left_out.bad] if kind == "unreadable" else map(self.rows.place, found)
            faults[kind] = {
                "rows": self.count(kind),
                "share": round(self.count(kind) / max(self.read, 1), 6),
                "certain": KINDS[kind].certain,
                "meaning": KINDS[kind].meaning("en"),
                "remedy": KINDS[kind].remedy("en"),
                "examples": self.examples(kind),
                "places": [place for place, _ in zip(places, range(PLACES), strict=False)],
            }
        searched = {name: value for name, value in vars(self.searched).items() if name != "faults"}
        return {
            **self.facts(),
            "faults": faults,
            "searched": searched,
            "overlap": [dataclasses.asdict(overlap) for overlap in self.overlaps],
            "languages": self.languages,
            "lengths": {name: {r: dataclasses.asdict(of) for r, of in roles.items()} for name, roles in self.lengths.items()},
            "removals": self._removals(),
        }

    def _removals(self) -> dict:
        """What a cleaned copy leaves out: counted by kind, and each with its place."""
        listed = [{"place": str(bad.location), "what": "row", "fault": "unreadable"} for bad in self.left_out.bad]
        listed += [
            {"place": place, "what": NEGATIVE, "fault": "negative_equals"}
            for place, equal in self.left_out.equal.items()
            for _ in equal
        ]
        listed += [
            {"place": self.rows.place(removal.row), "what": removal.field or "row", "fault": removal.kind}
            for removal in self.removals
        ]
        return {"counts": dict(Counter(entry["fault"] for entry in listed)), "listed": listed}

    def clean(self) -> Iterator[Row]:
        """The rows without what is to be removed."""
        gone = {removal.row for removal in self.removals if not removal.field}
        out = defaultdict(set)
        for removal in self.removals:
            out[removal.row].add(removal.field)
        for number, row in enumerate(self.rows.store):
            if number in gone:
                continue
            kept = [
                [n for n in range(len(texts)) if field_name(role, n) not in out[number]]
                for role, texts in ((DOCUMENT, row.positives), (NEGATIVE, row.negatives))
            ]
            positives, negatives = (
                tuple(texts[n] for n in of) for texts, of in zip((row.positives, row.negatives), kept, strict=True)
            )
            scores = row.scores and tuple(row.scores[n] for n in (*kept[0], *(len(row.positives) + n for n in kept[1])))
            yield dataclasses.replace(row, positives=positives, negatives=negatives, scores=scores)


def audit(
    rows: AuditedRows,
    left_out: LeftOut,
    *,
    sets: Sequence[tuple[str, RetrievalSet]] = (),
    queries: int | None = QUERIES,
    seed: int = 0,
    encoder: "Encoder | None" = None,
    label: str = "",
    reads: "tuple[PreTrainedTokenizerFast, TextSpec] | None" = None,
    source_names: Sequence[str] = ("",),
) -> Audit:
    """Look at rows.

    Args:
        rows: as they were read.
        left_out: by reading.
        sets: evaluation sets, each with its role (`e5ft.retrieval.overlap`).
        queries: so many are searched with; None: all.
        seed: chooses them.
        encoder: searches, too; and `label`, its name.
        reads: a model's tokenizer and text format, which count tokens.
        source_names: of the sources of a mix.
    """
    leaked: dict[int, str] = {}
    shared = overlaps(sets, rows.store, leaked) if sets else ()
    languages = languages_of(rows)
    searched = search(rows, seed=seed, queries=queries, encoder=encoder, label=label)
    lengths, too_long = lengths_of(rows, source_names, reads)
    every = [
        *text_faults(rows),
        *Duplicates(rows).faults(),
        *negative_faults(rows, left_out.equal, seed),
        *other_languages(rows, languages),
        *_leaks(rows, leaked),
        *too_long,
        *searched.faults,
    ]
    faulty: dict[tuple[int, str], set[str]] = defaultdict(set)
    for finding in every:
        faulty[finding.row, finding.field].add(finding.kind)
    findings: dict[str, list[Finding]] = defaultdict(list)
    for finding in every:
        if faulty[finding.row, finding.field].isdisjoint(_EXPLAINED.get(finding.kind, ())):
            findings[finding.kind].append(finding)
    for found in findings.values():
        found.sort(key=lambda finding: -finding.weight)
    removals = tuple(_removals(rows, findings))
    counts = counts_by_role(rows, languages)
    return Audit(rows, left_out, dict(findings), searched, shared, counts, lengths, removals, tuple(source_names))


def _leaks(rows: AuditedRows, leaked: Mapping[int, str]) -> Iterator[Finding]:
    numbers = rows.uses[QUERY].numbers
    for row, identity in enumerate(rows.identities[numbers].tolist()):
        if identity in leaked:
            weight = SURE if text_id(leaked[identity]) == identity else 0.0
            yield Finding("overlap", row, QUERY, int(numbers[row]), leaked[identity], weight)


def _removals(rows: AuditedRows, findings: Mapping[str, list[Finding]]) -> Iterator[Removal]:
    """Rows, documents and hard negatives that no reading would keep; each row once, for its first reason."""
    gone: dict[int, str] = {finding.row: "exact_duplicate" for finding in findings.get("exact_duplicate", ())}
    gone |= {finding.row: "overlap" for finding in findings.get("overlap", ()) if finding.weight >= SURE}
    empty = findings.get("empty", ())
    documents = Counter(finding.row for finding in empty if finding.field.startswith(DOCUMENT))
    gone |= {row: "empty" for row, count in documents.items() if count == len(rows.of_row(DOCUMENT, row))}
    # A query of a word such as "test" may be meant.
    queries = [finding.row for finding in empty if finding.field == QUERY and not any(map(str.isalnum, rows.texts[finding.text]))]
    gone |= dict.fromkeys(queries, "empty")
    yield from (Removal(row, "", kind) for row, kind in sorted(gone.items()))
    told = set()
    for kind in ("negative_answers", "empty"):
        for finding in findings.get(kind, ()):
            is_out = finding.field != QUERY and (kind == "empty" or finding.weight >= SURE)
            if is_out and finding.row not in gone and (finding.row, finding.field) not in told:
                told.add((finding.row, finding.field))
                yield Removal(finding.row, finding.field, kind)
