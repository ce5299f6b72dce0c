"""Passages rewritten so that they still answer what they answered: false negatives whose place is known.

Five kinds, each a pure function of text and seed. They stand for what corpora really hold (the same doctrine quoted in another
order, cut short, in another register, in other words); they are made by rules, so a sentence may sound stiff, and the order
of clauses may shift an emphasis. kiwipiepy finds and joins Korean endings.
"""

import functools
import random
import re

from benchmarks.rewording import reword
from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError

KINDS = ("reordered", "deleted", "inflected", "reworded", "paraphrased")
LEAST_KEPT = 0.5  # share of the characters that a deletion leaves
LEAST_DELETED = 0.15
SHORTEST_CLAUSE = 15

_SENTENCE_END = re.compile(r"(?<=[가-힣][.?!])\s+")
_STEMS = ("VV", "VA", "VX", "VCP", "VCN", "XSV", "XSA")
_PLAIN = ("VA", "VCP", "VCN", "XSA")  # their plain ending is 다, where a verb has ㄴ다 or 는다
# What an ending becomes, as morphemes that kiwipiepy joins to the stem. An ending mapped to itself is contracted: 하여야, 해야.
_ENDINGS = {
    "다": [("ᆸ니다", "EF")], "ᆫ다": [("ᆸ니다", "EF")], "는다": [("ᆸ니다", "EF")],
    "고": [("으며", "EC")], "며": [("고", "EC")], "으며": [("고", "EC")],
    "므로": [("기", "ETN"), ("때문", "NNB"), ("에", "JKB")], "으므로": [("기", "ETN"), ("때문", "NNB"), ("에", "JKB")],
    "나": [("지만", "EC")], "으나": [("지만", "EC")], "지만": [("으나", "EC")], "는데": [("지만", "EC")],
    "더라도": [("어도", "EC")], "어도": [("더라도", "EC")], "거나": [("든지", "EC")], "도록": [("게", "EC")],
    "어": [("어서", "EC")], "어서": [("어", "EC")], "어야": [("어야", "EC")], "면서": [("며", "EC")], "는바": [("는데", "EC")],
    "ᆫ바": [("ᆫ데", "EC")], "ᆫ다면": [("면", "EC")], "면": [("ᆫ다면", "EC")],
}  # fmt: skip
# Ending of the clause that goes behind -> the word that opens it there.
_CONNECTIVES = {
    "고": "또한 ", "며": "또한 ", "으며": "또한 ", "나": "물론 ", "으나": "물론 ", "지만": "물론 ", "는바": "또한 ", "ᆫ바": "또한 ",
    "므로": "이는 ", "으므로": "이는 ",
}  # fmt: skip


def plant(text: str, kind: str, seed: int, query: str = "") -> str | None:
    """Rewrite a passage.

    Args:
        text: the passage; normalised here.
        kind: one of `KINDS`; "paraphrased" is reordered, inflected and reworded together.
        seed: of the choices; the same seed gives the same rewriting.
        query: what the passage answers: "deleted" spares the part that shares most with it.

    Returns:
        The rewriting, or None where the rules leave the text as it is.

    Raises:
        ConfigurationError: an unknown kind, or kiwipiepy is not installed.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"kind={kind!r}: one of {', '.join(KINDS)} is needed")
    generator, text = random.Random(f"{seed} {kind} {text}"), normalise(text)
    if kind == "deleted":
        result = delete(text, generator, query)
    elif kind == "paraphrased":  # reordering first: it knows the plain endings only
        result = inflect(reword(reorder(text, generator), generator), generator)
        return None if result in (text, *(step(text, random.Random(0)) for step in (reorder, inflect, reword))) else result
    else:
        result = {"reordered": reorder, "inflected": inflect, "reworded": reword}[kind](text, generator)
    return None if result == text else result


def sentences(text: str) -> list[str]:
    """Sentences of a passage; `1994. 12. 22.` and an ending inside quotation marks end none."""
    return _SENTENCE_END.split(text)


def reorder(text: str, generator: random.Random) -> str:
    """Put the sentences into another order; of one sentence, put the first clauses behind the last ones."""
    parts = sentences(text)
    if len(parts) == 1:
        return _swap_clauses(text, generator)
    order = list(range(len(parts)))
    while order == sorted(order):
        generator.shuffle(order)
    return " ".join(parts[i] for i in order)


def delete(text: str, generator: random.Random, query: str = "") -> str:
    """Leave out sentences, or of one sentence parts between commas, as long as half of the characters stay.

    The last part of a single sentence, which holds its predicate, and the part that shares most bigrams with the query stay.
    """
    parts, glue = sentences(text), " "
    if len(parts) == 1:
        parts, glue = _at_commas(text), ", "
    wanted = _bigrams(query)
    spared = {max(range(len(parts)), key=lambda i: len(wanted & _bigrams(parts[i])))}
    spared |= {len(parts) - 1} if glue == ", " else set()
    candidates, removed, kept = [i for i in range(len(parts)) if i not in spared], set(), len(text)
    generator.shuffle(candidates)
    for i in candidates:
        if kept - len(parts[i]) - len(glue) >= LEAST_KEPT * len(text):
            removed.add(i)
            kept -= len(parts[i]) + len(glue)
    if kept > (1 - LEAST_DELETED) * len(text):
        return text
    return glue.join(part for i, part in enumerate(parts) if i not in removed)


def inflect(text: str, generator: random.Random, *, share: float = 0.9) -> str:
    """Change register and endings (한다, 합니다; 이므로, 이기 때문에; 아니하는, 않는) and drop genitive particles."""
    tokens, pieces, end = _kiwi().tokenize(text), [], len(text)
    for i in range(len(tokens) - 1, -1, -1):  # from behind, so that offsets in front stay true
        start, stop, new = _inflected(text, tokens, i)
        if new is None or stop > end or generator.random() >= share:
            continue
        pieces += [text[stop:end], new]
        end = start
    return text[:end] + "".join(reversed(pieces))


def _inflected(text: str, tokens: list, i: int) -> tuple[int, int, str | None]:
    """Where the i-th morpheme's predicate begins and ends, and what stands there then; None leaves it."""
    token = tokens[i]
    between_nouns = 0 < i < len(tokens) - 1 and tokens[i - 1].tag == "NNG" and tokens[i + 1].tag in ("NNG", "NNP")
    if token.tag == "JKG" and text[token.start : token.end] == "의" and between_nouns:
        return token.start, token.end, ""  # 토지의 소유권, 토지 소유권
    first = _first_of_predicate(tokens, i)
    if first is None:
        return 0, 0, None
    stem = [("않" if part.form == "아니하" else part.form, part.tag) for part in tokens[first:i]]
    changed = [("않", "VX") if form == "아니하" else (form, tag) for form, tag in stem]
    ending = _ENDINGS.get(token.form) if _changes(text, tokens, i) else None
    if ending is None and changed == [(part.form, part.tag) for part in tokens[first:i]]:
        return 0, 0, None
    new = _kiwi().join(changed + (ending or [(token.form, token.tag)]))
    return tokens[first].start, token.end, new


