"""Ground floor: numbers and texts as a person or a page shows them."""

import os
import re
from collections.abc import Sequence
from pathlib import PurePath


def duration(seconds: float) -> str:
    """Return a time as 12 s, 3 min 20 s or 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def size(count: float) -> str:
    """Return a number of bytes as 1.2 GB or 35 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def portable(name: str) -> str:
    """A name as it may leave this machine: of a path from its root, or out of the folder, the last part; the rest says nothing elsewhere."""
    path = PurePath(name)
    return path.name if path.is_absolute() or ".." in path.parts else name


def shareable(text: object) -> str:
    """A text or path as it may be sent to others: what is below the working directory relative to it, below the home folder with ~."""
    text = os.path.abspath(text) if isinstance(text, PurePath) else str(text)
    for place, instead in ((os.getcwd(), "."), (os.path.expanduser("~"), "~")):
        if os.path.isabs(place) and len(place) > 1:
            pattern = rf"(?:(?<=file://)|(?<![\w.~/-])){re.escape(place)}(?:(/)|(?![\w.-]))"
            text = re.sub(pattern, lambda found, way=instead: way if not found[1] else "" if way == "." else f"{way}/", text)
    return text


def harmless(value: object) -> object:
    """A cell of a CSV that no spreadsheet takes for a formula; a number with a sign is none."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=@\t\r\n＝＠＋－]|[+-](?![\d.]+(e[+-]?\d+)?$)", value) else value


# Characters with a meaning in Markdown, HTML, a table or a code span, and the HTML entity that shows them.
_ESCAPES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>`|\\"})


def inline(text: object) -> str:
    """Return a value as one line that Markdown and HTML show as text: no markup, no link, no character that hides."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return line.translate(_ESCAPES).replace("](", "]&#40;")


def markdown_table(rows: Sequence[Sequence[object]], text_columns: int = 1) -> str:
    """Rows as a Markdown table; whatever is in a cell is shown as text.

    Args:
        rows: the head first; all of one length.
        text_columns: how many columns, from the left, are aligned left; the others are aligned right.

    Returns:
        The lines, without a last line end.
    """
    head, *rest = ["| " + " | ".join(map(inline, row)) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * text_columns + "---:|" * (len(rows[0]) - text_columns), *rest])
