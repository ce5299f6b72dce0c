"""Queries as people type them: without spaces, in NFD, with slips of the finger, all in lower case.

A query always gets the same noise: what is random in it is drawn from the text alone.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

import numpy as np

from e5ft.data.text import normalise, text_id

KEYS_PER_SLIP = 30  # a text has one slip, and one more for each further 30 keys
_SLIPS = ("neighbour", "neighbour", "dropped", "swapped")  # a wrong key is as frequent as the two others together
_HANGUL = "\uac00-\ud7a3"
_RUNS = re.compile(f"[{_HANGUL}]+|[A-Za-z]+")
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))  # and how far a row of keys is moved to the right

# The keys of each jamo on the 2-set keyboard (KS X 5002), in the order in which Unicode numbers them.
_INITIALS = ("r", "R", "s", "e", "E", "f", "a", "q", "Q", "t", "T", "d", "w", "W", "c", "z", "x", "v", "g")
_MEDIALS = ("k", "o", "i", "O", "j", "p", "u", "P", "h", "hk", "ho", "hl", "y", "n", "nj", "np", "nl", "b", "m", "ml", "l")
_FINALS = (
    *("", "r", "R", "rt", "s", "sw", "sg", "e", "f", "fr", "fa", "fq", "ft", "fx", "fv", "fg"),
    *("a", "q", "qt", "t", "T", "d", "w", "c", "z", "x", "v", "g"),
)
# What a key, or two keys, show where they are in no syllable: the letters of Unicode's block for it.
_ALONE = dict(
    zip(
        ["r", "R", "rt", "s", "sw", "sg", "e", "E", "f", "fr", "fa", "fq", "ft", "fx", "fv", "fg", "a", "q", "Q", "qt", "t", "T"]
        + ["d", "w", "W", "c", "z", "x", "v", "g", *_MEDIALS],
        map(chr, range(0x3131, 0x3164)),
        strict=True,
    )
)
_VOWEL = f"[{''.join(sorted(set(''.join(_MEDIALS))))}]"


def _any_of(keys: Iterable[str]) -> str:
    """A pattern of one of them, the longest that there is."""
    return "|".join(sorted(filter(None, keys), key=len, reverse=True))


# A consonant before a vowel begins the next syllable, in place of ending this one.
_SYLLABLE = re.compile(f"({_any_of(_INITIALS)})({_any_of(_MEDIALS)})(?:({_any_of(_FINALS)})(?!{_VOWEL}))?")
_LETTER = re.compile(f"(?:{_any_of(_MEDIALS)})|(?:{_any_of(_ALONE)})(?!{_VOWEL})")


def noised(text: str, kind: str) -> str:
    """A text with noise of one kind.

    Args:
        text: any string; white space and composition are normalised first.
        kind: "no_spaces": no white space beside Hangul (San Francisco stays two words); "nfd": decomposed Hangul, as macOS
            writes file names; "typos": slips on the 2-set and the QWERTY keyboard, see `with_slips`; "lower_case": all
            letters in lower case.

    Returns:
        The noised string, which may be the normalised text itself: without a Latin letter there is none to lower.
    """
    return _NOISE[kind](normalise(text))


def with_slips(text: str, generator: np.random.Generator) -> str:
    """A text in which fingers slipped, at `KEYS_PER_SLIP` at least once: the neighbouring key, a key left out, or two swapped.

    Hangul is taken apart to the keys of the 2-set keyboard and put together as an input method does it: without ㅜ, 대출 is
    댗ㄹ. A key with Shift loses it (했 becomes 햇). Digits and signs stay, since another number is another question.

    Args:
        text: in NFC.
        generator: where a finger slips and how.
    """
    runs = [(found.start(), found.end(), keys_of(found[0])) for found in _RUNS.finditer(text)]
    places = [(number, place) for number, (_, _, keys) in enumerate(runs) for place in range(len(keys))]
    if not places:
        return text
    count = 1 + (len(places) - 1) // KEYS_PER_SLIP
    chosen = generator.choice(len(places), count, replace=False)
    for number, place in sorted((places[index] for index in chosen.tolist()), reverse=True):  # what stands before keeps its place
        start, end, keys = runs[number]
        is_hangul = text[start] >= "\uac00"
        runs[number] = start, end, _slipped(keys, place, _SLIPS[generator.integers(len(_SLIPS))], is_hangul, generator)
    parts, done = [], 0
    for start, end, keys in runs:
        parts += [text[done:start], typed(keys) if text[start] >= "\uac00" else keys]
        done = end
    return "".join([*parts, text[done:]])


def keys_of(run: str) -> str:
    """The keys, as letters of QWERTY, capital with Shift, of Hangul syllables; Latin letters are their own keys."""
    if run[0] < "\uac00":
        return run
    numbers = [ord(syllable) - 0xAC00 for syllable in run]
    return "".join(_INITIALS[n // 588] + _MEDIALS[n % 588 // 28] + _FINALS[n % 28] for n in numbers)


def typed(keys: str) -> str:
    """What an input method makes of keys of the 2-set keyboard: syllables, and letters alone where there is no syllable."""
    text, place = "", 0
    while place < len(keys):
        found = _SYLLABLE.match(keys, place)
        if found is None:
            found = _LETTER.match(keys, place)
            text += _ALONE[found[0]]
        else:
            initial, medial, final = found.groups(default="")
            code = (_INITIALS.index(initial) * 21 + _MEDIALS.index(medial)) * 28 + _FINALS.index(final)
            text += chr(0xAC00 + code)
        place = found.end()
    return text


def neighbours(key: str, is_hangul: bool) -> str:
    """The keys that a finger hits instead of one; of a Hangul key with Shift that without it."""
    if is_hangul and key.isupper():
        return key.lower()
    (row, x), *_ = [(n, keys.index(key.lower()) + moved) for n, (keys, moved) in enumerate(_ROWS) if key.lower() in keys]
    near = [
        other
        for n, (keys, moved) in enumerate(_ROWS)
        for place, other in enumerate(keys)
        if other != key.lower() and abs(n - row) <= 1 and abs(place + moved - x) <= 1
    ]
    return "".join(near).upper() if key.isupper() else "".join(near)


def _slipped(keys: str, place: int, slip: str, is_hangul: bool, generator: np.random.Generator) -> str:
    """The keys with one slip; of a key that has nothing to be swapped with, or is alone, its neighbour."""
    if slip == "swapped" and place + 1 < len(keys) and keys[place] != keys[place + 1]:
        return keys[:place] + keys[place + 1] + keys[place] + keys[place + 2 :]
    if slip == "dropped" and len(keys) > 1:
        return keys[:place] + keys[place + 1 :]
    near = neighbours(keys[place], is_hangul)
    return keys[:place] + near[generator.integers(len(near))] + keys[place + 1 :]


_NOISE: dict[str, Callable[[str], str]] = {
    "no_spaces": lambda text: re.sub(f"(?<=[{_HANGUL}]) | (?=[{_HANGUL}])", "", text),
    "nfd": lambda text: unicodedata.normalize("NFD", text),
    "typos": lambda text: with_slips(text, np.random.default_rng(text_id(text) & 0xFFFF_FFFF_FFFF_FFFF)),
    "lower_case": str.lower,
}
KINDS = tuple(_NOISE)
