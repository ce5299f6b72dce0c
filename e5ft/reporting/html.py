"""The page kit: one self-contained HTML text of sections and blocks, which fetches nothing and shows every text as text."""

import base64
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e5ft.reporting.words import KIT

SHOWN = 25  # rows of a table seen at once; a button shows as many more
LONGEST = 120  # characters of a cell that are seen at once; the rest opens on a click


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph.

    Attributes:
        text: plain; line ends are kept.
        tone: "" of usual text, "note" of what is by the way, "good" or "bad" of a finding.
    """

    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is seen.
        value: by which its column is sorted; None: below all others. Cells that are plain numbers or texts sort by themselves.
        hint: seen when the pointer rests on it, and read out by a screen reader; None: nothing.
        tone: "good" or "bad" colours it; "" does not.
    """

    text: str
    value: float | str | None = None
    hint: str | None = None
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        numeric: aligned to the right, sorted by number.
        wide: holds texts of some length, and is given the room.
    """

    name: str
    numeric: bool = False
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first column names its rows.

    Attributes:
        columns: as `Column`, as (name, numeric), or as a plain name of a column of texts.
        rows: of as many cells as there are columns: str, a number (as it is: format it in a `Cell`), None (empty) or `Cell`.
        sortable: a click on a heading sorts.
        filters: names of the columns by whose texts the rows are filtered, a list to choose from each; of few different texts.
        search: a field looks for rows that hold all its words.
        caption: what the table shows, in one line; also its name for a screen reader.
        stacked: on a narrow screen a row becomes a card with the columns' names, for tables of texts; else the table scrolls.
    """

    columns: Sequence[Column | tuple[str, bool] | str]
    rows: Sequence[Sequence[Any]]
    sortable: bool = False
    filters: Sequence[str] = ()
    search: bool = False
    caption: str = ""
    stacked: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        svg: of a function of `plots`: trusted, and put into the page as it is.
        caption: seen below it.
        description: what one would see in it, in a sentence with its figures, for those who do not.
    """

    svg: str
    caption: str
    description: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and values, one pair a line.

    Attributes:
        pairs: (name, value), both shown as text.
    """

    pairs: Sequence[tuple[str, Any]]


@dataclasses.dataclass(frozen=True)
class Code:
    """A command or a file's text, in the letters of a terminal.

    Attributes:
        text: its lines.
    """

    text: str


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that a click opens.

    Attributes:
        summary: what is seen before.
        blocks: of any kind, `Details` too.
    """

    summary: str
    blocks: Sequence[Any]


Block = Paragraph | Table | Figure | Facts | Code | Details


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page, which its list of contents leads to.

    Attributes:
        heading: of the part.
        blocks: in their order.
    """

    heading: str
    blocks: Sequence[Block]


def render(title: str, language: str, verdict: str, sections: Sequence[Section], *, tone: str = "") -> str:
    """A page as one HTML text: styles, script and pictures are in it, and its policy lets the browser load nothing else.

    Args:
        title: heading of the page and name of its tab.
        language: "ko" or "en" (`words.page_language` chooses): of the kit's own words, and what the page says it is written in.
        verdict: one sentence that comes first.
        sections: the parts.
        tone: "good", "bad" or "": the colour of the verdict's edge.

    Raises:
        ValueError: a row has more or fewer cells than its table has columns, or a filter names no column.
    """
    return _template().render(
        title=title,
        language=language,
        verdict=verdict,
        tone=tone,
        sections=sections,
        words=KIT[language],
        policy=_policy(),
        styles=_file("page.css"),
        script=_file("page.js"),
        kind=lambda block: type(block).__name__.lower(),
        prepared=_prepared,
        shown=SHOWN,
        parted=_parted,
    )


def number(value: float | None, form: str = ".3f") -> Cell:
    """A cell with a number in some format, which sorts by its value; a dash where there is none.

    Args:
        value: the number.
        form: of `format`.
    """
    return Cell("–") if value is None else Cell(format(value, form).replace("-", "−"), value)


def cut(text: str, length: int = 400) -> str:
    """The first characters of a text, with three dots where it was cut."""
    return text if len(text) <= length else f"{text[:length].rstrip()}…"


def _parted(text: str) -> tuple[str, str]:
    """What of a cell's text is seen at once, and the rest: parted between words where there are some."""
    if len(text) <= LONGEST:
        return text, ""
    place = text.rfind(" ", LONGEST // 2, LONGEST)
    place = LONGEST if place < 0 else place
    return text[:place], text[place:]


def _prepared(table: Table) -> dict[str, Any]:
    """A table's columns and cells in one form each, and what its filters offer."""
    columns = [c if isinstance(c, Column) else Column(c) if isinstance(c, str) else Column(*c) for c in table.columns]
    rows = [[_cell(value) for value in row] for row in table.rows]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"{table.caption or columns[0].name}: each row must have {len(columns)} cells")
    places = [[column.name for column in columns].index(name) for name in table.filters]
    choices = [(place, columns[place].name, list(dict.fromkeys(row[place].text for row in rows))) for place in places]
    return {"columns": columns, "rows": rows, "filters": choices}


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(str(value), value)
    return Cell("" if value is None else str(value))


@functools.cache
def _policy() -> str:
    """What the page may load: its own style and script, by their hashes."""
    hashes = (base64.b64encode(hashlib.sha256(_file(name).encode()).digest()).decode() for name in ("page.css", "page.js"))
    styles, script = (f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; style-src {styles}; script-src {script}; img-src data:; base-uri 'none'; form-action 'none'"


@functools.cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Any:
    import jinja2

    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), **options).get_template("page.html")
