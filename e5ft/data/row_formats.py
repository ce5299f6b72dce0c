"""The formats of rows that are known in the field, and what each makes of the columns of a source."""

import dataclasses
from collections.abc import Iterator, Sequence

from e5ft.data.column_names import (
    DOCUMENTS,
    FIRST_SENTENCES,
    NEGATIVE_IDS,
    NEGATIVES,
    PASSAGE_IDS,
    QUERIES,
    SECOND_SENTENCES,
    is_label,
    numbered,
    present,
    shown_name,
    some,
)
from e5ft.data.settings import Columns


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of rows.

    Attributes:
        name: as `data.format` has it.
        words: what the header calls it.
        query, document: names that the column may have.
        negatives: columns of hard negatives, each of which may be absent.
        counted: negative_1, negative_2, ... are hard negatives, too.
        scores: columns whose lists are, end to end, a teacher's scores.
        labelled: whether there is a column of 0/1.
        others: columns that may be there and are not read.
    """

    name: str
    words: str
    query: Sequence[str]
    document: Sequence[str]
    negatives: Sequence[str] = ()
    counted: bool = False
    scores: Sequence[str] = ()
    labelled: bool = False
    others: Sequence[str] = ()

    def readings(self, names: Sequence[str], columns: Columns) -> "Iterator[Layout]":
        """Yield the ways in which columns of these names can be read; a named column is taken as it is."""
        ignored = frozenset(columns.ignore)
        names = [name for name in names if name not in ignored]
        queries = [columns.query] if columns.query else present(self.query, names)
        documents = [columns.document] if columns.document else present(self.document, names)
        labels = [name for name in names if is_label(name)] or ["label"]
        given = columns.hard_negative
        found = [*present(self.negatives, names), *(numbered(names) if self.counted else ())]
        negatives = found if given is None else given if isinstance(given, tuple) else [given]
        spelt = (next(iter(present([name], names)), name) for name in self.scores if name not in ignored)
        scores = (columns.scores,) if columns.scores else tuple(spelt)
        for query in queries or self.query[:1]:
            for document in documents or self.document[:1]:
                for label in labels if self.labelled else [None]:
                    roles = (query, document, *negatives, *scores, *filter(None, [label]))
                    if query in FIRST_SENTENCES and query[:-1] != document[:-1]:
                        continue
                    if len(set(roles)) == len(roles):
                        known = frozenset((*roles, *self.others, *present(self.others, names), *columns.ignore))
                        yield Layout(self, query, document, tuple(negatives), scores, label, known)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One source's columns and what each is.

    Attributes:
        format: that they belong to.
        query, document: one column each.
        negatives: columns of hard negatives, in order; each may be absent.
        scores: columns whose lists are, end to end, a teacher's scores; each may be absent.
        label: the column of 0/1; None where there is none.
        known: every column that may be there.
        encoded: columns in which lists stand as text.
        ids: columns in which passages stand by id.
        ignored_labels: columns that are left out, but whose 0/1 would make wrong answers of rows.
    """

    format: Format
    query: str
    document: str
    negatives: tuple[str, ...]
    scores: tuple[str, ...]
    label: str | None
    known: frozenset[str]
    encoded: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    ignored_labels: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.query, self.document, *self.negatives, *self.scores, *filter(None, [self.label]))

    def needs(self) -> tuple[str, ...]:
        """The columns that must be there."""
        return (self.query, self.document, *filter(None, [self.label]))

    def described(self, names: Sequence[str]) -> str:
        """What is read as what, for a header line."""
        read = [name for name in self.roles if name in names]
        left = [name for name in names if name not in self.roles]
        text = f"{', '.join(read)}{f': {self.format.words}' if self.format.words else ''}"
        if self.format.name in ("standard", "named") and tuple(read) != STANDARD_NAMES[: len(read)]:
            negatives = f", {', '.join(map(shown_name, self.negatives))} hard negatives" if self.negatives else ""
            has = any(name in names for name in self.negatives)
            text = f"{shown_name(self.query)} is the query, {shown_name(self.document)} the document{negatives if has else ''}"
        parts = [text] + ([f"not read: {some(left, shown_name)}"] if left else [])
        encoded = [name for name in self.roles if name in self.encoded]
        return "; ".join(parts + ([f"{', '.join(encoded)}: lists written as text are read as lists"] if encoded else []))


STANDARD_NAMES = ("query", "document", "hard_negative", "scores")
FORMATS = (
    Format("standard", "", ("query",), ("document",), ("hard_negative",), scores=("scores",), others=("mining",)),
    Format(
        "sentence_transformers",
        "sentence-transformers' pairs, triplets or n-tuples",
        ("anchor",),
        ("positive",),
        ("negative",),
        True,
        scores=("scores",),
    ),
    Format(
        *("flagembedding", "FlagEmbedding's rows", ("query",), ("pos",), ("neg",)),
        scores=("pos_scores", "neg_scores"),
        others=("prompt", "type", "id", "pos_id", "neg_id"),
    ),
    Format(
        *("tevatron", "Tevatron's rows", ("query", "query_text")),
        *(("positive_passages", "positive_document_ids"), ("negative_passages", "negative_document_ids")),
        others=("query_id", "query_image", "answer", "answers", "source"),
    ),
    Format("simlm", "SimLM's rows", ("query",), ("positives",), ("negatives",), others=("query_id", "answers")),
    Format(
        *("dpr", "DPR's rows", ("question",), ("positive_ctxs",), ("hard_negative_ctxs", "negative_ctxs")),
        others=("answers", "dataset", "question_id"),
    ),
    Format(
        *("msmarco", "MS MARCO's rows", ("query",), ("passages",)),
        others=("query_id", "query_type", "answers", "wellFormedAnswers", "well_formed_answers"),
    ),
    Format("clicks", "a click log", ("query",), ("clicked",), ("shown",)),
    Format(
        *("labelled", "labelled pairs, 1 an answer and 0 a hard negative of the query"),
        *((*QUERIES, *FIRST_SENTENCES), (*DOCUMENTS, *SECOND_SENTENCES)),
        labelled=True,
    ),
    Format("named", "", QUERIES, (*DOCUMENTS, *PASSAGE_IDS), (*NEGATIVES, *NEGATIVE_IDS), True, scores=("scores",)),
)
BY_NAME = {each.name: each for each in FORMATS}
