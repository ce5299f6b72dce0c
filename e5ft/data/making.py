"""One raw row made a row: texts, passages as objects or by id, hard negatives and scores, as the source's layout says."""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

from e5ft.data.cells import as_label, checked, decoded, is_blank, looks_like_list, text_key
from e5ft.data.column_names import shown_name
from e5ft.data.layouts import unknown_words
from e5ft.data.lines import BadLine, Location, check_text
from e5ft.data.passages import Corpus, as_id, passage_text
from e5ft.data.row_formats import Layout
from e5ft.data.settings import Columns
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.settings import override

_ANSWERS = ("label", "click", "clicked", "selected", "is_selected", "relevant", "is_relevant", "is_positive", "is_correct")
LARGEST_SCORE = 3.4e38  # of float32, in which scores are kept
Rows = Iterator[tuple[Location, dict | BadLine]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A validated row. `positives` is never empty; texts are as in the file (normalised where they are used).

    `scores` are a teacher's, of the positives and then the negatives; empty where there are none. The ids are each text's
    `text_id`, made while the row is checked and empty in a row that was not read from a source. `left_out` are the hard
    negatives of the source that are a document of the row.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    positive_ids: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)
    negative_ids: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)
    left_out: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def shown(self) -> str:
        """The row in a line: the query, the first document, how many there are of what."""
        texts = (repr(text if len(text) <= 40 else f"{text[:37]}...") for text in (self.query, self.positives[0]))
        documents = "" if len(self.positives) == 1 else f" and {len(self.positives) - 1} more"
        scores = ", scores" if self.scores else ""
        count = len(self.negatives)
        return f"{' -> '.join(texts)}{documents}, {count} hard negative{'s' * (count != 1)}{scores}"


