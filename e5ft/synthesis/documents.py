"""Documents as titles, headings and paragraphs: Markdown, HTML, plain text, PDF, and files of passages."""

import codecs
import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from e5ft.data.cells import is_null_word, text_key
from e5ft.data.lines import BadLine
from e5ft.data.opening import kind_of, likely_encoding, open_binary, open_utf8
from e5ft.data.passages import passage_rows, passage_text
from e5ft.data.settings import Reading
from e5ft.data.shards import SUFFIXES
from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError, DataError

_HEADINGS = {f"h{level}": level for level in range(1, 7)} | {"summary": 7, "dt": 7}
_SKIPPED = {
    *("script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form", "button", "svg", "head"),
    *("select", "textarea"),
}
_CONTENT = ("p", "table", *_HEADINGS)  # a form that has such is the whole page's (ASP.NET)
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"\0\0\xfe\xff")
_INLINE = {
    *(
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "ins",
        "kbd",
        "label",
        "mark",
        "q",
        "rp",
    ),
    *("rt", "ruby", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "u", "var", "wbr"),
}
# It begins with a name; text between two lines is text.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?=[\w.-]+[ \t]*:)(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE)
_PUNCTUATION = ".,;:!?)\"'"
_FEWEST_PAGES = 3  # of which half must share a line for it to be a running head


@dataclasses.dataclass
class Section:
    """A heading's own paragraphs.

    Attributes:
        headings: from the document's first level down to its own; empty before the first heading.
        paragraphs: texts, in which line ends may matter (a question's line, an answer's).
    """

    headings: tuple[str, ...]
    paragraphs: list[str]


@dataclasses.dataclass
class Document:
    """A file, or a row of a file of passages.

    Attributes:
        name: where it stands: guide/leave.md, faq.jsonl:12.
        title: None where it has none.
        sections: in order.
    """

    name: str
    title: str | None
    sections: list[Section]

    @property
    def is_blank(self) -> bool:
        """Whether there is no text in it: a scanned PDF, an empty page."""
        return not any(map(str.strip, (text for section in self.sections for text in section.paragraphs)))


@dataclasses.dataclass
class Left:
    """What was not read.

    Attributes:
        suffixes: files of other kinds, by suffix.
        unreadable: messages of damaged files and rows (on_bad_row=skip).
        blank: names of documents without text.
    """

    suffixes: Counter = dataclasses.field(default_factory=Counter)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    blank: list[str] = dataclasses.field(default_factory=list)


def read_documents(place: str | os.PathLike, encoding: str | None, left: Left, *, skip: bool = False) -> Iterator[Document]:
    """The documents of a folder or file, in the order of their names.

    Args:
        place: a folder, with all folders below it but hidden ones, or a file.
        encoding: of text files; None: UTF-8, or what a byte order mark says.
        left: takes what was not read.
        skip: whether what cannot be read is left out and counted.

    Raises:
        ConfigurationError: a package is missing.
        DataError: nothing is there; without `skip`: something cannot be read.
    """
    place = Path(place)
    if not place.exists():
        raise DataError(f"data.corpus_file={place}: no such file or folder")
    files, any_read = [place], False
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(place)))
    for file in files:
        reader = _READERS.get(kind_of(file))
        if reader is None:
            left.suffixes[kind_of(file) or file.name] += 1
            continue
        any_read = True
        name = file.relative_to(place).as_posix() if place.is_dir() else file.name
        try:
            for document in reader(file, name, encoding):
                if isinstance(document, BadLine):
                    if not skip:
                        raise document
                    left.unreadable.append(str(document))
                elif document.is_blank:
                    left.blank.append(document.name)
                else:
                    yield document
        except (DataError, RecursionError) as error:
            message = f"{file}: nested too deeply" if isinstance(error, RecursionError) else str(error)
            if not skip:
                which = "rows" if isinstance(error, BadLine) else "files"
                raise DataError(f"{message}; leave such {which} out: data.on_bad_row=skip") from error
            left.unreadable.append(message)
    if not any_read:
        raise DataError(f"data.corpus_file={place}: no documents; there must be files ending in {', '.join(_READERS)}")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text_of(file: Path, encoding: str | None) -> str:
    with open_utf8(file, encoding)[0] as opened:
        try:
            return unicodedata.normalize("NFC", opened.read().decode().replace("\r\n", "\n").replace("\r", "\n"))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 (byte {error.start}); name its encoding: data.encoding=cp949") from error


