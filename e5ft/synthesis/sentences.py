"""Sentences, and questions with their answers as they are in a text."""

import re
from collections.abc import Sequence

from e5ft.data.text import normalise

# A full stop after two letters (of "e.g." or "3." none is one), or one of the wide marks.
_END = re.compile(r"(?<=[^\W\d_]{2}[.!?])[\"'”’)\]]*\s|(?<=[。！？])")
_MARK = r"\s*\d{0,4}\s*[.:)\]．：]\s*"
_QUESTION = re.compile(rf"(?:[\[(]\s*)?(?:Question|질문|Q|문){_MARK}", re.IGNORECASE)
_ANSWER = re.compile(rf"(?:[\[(]\s*)?(?:Answer|답변|응답|A|답){_MARK}", re.IGNORECASE)
_LONGEST_QUESTION = 300  # characters


def sentences(text: str) -> list[str]:
    """The sentences of a text, normalised."""
    text, start, found = normalise(text), 0, []
    for end in _END.finditer(text):
        found.append(text[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in [*found, text[start:].strip()] if sentence]


def unlabelled(heading: str) -> str | None:
    """The question of a heading that is labelled as one: `Q1. ...`; None of any other."""
    label = _QUESTION.match(heading.strip())
    return normalise(heading.strip()[label.end() :]) or None if label else None


def answer_of(text: str) -> str:
    """An answer without its label."""
    return text[_ANSWER.match(text).end() :] if _ANSWER.match(text) else text


def find_pairs(paragraphs: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Questions with their answers, by the labels that begin their lines: `Q:` and `A:`, `질문`, `답변`, `문 1.`, `[Q]`.

    Args:
        paragraphs: of one section.

    Returns:
        (question, answer) pairs, and the paragraphs without them. An answer goes on until the next question, the last one until
        its paragraph ends; a question without an answer stays in the paragraphs.
    """
    pairs, rest, question, answer = [], [], None, None  # an answer is a list of paragraphs, each a list of lines

    def close(is_last: bool = False) -> None:
        texts = ["\n".join(lines).strip() for lines in answer or ()]
        first = next((place for place, text in enumerate(texts, start=1) if normalise(text)), 0)
        if question is not None and first:
            end = first if is_last else len(texts)
            pairs.append((normalise(" ".join(question)), "\n".join(texts[:end]).strip()))
            rest.extend(texts[end:])
        elif question is not None:
            rest.append("\n".join([*question, *texts]))

    for paragraph in paragraphs:
        kept = []
        if answer is not None:
            answer.append([])
        for line in paragraph.split("\n"):
            begins, answers = _QUESTION.match(line.strip()), _ANSWER.match(line.strip())
            if begins is not None:
                close()
                question, answer = [line.strip()[begins.end() :]], None
            elif question is not None and answer is None and answers is not None:
                answer = [[line.strip()[answers.end() :]]]
            elif answer is not None:
                answer[-1].append(line)
            elif question is not None and len(" ".join([*question, line])) <= _LONGEST_QUESTION:
                question.append(line)
            else:
                close()
                question = None
                kept.append(line)
        if kept:
            rest.append("\n".join(kept))
    close(is_last=True)
    return pairs, rest
