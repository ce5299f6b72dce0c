"""Rows as numbers, and what reading left out."""

import unicodedata

import numpy as np

from e5ft.auditing.rows import DOCUMENT, NEGATIVE, QUERY, left_out
from e5ft.data.settings import AS_IS, Columns
from e5ft.data.store import load_rows
from tests.auditing.conftest import row


def test_texts_are_numbered_by_spelling_and_known_by_identity(make_audited):
    decomposed = unicodedata.normalize("NFD", "한글")
    rows = make_audited([row("질문", ["한글", "둘"], ["셋"]), row(decomposed, "둘"), row("질문", "셋", ["둘", "한글"])])
    assert sorted(rows.texts) == sorted({"질문", "한글", decomposed, "둘", "셋"})
    assert rows.same[rows.texts.index(decomposed)] == rows.same[rows.texts.index("한글")]
    named = {role: [rows.texts[number] for number in rows.of_row(role, 2)] for role in (QUERY, DOCUMENT, NEGATIVE)}
    assert named == {QUERY: ["질문"], DOCUMENT: ["셋"], NEGATIVE: ["둘", "한글"]}
    flagged = np.array([text == "둘" for text in rows.texts])
    found = [(at, field) for at, field, _ in rows.using(flagged, DOCUMENT, NEGATIVE)]
    assert found == [(0, "document 2"), (1, "document"), (2, "hard_negative")]
    queries, passages = rows.answers()
    pairs = {(rows.texts[q], rows.texts[p]) for q, p in zip(queries.tolist(), passages.tolist(), strict=True)}
    first = rows.texts[rows.same[rows.texts.index("한글")]]  # the spelling that stands first
    assert pairs == {("질문", first), ("질문", "둘"), ("질문", "셋"), (first, "둘")}


def test_what_reading_leaves_out_is_found_again(write_rows, tmp_path):
    path = write_rows([row("하나", "답", ["오답", " 답"]), row("둘", ""), row("셋", "글", ["오답"])])
    store = load_rows(path, Columns(), tmp_path / "cache", on_bad_row="skip")
    found = left_out([store], [(path, Columns(), AS_IS)], tmp_path / "cache")
    assert [str(bad.location) for bad in found.bad] == [f"{path}:2"] and found.equal == {f"{path}:1": (" 답",)}
    sound = write_rows([row("셋", "글", ["오답"])], "sound.jsonl")
    store = load_rows(sound, Columns(), tmp_path / "cache")
    (tmp_path / "sound.jsonl").unlink()  # nothing was left out, so it is not read again
    found = left_out([store], [(sound, Columns(), AS_IS)], tmp_path / "cache")
    assert (found.bad, found.equal) == ([], {})