def _needs(package: str, name: str, kind: str):
    """A module of an optional package.

    Raises:
        ConfigurationError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigurationError(f"data.corpus_file: {kind} files need {name}; pip install {name}") from error


def _plain(file: Path, name: str, encoding: str | None) -> Iterator[Document]:
    blocks = re.split(r"\n[ \t]*\n", _text_of(file, encoding))
    yield Document(name, None, [Section((), [block.strip() for block in blocks if block.strip()])])


def _markdown(file: Path, name: str, encoding: str | None) -> Iterator[Document]:
    """By way of HTML, so that headings, lists, tables and raw HTML are read in one place."""
    markdown = _needs("markdown_it", "markdown-it-py", "Markdown")
    text, title = _text_of(file, encoding), None
    front = _FRONT_MATTER.match(text)
    if front is not None:
        named = _FRONT_TITLE.search(front[1])
        title, text = None if named is None else normalise(named[2]), text[front.end() :]
    document = _parsed(markdown.MarkdownIt("commonmark").enable("table").render(text), name)
    yield dataclasses.replace(document, title=title or document.title)


def _html(file: Path, name: str, encoding: str | None) -> Iterator[Document]:
    with open_binary(file) as opened:
        content = opened.read()
    is_marked = content.startswith(_WIDE)
    if b"\0" in content and not is_marked:
        raise DataError(f"{file}: no HTML: it holds NUL bytes")
    try:
        yield _parsed(content.decode("utf-8-sig"), name)
    except UnicodeDecodeError:
        yield _parsed(content, name, None if is_marked else encoding or likely_encoding(content))


def _parsed(content: str | bytes, name: str, encoding: str | None = None) -> Document:
    soup = _needs("bs4", "beautifulsoup4", "Markdown and HTML").BeautifulSoup(
        content, "html.parser", **({} if isinstance(content, str) else {"from_encoding": encoding})
    )
    found = soup.title.get_text() if soup.title is not None else None
    walker = _Walker()
    walker.walk(_content_of(soup))
    walker.flush()
    first = next((section.headings[0] for section in walker.sections if section.headings), None)
    tops = {section.headings[0] for section in walker.sections if section.headings}
    title = first if first is not None and len(tops) == 1 else normalise(found or "") or first
    return Document(name, title, [section for section in walker.sections if section.paragraphs])


def _content_of(soup):
    """The part of a page that is its content: of several articles none is."""
    articles = [article for article in soup.find_all("article") if article.find_parent("article") is None]
    found = [main for main in soup.find_all("main") if main.get_text(strip=True)] or articles
    return found[0] if len(found) == 1 else soup.body or soup


class _Walker:
    """Collects paragraphs under their headings while it goes through a tree of HTML."""

    def __init__(self):
        self.sections, self._levels, self._buffer = [Section((), [])], [], []
        self._section = self.sections[0]

    def walk(self, node) -> None:
        for child in node.children:
            if child.name is None:
                if type(child).__name__ == "NavigableString":  # no comment, no declaration
                    self._buffer.append(str(child) if child.strip() else " ")
            elif child.name in _HEADINGS:
                answer = child.find("dd") and child.find("dd").extract()  # of a <dt> that is not closed
                self._head(_HEADINGS[child.name], normalise(child.get_text(" ", strip=True)))
                if answer:
                    self.walk(answer)
                    self.flush()
            elif child.name == "br":
                self._buffer.append("\n")
            elif child.name == "pre":
                self.flush()
                self._buffer.append(child.get_text())
                self.flush()
            elif child.name in ("td", "th"):
                self.walk(child)
                self._buffer.append(" ")
            elif child.name in _INLINE:
                self.walk(child)
            elif child.name in ("details", "dl"):  # what follows is no answer of the last question in it
                self.flush()
                before = self._section, self._levels
                self.walk(child)
                self.flush()
                self._section, self._levels = before
            elif child.name == "header" and child.find_parent(("main", "article")) is not None:
                for head in child.find_all(list(_HEADINGS)):
                    self._head(_HEADINGS[head.name], normalise(head.get_text(" ", strip=True)))
            elif child.name not in _SKIPPED or (child.name == "form" and child.find(_CONTENT) is not None):
                self.flush()
                self.walk(child)
                self.flush()

    def _head(self, level: int, text: str) -> None:
        self.flush()
        if text:
            self._levels = [*((at, head) for at, head in self._levels if at < level), (level, text)]
            self._section = Section(tuple(head for _, head in self._levels), [])
            self.sections.append(self._section)

    def flush(self) -> None:
        """End the paragraph."""
        lines = [normalise(line) for line in "".join(self._buffer).split("\n")]
        self._buffer = []
        if any(lines):
            self._section.paragraphs.append("\n".join(filter(None, lines)))


def _pdf(file: Path, name: str, encoding: str | None) -> Iterator[Document]:
    pypdf = _needs("pypdf", "pypdf", "PDF")
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{file}: the PDF has a password; save it without one")
        pages = [unicodedata.normalize("NFC", page.extract_text() or "").splitlines() for page in reader.pages]
        title = normalise(str((reader.metadata or {}).get("/Title") or ""))
    except DataError:
        raise
    except Exception as error:  # of a damaged file pypdf raises whatever it stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: not readable as PDF ({reason})") from error
    pages = [[line.strip() for line in page if line.strip()] for page in pages]
    seen = Counter(line for page in pages for line in {re.sub(r"\d+", "0", line) for line in page[:2] + page[-2:]})
    running = {line for line, count in seen.items() if len(pages) >= _FEWEST_PAGES and 2 * count >= len(pages)}
    known = {word.rstrip(_PUNCTUATION) for page in pages for line in page for word in line.split()[1:-1]}
    paragraphs = []
    for page in pages:
        edges = {0, 1, len(page) - 2, len(page) - 1}
        kept = [line for n, line in enumerate(page) if n not in edges or re.sub(r"\d+", "0", line) not in running]
        paragraphs += ["\n".join(_rejoined(kept, known))] if kept else []
    is_title = (
        title and not title.lower().endswith((".doc", ".docx", ".hwp", ".hwpx", ".pdf")) and "untitled" not in title.lower()
    )
    yield Document(name, title if is_title else None, [Section((), paragraphs)])


def _rejoined(lines: list[str], known: set[str]) -> list[str]:
    """Lines of a page without breaks inside Korean words.

    Args:
        lines: of a page.
        known: words that stand inside lines; where what a break parts is one of them, and not both parts are, it broke a word.
    """
    joined: list[str] = []
    for line in lines:
        before, after = joined[-1].split()[-1] if joined else "", line.split()[0]
        first = after.rstrip(_PUNCTUATION)
        is_korean = before and "가" <= before[-1] <= "힣" and "가" <= after[0] <= "힣"
        if is_korean and before + first in known and not known.issuperset((before, first)):
            joined[-1] += line
        else:
            joined.append(line)
    return joined


def _passages(file: Path, name: str, encoding: str | None) -> Iterator[Document | BadLine]:
    """Of a file of passages each is a document: {"_id", "title" (may be absent), "text"}."""
    for location, value in passage_rows(file, Reading(encoding=encoding)):
        try:
            if isinstance(value, BadLine):
                raise value
            passage_text(location, value)  # refuses what is none
        except BadLine as fault:
            yield fault
            continue
        where = f"{name}:{location.line or location.row}"
        title, text = value.get("title"), value.get(text_key(value))
        text, title = text if isinstance(text, str) else "", "" if not isinstance(title, str) or is_null_word(title) else title
        yield Document(where, normalise(title or "") or None, [Section((), re.split(r"\n[ \t]*\n", text))])


_READERS = {
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _html),
    ".txt": _plain,
    ".pdf": _pdf,
    **dict.fromkeys(SUFFIXES, _passages),
}
