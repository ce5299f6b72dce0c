"""Documents cut into chunks: by heading, then by length at the ends of paragraphs and sentences."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from e5ft.data.text import normalise
from e5ft.synthesis.documents import Document, Section
from e5ft.synthesis.sentences import answer_of, find_pairs, sentences, unlabelled


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A passage to be searched.

    Attributes:
        document: the number of its document, from 0.
        section: the number of its section among all sections.
        name: of the document, as a person finds it.
        title: the document's; None where it has none.
        headings: from the first level down to its own.
        text: normalised; without title, headings, and the question that it answers.
        question: that stands before it in the document; None where none does.
        is_first: whether its document, and whether its section, begins with it.
    """

    document: int
    section: int
    name: str
    title: str | None
    headings: tuple[str, ...]
    text: str
    question: str | None = None
    is_first: tuple[bool, bool] = (False, False)


@dataclasses.dataclass
class Cut:
    """The chunks, and texts that became none because they are too short.

    Attributes:
        chunks: in the order of the documents.
        names: of the documents.
        short: their texts.
    """

    chunks: list[Chunk] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    short: list[str] = dataclasses.field(default_factory=list)


def cut(documents: Iterable[Document], least: int, most: int) -> Cut:
    """Cut documents into chunks; an answer of a question that is in the text is a chunk of its own.

    Args:
        documents: each with its sections.
        least: characters below which a text is no chunk; an answer may be shorter.
        most: characters of a chunk; only a word that is longer stays whole.
    """
    made, number = Cut(), 0
    for document in documents:
        here, is_first = len(made.names), True
        made.names.append(document.name)
        for section in document.sections:
            begins = True
            for question, text in _parts(section, least, most):
                if len(text) < least and question is None:
                    made.short.append(text)
                    continue
                made.chunks.append(
                    Chunk(
                        *(here, number, document.name, document.title, section.headings, text, question),
                        is_first=(is_first, begins),
                    )
                )
                is_first = begins = False
            number += 1
    return made


def _parts(section: Section, least: int, most: int) -> Iterator[tuple[str | None, str]]:
    """Question (None: none) and text of each chunk of a section."""
    asked = unlabelled(section.headings[-1]) if section.headings else None
    if asked is not None and section.paragraphs:
        pieces = packed([answer_of(section.paragraphs[0]), *section.paragraphs[1:]], least, most)
        yield from ((None if n else asked, piece) for n, piece in enumerate(pieces))
        return
    pairs, rest = find_pairs(section.paragraphs)
    yield from ((None, piece) for piece in packed(rest, least, most))
    for question, answer in pairs:
        yield from ((None if n else question, piece) for n, piece in enumerate(packed([answer], least, most)))


def packed(paragraphs: Sequence[str], least: int, most: int) -> list[str]:
    """Paragraphs put together to texts of at most so many characters, each cut at sentences' ends where it is longer.

    Args:
        paragraphs: in any number; blank ones are left out.
        least: characters; a text that would be shorter gets half of its neighbour.
        most: characters.
    """
    texts: list[str] = []
    for piece in (piece for paragraph in map(normalise, paragraphs) if paragraph for piece in _pieces(paragraph, most)):
        if texts and len(texts[-1]) + 1 + len(piece) <= most:
            texts[-1] += f" {piece}"
        else:
            texts.append(piece)
    for place in range(len(texts)):
        if len(texts[place]) < least and len(texts) > 1:  # a few words: they get half of the text beside them
            start = max(place - 1, 0)
            words = " ".join(texts[start : start + 2]).split(" ")
            half = len(words) // 2
            texts[start : start + 2] = [" ".join(words[:half]), " ".join(words[half:])]
    return texts


def _pieces(paragraph: str, most: int) -> Iterator[str]:
    if len(paragraph) <= most:
        yield paragraph
        return
    for sentence in sentences(paragraph):
        while len(sentence) > most:
            end = sentence.rfind(" ", 1, most + 1)
            end = sentence.find(" ", most) if end < 0 else end
            if end < 0:
                break
            yield sentence[:end]
            sentence = sentence[end + 1 :]
        yield sentence
