"""What a cell holds that is no text: an encoded list, a passage as an object, a word for a missing value, an id, a label."""

import ast
import json
import re
import warnings

from e5ft.data.lines import BadLine, Location, check_text

TEXT_KEYS = ("text", "contents", "content", "body", "passage_text", "passage")
# fmt: off
NULL_WORDS = frozenset((
    "None", "none", "nan", "NaN", "NAN", "NaT", "NULL", "null", "<NA>", "N/A",
    "#N/A", "nil", "\\N", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!",
))
# fmt: on
_LONGEST_NULL_WORD = 2 + max(map(len, NULL_WORDS))
_QUOTED = r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
# A list of quoted items as Python or numpy writes it; a text may begin with a bracket, too: "[공지] ... [끝]".
_LIST = re.compile(rf"""\s*(?:array\()?[\[{{]\s*(?:{_QUOTED}|nan|None)\s*(?:,|['"]|\.\.\.|[\]}}]\)?\s*$|\],)""", re.DOTALL)
_ID = re.compile(r"[\w\-.:#/@%()<>,+='&?~]*[\d_#:/][\w\-.:#/@%()<>,+='&?~]*", re.ASCII)
_BARE_ID = re.compile(r"\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=\D*\d)[0-9a-f]{16,}", re.ASCII | re.IGNORECASE)
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def text_key(value: dict) -> str | None:
    """Under which name an object holds a passage's text; None where it holds none."""
    return next((key for key in TEXT_KEYS if key in value), None)


def decoded(cell: str) -> list | dict | None:
    """The list or object that a string holds in JSON or as Python writes it; None where it holds none.

    A list's items are strings, objects or whole numbers (ids). numpy writes no commas, and Python would read `['a' 'b']` as one
    item: it is no list here.
    """
    if not cell or cell.strip()[:1] not in ("[", "(", "{"):
        return None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a backslash in a text is none of Python's escapes
                value = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
        if repr(value) != cell.strip() and re.search(rf"{_QUOTED}\s*{_QUOTED}", cell):
            return None
    if isinstance(value, dict):
        return value if text_key(value) else None
    if isinstance(value, list | tuple) and all(
        text_key(item) if isinstance(item, dict) else isinstance(item, str | int | None) for item in value
    ):
        return list(value)
    return None


def looks_like_list(cell: str) -> bool:
    """Whether a string is a list of strings that another program wrote as text."""
    head = cell[:12].lstrip()
    if not head.startswith(("[", "array([", "(", "{")) or cell.rstrip()[-1] not in "])}":
        return False
    return _LIST.match(cell) is not None or (not head.startswith("[") and decoded(cell) is not None)


def is_blank(value: object) -> bool:
    """Whether a value is missing: null, pandas' NaN, or white space."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def is_null_word(text: str) -> bool:
    """Whether a string is the word that an export writes for a missing value."""
    return len(text) <= _LONGEST_NULL_WORD and text.strip() in NULL_WORDS


def checked(location: Location | str, field: str, value: object) -> str:
    """Return `value` if it is a usable text and no word for a missing value.

    Raises:
        BadLine: it is none.
    """
    text = check_text(location, field, value)
    if is_null_word(text):
        raise BadLine(location, f"{field} is the word {text!r}, which an export wrote for a missing value; leave the cell empty")
    return text


def is_id(text: str, shortest: int = 4) -> bool:
    """Whether a string may be a passage's id: one token of ASCII with a digit or a sign; no word of any language is."""
    return _BARE_ID.fullmatch(text) is not None or (len(text) >= shortest and text.isascii() and _ID.fullmatch(text) is not None)


def is_bare_id(text: str) -> bool:
    """Whether a string can hardly be anything but an id: a whole number, a UUID, a hash."""
    return _BARE_ID.fullmatch(text) is not None


def as_label(value: object) -> int | None:
    """0 or 1 of a label that says no or yes (0/1, true/false, in a table as words); None of any other value."""
    if isinstance(value, str):
        return _LABELS.get(value.strip().lower())
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
