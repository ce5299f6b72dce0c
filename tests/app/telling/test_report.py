"""The model card quotes names that anybody may have chosen: none of them becomes markup, a link, or another key."""

import string
from types import SimpleNamespace

import pytest
import yaml
from e5ft.app.report import inline, model_card
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from e5ft.app.merging import _card_section
from e5ft.data.text import TextSpec
from e5ft.modeling.encoder import EncoderSpec

NASTY = [
    "<script>alert(1)</script>",
    "---\nlicense: evil\n---",
    "`rm -rf` | x | y",
    "![x](http://host/pixel.png)",
    "[click](javascript:alert(1))",
    "서울의 `수도`는 | 어디?\r\n# 제목\u2028---",
    "\\`code\\`",
    "&lt;b&gt;\x1b[31m\u202e",
    "``` \n~~~",
]
CONFIG = OmegaConf.create({"evaluation": {"cutoffs": [10]}, "seed": 1, "loss": {"_target_": "x"}, "optimizer": {"lr": 1}})
SCORES = {"metrics": {"ndcg@10": 0.5}, "intervals": {"ndcg@10": [0.4, 0.6]}}
DIFFERENCE = {"ndcg@10": {"mean": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.1}}
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=30), st.text(string.punctuation + " \n가a", max_size=30))


def card(label: str, source: str, test_set: str, keep: str, prefix: str) -> str:
    scores = {when: {**SCORES, "label": f"{when} {label}"} for when in ("before", "after")}
    summary = {
        "model": label,
        "scores": scores,
        "data": {"source": source, "train_rows": 3},
        "test_set": test_set,
        "chosen_on_test": False,
        "training": {"steps": 1, "queries_per_step": 2},
        "best": {"step": 1},
        "differences": DIFFERENCE,
        "keep": [{"set": keep, "scores": scores, "differences": DIFFERENCE}],
    }
    config = OmegaConf.merge(CONFIG, {"loss": {"note": prefix.replace("$", "")}})
    return model_card(config, summary, SimpleNamespace(dimension=8, spec=EncoderSpec("mean", TextSpec(query_prefix=prefix))))


HARMLESS = card("a", "b", "c", "d", "e")


@given(*[texts] * 5)
@example(*NASTY[:5])
@example(*NASTY[4:9])
def test_no_name_changes_what_the_card_is_made_of(label, source, test_set, keep, prefix):
    written = card(label, source, test_set, keep, prefix)
    _, front, body = written.split("---\n", 2)
    assert yaml.safe_load(front).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "<" not in body and "](" not in body
    # Line by line the same kind of line as in a card of harmless names.
    lines, expected = body.splitlines(), HARMLESS.split("---\n", 2)[2].splitlines()
    assert len(lines) == len(expected)
    for line, other in zip(lines, expected, strict=True):
        assert (line[:2], line.count("|"), line.count("`")) == (other[:2], other.count("|"), other.count("`"))
    assert all(c.isprintable() for line in lines for c in line)


@pytest.mark.parametrize("text", NASTY)
def test_a_value_is_one_harmless_line(text):
    shown = inline(text)
    assert shown.isprintable() and not set(shown) & set("<>`|\\") and "](" not in shown


def test_korean_and_ordinary_names_stay_readable():
    for name in ("ko-wiki-test", "intfloat/multilingual-e5-small", "전입신고는 언제까지 하나요?", "['query_passage']", "query: "):
        assert inline(name) == name


@given(texts, texts)
def test_the_section_on_merging_too(base, name):
    sets = {name: SCORES}
    entry = {"alpha": 0.5, "sets": sets, "qualifies": True}
    record = {"base": base, "fine_tuned": name, "alpha": 0.5, "rule": None, "metric": "ndcg@10", "target": name, "keep": []}
    written = _card_section({**record, "alphas": [entry], "split": base})
    harmless = _card_section(
        {**record, "base": "a", "fine_tuned": "b", "target": "b", "split": "a", "alphas": [{**entry, "sets": {"b": SCORES}}]}
    )
    assert "<" not in written and "](" not in written
    assert [line[:2] for line in written.splitlines()] == [line[:2] for line in harmless.splitlines()]
