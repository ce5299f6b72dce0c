"""What is printed can be pasted, and tells what was left out."""

import shlex
from collections import Counter

import numpy as np
import pytest

from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.synthesis.chunks import cut
from e5ft.synthesis.documents import Left
from e5ft.synthesis.making import make
from e5ft.synthesis.queries import KINDS, make_queries
from e5ft.synthesis.sifting import searching
from e5ft.synthesis.splitting import Parts
from e5ft.synthesis.words import closing, next_command, opening, record, split_closing
from tests.synthesis.conftest import NOUNS, PLACES, make_documents


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["kinds=[faq]"], ["model=e5_small"]),
        (["model=e5_base", "seed=1"], ["model=e5_base"]),
        (["model.path=a b", "+model.pooling=cls"], ["model=folder", "model.path=a b", "model.pooling=cls"]),
    ],
)
def test_the_next_command_takes_the_model_along(overrides, words):
    command = shlex.split(next_command("out", True, overrides))
    assert command == ["python", "train.py", *words, "data.train_file=out/train.jsonl", "data.eval_dir=out/eval"]
    assert "eval_dir" not in next_command("out", False, overrides)


def test_what_is_printed_and_recorded():
    found = cut(make_documents(), 10, 200)
    left = Left(Counter({".docx": 2}), ["a.pdf: broken"], ["scan.pdf"])
    made = make(found.chunks, make_queries(found.chunks, list(KINDS), 10, 1), 10, searching("auto", None, None), (0.1, 0.2), 1)
    lines = dict(opening(found, left, found.chunks, ["copy"]))
    assert lines["documents"] == "20, 1 more have no text (scan.pdf)" and lines["chunks"].endswith(
        "(left out: 1 near-duplicates)"
    )
    assert "a.pdf: broken" in lines["note"]
    text = closing(made, None, "out", [])
    assert text.splitlines()[-1] == "next        " + next_command("out", True) and "split       by documents: " in text
    assert all(reason in text for reason in made.account.dropped)
    kept = record(made, found, left, ["copy"], None)
    assert kept["left_out"]["chunks"]["near-duplicate"] == {"count": 1, "examples": ["copy"]}
    assert kept["left_out"]["documents"] == {
        "without text": ["scan.pdf"],
        "unreadable": ["a.pdf: broken"],
        "of other kinds": {".docx": 2},
    }
    assert sum(kept["rows"].values()) == sum(kind["kept"] for kind in kept["kinds"].values())


def test_whether_a_split_decides_anything_goes_by_its_different_queries(write_rows, tmp_path):
    rows = [
        {"query": f"{noun} 서류는 어디에 내나요?", "document": f"{place} {noun} 창구"} for noun in NOUNS[:12] for place in PLACES
    ]
    for asked, is_few in ((rows, True), ([{**row, "query": f"{row['document']} {row['query']}"} for row in rows], False)):
        store = load_rows(write_rows(asked), Columns(), tmp_path / "cache")
        parts = [store.select(np.arange(start, start + 80)) for start in (0, 80, 160)]
        text = split_closing(Parts(*parts, groups=1, near={"near_duplicate_queries": 0, "near_duplicate_documents": 0}), "out")
        assert ("fewer than 30 dev or test queries" in text) == is_few
        queries = 4 if is_few else 80
        assert f"80 rows to train on, 80 dev ({queries} different queries), 80 test ({queries} different queries)" in text
