"""Scripts and languages of texts, and rows whose query and document are of two, where few rows are.

A script is read off the characters. Languages that share the Latin script are told apart by their most frequent small words, as
far as a text has some; a name alone (NVIDIA GeForce) says nothing.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from e5ft.auditing.rows import DOCUMENT, NEGATIVE, QUERY, AuditedRows, Finding, field_name
from e5ft.data.text import normalise

_RANGES = {
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "ko": ((0x1100, 0x11FF), (0x3131, 0x318E), (0xAC00, 0xD7A3)),
    "ja": ((0x3041, 0x30FA), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),
    "zh": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    "Cyrillic": ((0x400, 0x52F),),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Arabic": ((0x620, 0x6FF), (0x750, 0x77F)),
    "Hebrew": ((0x5D0, 0x5EA),),
    "Devanagari": ((0x900, 0x97F),),
    "Bengali": ((0x980, 0x9FF),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Thai": ((0xE00, 0xE7F),),
}
_SCRIPTS = ("", *_RANGES)
_TABLE = np.zeros(0x10000, dtype=np.int8)
for _number, _parts in enumerate(_RANGES.values(), start=1):
    for _first, _last in _parts:
        _TABLE[_first : _last + 1] = _number
_WORDS = {
    "en": "the of and to in is that for it was with as on are by be this from at or an have not what how which does do can",
    "de": "der die und das ist nicht ein eine zu den mit von auf für dem sich des wird sind im auch werden wie was bei einer",
    "fr": "le la les des est et une dans que pour qui pas sur au par avec sont du plus ce il elle cette être quel quelle où",
    "es": "el la los las de que y en un una es por con para se del al como más su lo son está qué cuál cómo fue",
    "it": "il di che è la un una per non con del della sono si da nel alla gli le come più anche quale cosa dei delle",
    "pt": "o a os as de que e em um uma é por com para se do da não dos das como mais foi são ao na no qual",
    "nl": "de het een en van is dat niet in op te zijn met voor die aan er om wordt door ook naar bij wat hoe",
    "vi": "là của và các có được cho không trong một này với những người khi từ để đã như năm gì về",
    "id": "yang dan di dari untuk dengan ini itu adalah pada tidak dalam akan oleh sebagai atau apa juga ke telah",
    "tr": "ve bir bu için ile olarak da de olan en daha çok gibi ne nasıl mi değil kadar sonra her",
}
_SMALL = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_FEWEST = 8  # letters that tell a script
_FEWEST_WORDS, _WORDS_SHARE = 2, 0.08  # small words of a language that tell it, and their share of the words
# A language's texts borrow other scripts (Latin names, Chinese characters in Japanese): its own is told by so small a share.
_OWN = {"ko": 0.25, "ja": 0.1}
_AMONG_NAMES = 0.1  # share of Hangul that tells Korean where the other letters are names
_RARE = 0.05  # share of the rows below which two languages in a row are a fault; above they are meant
_CHARACTERS = 2_000  # of a text that are looked at


def language_of(text: str) -> str:
    """The language of a text, as far as its characters and small words tell: ko, ja, zh, en, ..., a script's name, or "".

    Args:
        text: any string.
    """
    text = normalise(text[:_CHARACTERS])
    points = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
    counts = np.bincount(_TABLE[points[points < len(_TABLE)]], minlength=len(_SCRIPTS))
    counts[0] = 0
    letters = int(counts.sum())
    if letters < (_FEWEST if counts[_SCRIPTS.index("Latin")] == letters else _FEWEST // 2):
        return ""
    for language, share in _OWN.items():
        if counts[_SCRIPTS.index(language)] >= share * letters:
            return language
    script = _SCRIPTS[int(counts.argmax())]
    if script != "Latin":
        return script
    # Korean full of product names has no English small words; English about Korean words has.
    return _latin(text) or ("ko" if counts[_SCRIPTS.index("ko")] >= _AMONG_NAMES * letters else "")


def _latin(text: str) -> str:
    words = text.casefold().split()
    found = {language: sum(word in small for word in words) for language, small in _SMALL.items()}
    best = max(found, key=found.__getitem__)
    return best if found[best] >= max(_FEWEST_WORDS, _WORDS_SHARE * len(words)) else ""


def languages_of(rows: AuditedRows) -> list[str]:
    """The language of every text."""
    return [language_of(text) for text in rows.texts]


def counts_by_role(rows: AuditedRows, languages: list[str]) -> dict[str, dict[str, int]]:
    """Role -> language -> texts (each use once), the most frequent first; "" where it cannot be told."""
    return {
        role: dict(Counter(languages[number] for number in uses.numbers.tolist()).most_common())
        for role, uses in rows.uses.items()
        if len(uses.numbers)
    }


def other_languages(rows: AuditedRows, languages: list[str]) -> Iterator[Finding]:
    """Find texts that are of another language than the rest of their row, where few rows are so.

    Args:
        rows: what is audited.
        languages: of `languages_of`.

    Yields:
        The text that is of the rarer language, with both languages.
    """
    queries = rows.uses[QUERY].numbers
    frequency = Counter(languages[number] for uses in rows.uses.values() for number in uses.numbers.tolist())
    total = sum(frequency.values())
    for role in (DOCUMENT, NEGATIVE):
        uses = rows.uses[role]
        pairs = [(languages[q], languages[d]) for q, d in zip(queries[uses.rows].tolist(), uses.numbers.tolist(), strict=True)]
        counts = Counter(pairs)
        for at, (asked, answered) in enumerate(pairs):
            if asked == answered or not answered or counts[asked, answered] >= _RARE * len(pairs):
                continue
            row, number = int(uses.rows[at]), int(uses.numbers[at])
            if not asked:  # a name or a number: only an answer in a rare language is odd
                if frequency[answered] >= _RARE * total:
                    continue
            elif role == NEGATIVE and languages[int(rows.of_row(DOCUMENT, row)[0])] == answered:
                continue  # told of the query, or the document
            elif role == DOCUMENT and frequency[asked] < frequency[answered]:
                yield Finding("language", row, QUERY, int(queries[row]), f"{asked} -> {answered}")
                continue
            yield Finding("language", row, field_name(role, int(uses.places[at])), number, f"{asked or '?'} -> {answered}")