class RowMaker:
    """Makes rows of raw ones, and counts what it leaves out."""

    def __init__(self, layout: Layout, columns: Columns, corpus: Corpus | None):
        self.layout, self.columns, self.corpus = layout, columns, corpus
        self.counts: Counter[str] = Counter()
        self._prompt: str | None = None
        self._labels: dict[str, set[int]] = {name: set() for name in layout.ignored_labels}

    def rows(self, source: object, rows: Rows) -> Iterator[tuple[Location, Row | BadLine]]:
        """Yield each row or its fault."""
        for location, value in rows:
            try:
                row = value if isinstance(value, BadLine) else self.row(location, value)
            except BadLine as bad_line:
                row = bad_line
            if self._labels and not isinstance(value, BadLine):
                self._check_ignored(source, value)
            if row is not None:
                yield location, row

    def row(self, location: Location | str, raw: Mapping) -> Row | None:
        """Check one raw row; None where it has no answer by right, as a query that nobody clicked for.

        Raises:
            BadLine: an unknown column, a missing, blank or mistyped field, or scores that are not as many as the texts they
                belong to.
        """
        layout = self.layout
        query = self.query(location, raw)
        if layout.format.name == "msmarco":
            positives, negatives = self._selected(location, raw[layout.document])
        else:
            positives = self._answers(location, raw[layout.document])
            negatives = self._negatives(location, raw)
        if layout.format.name == "clicks":
            positives, negatives = _skipped_above(positives, negatives)
        if not positives:
            if layout.format.name in ("msmarco", "clicks"):
                self.counts["no answer"] += 1
                return None
            raise BadLine(location, f"{layout.document} is an empty list; at least one passage must answer the query")
        if layout.format.name == "flagembedding" and raw.get("prompt"):
            self.counts["prompt"] += 1
            self._prompt = self._prompt or str(raw["prompt"])
        return self.made(location, query, positives, negatives, raw)

    def query(self, location: Location | str, raw: Mapping) -> str:
        """The row's query, once its columns are known to be those of the layout."""
        layout = self.layout
        if not layout.known.issuperset(raw):
            raise BadLine(location, unknown_words([name for name in raw if name not in layout.known], layout, self.columns))
        for name in layout.needs():
            if name not in raw:
                present = ", ".join(map(repr, raw)) or "none"
                raise BadLine(location, f"column {name!r} is missing; there are {present} (data.columns maps names)")
        return checked(location, layout.query, raw[layout.query])

    def made(
        self, location: Location | str, query: str, positives: tuple[str, ...], negatives: tuple[str, ...], raw: Mapping
    ) -> Row:
        """A row, without the negatives that are documents of it, or blank."""
        scores = self._scores(location, raw, len(positives), len(negatives))
        positive_ids, negative_ids, equal = tuple(map(text_id, positives)), tuple(map(text_id, negatives)), ()
        if not all(negatives) or not set(positive_ids).isdisjoint(negative_ids):
            kept = [n for n, identity in enumerate(negative_ids) if negatives[n] and identity not in positive_ids]
            equal = tuple(text for text, identity in zip(negatives, negative_ids, strict=True) if identity in positive_ids)
            self.counts["equal"] += len(equal)
            self.counts["blank"] += negatives.count("")
            negatives, negative_ids = tuple(negatives[n] for n in kept), tuple(negative_ids[n] for n in kept)
            first = len(positives)
            scores = (*scores[:first], *(scores[first + n] for n in kept)) if scores else ()
        return Row(query, positives, negatives, scores, positive_ids, negative_ids, equal)

    def notes(self) -> Iterator[tuple[str, str]]:
        """Yield what was left out, with its count."""
        if (count := self.counts["equal"]) and self.layout.label is not None:
            yield "negatives", f"{count:,} row{'s' * (count > 1)} with a pair labelled both 1 and 0; the 0 is left out"
        elif count:
            what = "hard negatives that equal" if count > 1 else "hard negative that equals"
            yield "negatives", f"{count:,} {what} a document of {'their' if count > 1 else 'its'} row left out"
        if count := self.counts["blank"]:
            yield "negatives", f"{count:,} blank hard negative{'s' * (count > 1)} left out"
        if count := self.counts["no answer"]:
            what = {"clicks": "without a click", "msmarco": "without a selected passage"}.get(self.layout.format.name)
            yield "left out", f"{count:,} quer{'ies' if count > 1 else 'y'} {what or 'without any answer (label 1)'}"
        if count := self.counts["prompt"]:
            typed = override("model.text.query_prefix", self._prompt or "")
            yield "prompt", f"{count:,} rows carry a prompt, which is not used: {typed} puts it before every query"

    def texts(self, location: Location | str, column: str, value: object, blank: bool = False) -> tuple[str, ...]:
        """A column's passages: a string, an object with a text, an id where a corpus is there, or a list of these.

        With `blank` items of a list may be missing; each is "".
        """
        if isinstance(value, str) and value[:1] in "[({a \n":
            value = self._decoded(location, column, value)
        if isinstance(value, dict) and isinstance(value.get("doc_id"), list) and text_key(value) is None:  # SimLM
            value = [{"doc_id": identity} for identity in value["doc_id"]]
        if isinstance(value, list | tuple):
            return tuple(
                "" if blank and is_blank(item) else self._text(location, column, f"{column}[{number}]", item)
                for number, item in enumerate(value)
            )
        return (self._text(location, column, column, value),)

    def _answers(self, location: Location | str, value: object) -> tuple[str, ...]:
        if value is None and self.layout.format.name == "clicks":
            return ()
        return self.texts(location, self.layout.document, value)

    def _negatives(self, location: Location | str, raw: Mapping) -> tuple[str, ...]:
        given = ((name, raw.get(name)) for name in self.layout.negatives)
        found = (self.texts(location, name, value, blank=True) for name, value in given if not is_blank(value))
        if self.layout.format.name == "dpr":  # the first that has any
            return next(filter(any, found), ())
        return tuple(chain.from_iterable(found))

    def _selected(self, location: Location | str, value: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """MS MARCO's passages: those with is_selected 1, and the others; an object of lists, or a list of objects."""
        name = self.layout.document
        if isinstance(value, dict):
            lists = [value.get(key) for key in ("passage_text", "is_selected")]
            if not all(isinstance(each, list) for each in lists) or len(lists[0]) != len(lists[1]):
                raise BadLine(location, f"{name} must hold passage_text and is_selected, two lists of one length")
            pairs = list(zip(*lists, strict=True))
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            pairs = [(item, item.get("is_selected")) for item in value]
        else:
            raise BadLine(location, f"{name} must be an object of lists or a list of objects, this is {type(value).__name__}")
        split: tuple[list[str], list[str]] = ([], [])
        for number, (text, selected) in enumerate(pairs):
            label = as_label(selected)
            if label is None:
                raise BadLine(location, f"{name}[{number}].is_selected must be 0 or 1: {str(selected)[:60]!r}")
            split[label].append(self._text(location, name, f"{name}[{number}]", text))
        return tuple(split[1]), tuple(split[0])

    def _text(self, location: Location | str, column: str, field: str, value: object) -> str:
        if isinstance(value, str) and column not in self.layout.ids:
            return checked(location, field, value)
        identity = as_id(value) if column in self.layout.ids or isinstance(value, dict) else None
        if isinstance(value, dict) and text_key(value) is not None:
            said_no = next((name for name in _ANSWERS if as_label(value.get(name)) == 0), None)
            if said_no is not None and column == self.layout.document and self.layout.format.name not in ("msmarco", "labelled"):
                raise BadLine(
                    location, f"{field}.{said_no} is 0, but a document must answer its query; what does not is a hard negative"
                )
            return passage_text(location, value, field)
        if identity is not None:
            if self.corpus is None:
                key = next(iter(value)) if isinstance(value, dict) else ""
                raise BadLine(
                    location, f"{column} holds passage ids ({key}); must be the passages' texts, or name data.corpus_file"
                )
            text = self.corpus.text(check_text(location, field, identity))
            if text is None:
                raise BadLine(location, f"{column}: no passage of {self.corpus.path} has this id: {identity[:60]!r}")
            return text
        return check_text(location, field, value)  # refuses it

    def _decoded(self, location: Location | str, column: str, cell: str) -> object:
        """The list that a cell holds in a column of such cells; a text otherwise, which must not look like a list."""
        value = decoded(cell) if column in self.layout.encoded else None
        if value is None and looks_like_list(cell):
            remedy = "write lists as JSON (json.dumps), or use Parquet or JSON lines"
            raise BadLine(location, f"{column} looks like a list that was written as text; {remedy}: {cell[:30]!r}")
        return cell if value is None else value

    def _scores(self, location: Location | str, raw: Mapping, positives: int, negatives: int) -> tuple[float, ...]:
        names = [name for name in self.layout.scores if raw.get(name) is not None]
        if not names:
            return ()
        layout, field = self.layout, " + ".join(self.layout.scores)
        value = [number for name in names for number in _numbers(location, name, raw[name])]
        if not value and len(layout.scores) > 1:
            return ()
        if len(value) != positives + negatives:
            raise BadLine(
                location,
                f"{field} holds {len(value)} numbers; must be {positives + negatives}, one for each {layout.document} "
                f"({positives}) and then one for each {', '.join(layout.negatives) or 'hard_negative'} ({negatives})",
            )
        if not all(-LARGEST_SCORE <= v <= LARGEST_SCORE for v in value):
            raise BadLine(location, f"{field} holds NaN, an infinity or a number beyond float32: {str(value)[:60]}")
        return tuple(float(v) for v in value)

    def _check_ignored(self, source: object, raw: Mapping) -> None:
        for name, seen in self._labels.items():
            label = as_label(raw.get(name))
            seen.update(() if label is None else (label,))
            if len(seen) == 2:
                raise DataError(
                    f"{source}: {override('data.columns.ignore', self.columns.ignore)}: {shown_name(name)} holds 0 and 1, and what "
                    f"has 0 would be trained as an answer; do not ignore it: data=labelled reads it (0: a hard negative); if it "
                    "says something else: data.format=standard"
                )


def _skipped_above(clicked: tuple[str, ...], shown: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clicked texts in the order shown, and the texts above the last of them that were seen and not clicked.

    What stands below was perhaps never looked at. Source: Joachims et al. 2005, Accurately Interpreting Clickthrough Data
    as Implicit Feedback ("click > skip above").
    """
    identities = [text_id(text) for text in shown]
    first = {identity: number for number, identity in reversed(list(enumerate(identities)))}
    order = sorted(clicked, key=lambda text: first.get(text_id(text), len(shown)))
    last = max((first.get(text_id(text), -1) for text in clicked), default=-1)
    chosen = {text_id(text) for text in clicked}
    return tuple(order), tuple(
        text for text, identity in zip(shown[: last + 1], identities, strict=False) if identity not in chosen
    )


def _numbers(location: Location | str, name: str, value: object) -> list:
    if isinstance(value, str):  # a table's cell
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise BadLine(location, f"{name} must be a list of numbers or null, this is {str(value)[:60]!r}")
    return list(value)
