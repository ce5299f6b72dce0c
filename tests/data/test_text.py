"""The text contract: NFC, white space, prefixes once, stable identities."""

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.data.text import TextSpec, normalise, text_id
from e5ft.errors import ConfigurationError
from tests.data.conftest import PROPERTY

KOREAN = "한국어 임베딩"


def test_hangul_written_in_jamo_becomes_syllables():
    decomposed = unicodedata.normalize("NFD", KOREAN)
    assert decomposed != KOREAN
    assert normalise(decomposed) == KOREAN


@pytest.mark.parametrize("space", ["  ", "\t", "\n", "\r\n", "\u3000", "\xa0", " \n\t "])
def test_white_space_of_any_kind_becomes_one_space(space):
    assert normalise(f"{space}한국어{space}임베딩{space}") == KOREAN


def test_compatibility_forms_stay():
    """NFC, not NFKC: a full-width letter is another letter to the tokenizer's own normaliser to decide."""
    assert normalise("Ａ") == "Ａ"


@PROPERTY
@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


def test_the_identity_is_the_digest_of_the_normalised_text():
    """BLAKE2b of the UTF-8 bytes, the first 8 taken as a signed number; the values are those of `b2sum -l 64`."""
    assert text_id("a") == 4681665781835383343
    assert text_id("한국어") == -7150852326040666631


def test_the_identity_is_that_of_another_process():
    """Python's own hash() is not."""
    code = f"from e5ft.data.text import text_id; print(text_id({KOREAN!r}))"
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert int(output) == text_id(KOREAN)


@pytest.mark.parametrize("same", [unicodedata.normalize("NFD", KOREAN), f" {KOREAN}\n", KOREAN.replace(" ", "\u3000 ")])
def test_equal_texts_have_equal_identities(same):
    assert text_id(same) == text_id(KOREAN)


def test_different_texts_have_different_identities_in_64_signed_bits():
    ids = [text_id(f"w{i}") for i in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert min(ids) < 0 < max(ids)
    assert min(ids) >= -(2**63) and max(ids) < 2**63


@pytest.mark.parametrize("role, prefix", [("query", "query: "), ("passage", "passage: ")])
def test_the_prefix_of_the_role_is_put_once(role, prefix):
    prepare = getattr(TextSpec(), role)
    assert prepare("한국어") == prefix + "한국어"
    assert prepare(prefix + "한국어") == prefix + "한국어"
    assert prepare(f"  {prefix}  한국어 ") == prefix + "한국어"
    assert prepare(prefix).strip() == prefix.strip()


def test_the_other_role_s_prefix_and_a_word_that_only_begins_like_it_are_text():
    assert TextSpec().query("passage: a") == "query: passage: a"
    assert TextSpec().query("query:a") == "query: query:a"


def test_no_prefix():
    spec = TextSpec(query_prefix="", passage_prefix="")
    assert spec.query(" a  b ") == spec.passage("a b") == "a b"


INSTRUCTION = "Instruct: Given a web search query, retrieve passages\nQuery: "


@PROPERTY
@given(st.text(), st.sampled_from(["query: ", "query:", "", " ", INSTRUCTION, "a  b "]))
def test_preparing_twice_changes_nothing(text, prefix):
    """Also with E5-instruct's prefix, whose line end normalisation takes away."""
    spec = TextSpec(query_prefix=prefix)
    once = spec.query(text)
    assert once == prefix + normalise(once[len(prefix) :])
    assert spec.query(once) == once


def test_a_spec_survives_json():
    spec = TextSpec("q ", "", 32, 8192)
    assert TextSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "field, value",
    [
        ("query_max_length", 3),
        ("passage_max_length", 8193),
        ("query_max_length", "512"),
        ("query_max_length", 64.0),
        ("passage_max_length", True),
        ("query_max_length", None),
        ("query_prefix", None),
        ("passage_prefix", 5),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigurationError) as caught:
        TextSpec(**{field: value})
    assert f"model.text.{field}={value!r}" in str(caught.value)
