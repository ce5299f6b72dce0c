"""Noise in queries: what each kind does, that slips are slips of keys, and that a text always gets the same."""

import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.data.noise import KEYS_PER_SLIP, KINDS, keys_of, neighbours, noised, typed, with_slips
from e5ft.data.settings import Noise
from tests.data.conftest import PROPERTY

ROOT = Path(__file__).parents[2]
SYLLABLES = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=12)
QUERY = "서울시청에서 San Francisco 시청까지 2023년 기준 비행기로 얼마나 걸렸나요?"


def test_the_kinds_are_those_that_settings_name():
    assert get_args(Noise) == KINDS


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("no_spaces", "서울시청에서San Francisco시청까지2023년기준비행기로얼마나걸렸나요?"),
        ("lower_case", "서울시청에서 san francisco 시청까지 2023년 기준 비행기로 얼마나 걸렸나요?"),
        ("nfd", unicodedata.normalize("NFD", QUERY)),
    ],
)
def test_what_a_kind_does(kind, expected):
    assert noised(QUERY, kind) == expected != QUERY
    assert noised(unicodedata.normalize("NFD", QUERY).replace(" ", "  "), kind) == expected  # however the query is written


def test_without_hangul_or_latin_letters_there_is_nothing_to_change():
    assert noised("What is RNA?", "no_spaces") == "What is RNA?"
    assert [noised("2023 ?", kind) for kind in KINDS] == ["2023 ?"] * len(KINDS)


@given(SYLLABLES)
@PROPERTY
def test_the_keys_of_syllables_type_them_again(text):
    assert typed(keys_of(text)) == text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("eocnf", "대출"), ("eocf", "댗ㄹ"), ("rkrtk", "각사"), ("rkrt", "갃"), ("rtk", "ㄱ사"), ("rt", "ㄳ"), ("hk", "ㅘ"), ("kh", "ㅏㅗ"),
        ("gksrmf", "한글"), ("zzz", "ㅋㅋㅋ"), ("gOQk", "햬빠"), ("goTek", "했다"), ("ekfrrkfql", "닭갈비"), ("QQ", "ㅃㅃ"),
    ],
)  # fmt: skip
def test_typed_is_what_an_input_method_makes_of_the_keys(keys, text):
    assert typed(keys) == text


def test_neighbours_are_those_of_the_keyboard_and_shift_is_lost():
    assert set(neighbours("r", True)) == set("etdf") and set(neighbours("h", True)) == set("yugjbn")  # ㄱ: ㄷ ㅅ ㅇ ㄹ
    assert neighbours("T", True) == "t" and set(neighbours("T", False)) == set("RYFG")  # 했 becomes 햇; a capital stays one
    assert all(key in neighbours(other, False) for key in "qpalzm" for other in neighbours(key, False))


@given(st.text(st.sampled_from("가각값괜찮았습니다 대출AbcZ0123456789.?"), min_size=1, max_size=60), st.integers(0, 50))
@PROPERTY
def test_slips_change_letters_and_nothing_else(text, seed):
    found = with_slips(text, np.random.default_rng(seed))
    keep = [[c for c in each if not c.isalpha()] for each in (text, found)]
    assert keep[0] == keep[1]
    assert (found != text) == any(c.isalpha() for c in text)
    assert found == unicodedata.normalize("NFC", found)


def test_each_slip_is_one_key_and_long_texts_have_more():
    """Of keys that are all apart: one is another, left out or swapped, as often as is said."""
    once, kinds = "대출기간은며칠인가", set()
    assert len(keys_of(once)) <= KEYS_PER_SLIP
    for seed in range(60):
        keys, slipped = keys_of(once), "".join(keys_of(c) if c >= "\uac00" else _key(c) for c in with_slips(once, _rng(seed)))
        different = [i for i, pair in enumerate(zip(keys, slipped, strict=False)) if pair[0] != pair[1]]
        if len(slipped) < len(keys):
            kinds.add("dropped")
            assert len(slipped) == len(keys) - 1 and any(keys[:i] + keys[i + 1 :] == slipped for i in range(len(keys)))
        elif len(different) == 1:
            kinds.add("neighbour")
            assert slipped[different[0]] in neighbours(keys[different[0]], True)
        else:
            kinds.add("swapped")
            first, second = different
            assert second == first + 1 and slipped[first] + slipped[second] == keys[second] + keys[first]
    assert kinds == {"dropped", "neighbour", "swapped"}
    long = "나무 " * 30  # 120 keys
    words = [with_slips(long.strip(), _rng(seed)).split() for seed in range(20)]
    assert all(1 <= sum(word != "나무" for word in each) <= 4 for each in words) and any(
        sum(word != "나무" for word in each) == 4 for each in words
    )


def test_a_query_gets_the_same_noise_in_every_process():
    code = f"from e5ft.data.noise import noised; print(ascii(noised({QUERY!r}, 'typos')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ascii(noised(QUERY, "typos"))
    assert noised(QUERY, "typos") == noised(QUERY, "typos") != noised(QUERY + "?", "typos")[:-1]


def _rng(seed):
    return np.random.default_rng(seed)


def _key(letter: str) -> str:
    """The keys of a letter that stands alone."""
    keys = [a + b for a in "rRseEfaqQtTdwWczxvgkoiOjpuPhynbml" for b in ["", *"wgraqtxvkolpj"]]
    return next(key for key in sorted(keys, key=len) if typed(key) == letter)