def _changes(text: str, tokens: list, i: int) -> bool:
    """Whether another ending can stand at i: not inside a quotation (선고하였다 하더라도), nor before an auxiliary (되어 있다)."""
    token, behind = tokens[i], tokens[i + 1] if i + 1 < len(tokens) else None
    if token.tag == "EF" or token.form in ("다", "ᆫ다", "는다"):
        return behind is None or behind.tag == "SF"
    auxiliary = behind is not None and behind.tag.startswith("V")
    return token.tag == "EC" and (token.form not in ("어", "어서") or (not auxiliary and text[token.end : token.end + 1] == " "))


def _first_of_predicate(tokens: list, i: int) -> int | None:
    """The stem to which the ending at i belongs; None if there is no ending, or none that stands beside its stem."""
    if tokens[i].tag not in ("EF", "EC", "ETM"):
        return None
    first = i - 1
    while first >= 0 and tokens[first].tag == "EP":
        first -= 1
    return first if first >= 0 and tokens[first].tag.partition("-")[0] in _STEMS else None


def _swap_clauses(text: str, generator: random.Random) -> str:
    """A이고, B이다. -> B이다. 또한 A이다. At one connective ending before a comma, outside brackets and quotation marks."""
    tokens, found = _kiwi().tokenize(text), []
    for i, token in enumerate(tokens[:-1]):
        at = token.end
        if token.tag != "EC" or token.form not in _CONNECTIVES or text[at : at + 2] != ", " or _nested(text, at):
            continue
        first = _first_of_predicate(tokens, i)
        if first is not None and at >= SHORTEST_CLAUSE and len(text) - at - 2 >= SHORTEST_CLAUSE:
            found.append((i, first))
    if not found:
        return text
    i, first = generator.choice(found)
    stem = [(part.form, part.tag) for part in tokens[first:i]]
    predicate = _kiwi().join(stem + _final(tokens[i].form, tokens[first], len(stem) > 1))
    moved = _CONNECTIVES[tokens[i].form] + text[: tokens[first].start] + predicate + "."
    return f"{text[tokens[i].end + 2 :]} {moved}"


def _final(ending: str, stem, past: bool) -> list[tuple[str, str]]:
    """The morphemes that end a sentence where a connective ending stood."""
    if ending in ("므로", "으므로"):
        return [("기", "ETN"), ("때문", "NNB"), ("이", "VCP"), ("다", "EF")]
    plain = past or stem.tag.partition("-")[0] in _PLAIN or stem.form in ("있", "없")
    return [("다" if plain else "ᆫ다", "EF")]


def _at_commas(text: str) -> list[str]:
    """Parts between commas that stand outside brackets and quotation marks."""
    parts, start = [], 0
    for match in re.finditer(", ", text):
        if not _nested(text, match.start()):
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _nested(text: str, position: int) -> bool:
    before = text[:position]
    opened = sum(before.count(mark) for mark in "([{「『‘“")
    closed = sum(before.count(mark) for mark in ")]}」』’”")
    return opened > closed or before.count('"') % 2 == 1 or before.count("'") % 2 == 1


def _bigrams(text: str) -> set[str]:
    text = normalise(text)
    return {text[i : i + 2] for i in range(len(text) - 1)}


@functools.cache
def _kiwi():
    try:
        import kiwipiepy
    except ImportError as error:
        raise ConfigurationError("planting needs the package kiwipiepy: pip install kiwipiepy") from error
    return kiwipiepy.Kiwi()
