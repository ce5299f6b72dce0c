"""The table of characters does to every text what the code point map, and Unicode's composition of letters and marks, say."""

import random
import unicodedata

import pytest
from tokenizers.normalizers import Precompiled

from e5ft.modeling.charsmap import _unpacked, precompiled_charsmap, recomposing

# Kinds of entries as XLM-R's map has them: compatibility, a blank for what separates, nothing for control characters.
MAP = {
    chr(n): unicodedata.normalize("NFKC", chr(n))
    for n in (*range(0xFF01, 0xFF5F), *range(0x3200, 0x3240), 0xAA, 0x2026, 0x341, 0xFB01)
}
MAP |= {"\t": " ", "\n": " ", "\u200d": " ", "\u3000": " ", "\x01": "", "\x7f": "", "\U0001d400": "A"}


@pytest.fixture(scope="module")
def normalise():
    return Precompiled(precompiled_charsmap(MAP)).normalize_str


def test_every_character_becomes_what_the_map_says(normalise):
    others = ["a", "é", "가", "क", "😀", "\xad", "\u0301", "龍"]
    assert [normalise(char) for char in [*MAP, *others]] == [*MAP.values(), *others]


def test_texts_become_what_their_characters_become(normalise):
    draw = random.Random(0)
    alphabet = [char for char in MAP if not unicodedata.combining(char)] + list("abc한국어éñ龍 ") * 5
    for _ in range(500):
        text = "".join(draw.choices(alphabet, k=12))
        assert normalise(text) == "".join(MAP.get(char, char) for char in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("e\u0341", "é"),  # another character for the same mark
        # `tokenizers` takes the shortest entry that a cluster begins with, and leaves the rest out.
        ("A\u0302\u0301", "Â"),
        ("\xaa\u0301", "a"),
        ("\u1112\u1161\u11ab", "\u1112\u1161\u11ab"),  # longer than five bytes: tokenizers issue 2116
        ("x\u0301", "x\u0301"),  # there is no such letter
        ("ᾳ\u0301", "ᾳ\u0301"),
    ],
)
def test_letters_with_marks(normalise, text, expected):
    assert normalise(text) == expected


def test_an_empty_map_leaves_what_is_composed_alone():
    assert Precompiled(precompiled_charsmap({})).normalize_str("한 é Ａ\t") == "한 é Ａ\t"


def test_recomposing_adds_what_nfd_makes_of_a_letter_and_changes_nothing_else(normalise):
    table = precompiled_charsmap({**MAP, "가": "나"})
    before, after = _unpacked(table), _unpacked(recomposing(table))
    assert before.items() <= after.items()
    added = {key: value for key, value in after.items() if key not in before}
    assert len(added) > 11_000 and not any(unicodedata.is_normalized("NFC", key) for key in added)
    for letter in ("한", "각", "が", "ǖ"):
        assert after[unicodedata.normalize("NFD", letter)] == letter
    assert after["\u1100\u1161"] == "나"  # what the table makes of the letter itself
    assert "\u0915\u093c" not in after  # NFC leaves this one apart
    assert Precompiled(recomposing(precompiled_charsmap(MAP))).normalize_str("Ａ가\t") == normalise("Ａ가\t") == "A가 "


def test_a_table_is_read_as_it_was_written():
    rules = _unpacked(precompiled_charsmap(MAP))
    assert MAP.items() <= rules.items() and rules["e\u0301"] == "é"
