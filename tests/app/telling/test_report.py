"""What a training says at its end, with a YAML of how rows were read; and names that anybody may have chosen, in a merger's card."""

import dataclasses
import string
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.commands.export import _card_section
from e5ft.app.runs.overrides import readable
from e5ft.app.settings.build import plain
from e5ft.app.telling import report
from e5ft.app.telling.report import closing, saved_choices, taken
from e5ft.retrieval.overlap import Overlap

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
SCORES = {"metrics": {"ndcg@10": 0.5, "hit@10": 0.75}, "intervals": {"ndcg@10": [0.4, 0.6]}}
LEAK = dataclasses.asdict(Overlap("law-dev", "test", 8, 8, 0, 8, 8, 0))
DIFFERENCE = {"ndcg@10": {"mean": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.1}}
VERDICT = {
    "word": "BETTER",
    "costs_elsewhere": False,
    "base_kept": False,
    "reason": None,
    "metric": "ndcg@10",
    "against": "before",
}
VERDICT |= {**DIFFERENCE["ndcg@10"], "p": 0.1, "keep": {}}
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=30), st.text(string.punctuation + " \n가a", max_size=30))
prefixes = texts.filter(lambda text: "\0" not in text and text.strip("~").lower() != "none")  # those that a setting may be


def test_what_few_queries_and_steps_without_a_negative_cannot_tell_is_said(tmp_path):
    row = SimpleNamespace(label="after", set_name="law-dev", passages=9, bytes_per_passage=1536, dev=None, **SCORES)
    for target, keep in ((8, 299), (300, 300)):
        row.scored = range(target)
        scores = SimpleNamespace(after=row, named=lambda: {"after": row})
        both = {"scores": {"before": SCORES, "after": SCORES}, "differences": DIFFERENCE}
        summary = {
            "model": "m",
            "test_set": "law-dev",
            "queries": target,
            "data": {"source": "s", "train_rows": 3},
            "training": {"steps": 1, "seconds": 1, "tokens_per_second": None, "without_negatives": 300 - keep},
            "best": {"step": 1, "alpha": 1.0},
            "guard": None,
            "verdict": {**VERDICT, "set": "law-dev"},
            "keep": [{"set": "wiki-dev", "queries": keep, **both}],
            "hybrid": {"weight": {"source": "chosen on law"}, "differences": DIFFERENCE} if target == 8 else None,
            "overlap": [LEAK, {**LEAK, "set": "wiki-dev", "role": "wiki-dev", "shared_queries": 0}, {**LEAK, "set": "other-dev"}],
            **both,
        }
        printed = closing(summary, scores, tmp_path, in_sweep=True)
        notes = [line.split(":")[0] for line in printed.splitlines() if "below .10 (ndcg@10) cannot be seen" in line]
        assert notes == (["law-dev, 8 queries", "wiki-dev, 299 queries"] if target == 8 else [])
        counted = f"In words: a right answer is among the first 10 for {target * 3 // 4} of {target} questions"
        assert f"{counted} (before {target * 3 // 4})." in printed.splitlines()
        assert [line for line in printed.splitlines() if line.startswith("overlap")] == [f"overlap: {Overlap(**LEAK).sentence}"]
        told = "ndcg@10: +0.100 [+0.000, +0.200] hybrid against after, p = 0.1; its weight: chosen on law"
        assert (told in printed.splitlines()) == (target == 8) and ("hybrid" in printed) == (target == 8)
        assert ("Without any negative, and so without effect: 1 steps" in printed) == (keep == 299)


RESULT = {"mean": -0.1, "low": -0.15, "high": -0.05, "level": 0.975}


@pytest.mark.parametrize(
    ("best", "lost", "line"),
    [
        ((0, 1.0), False, "Nothing beat the model before training on the dev set: model/ is that model, unchanged."),
        ((9, 1.0), False, "model/ is the checkpoint of step 9; no keep set refutes it (ndcg@10 on what chooses: a -0.100"),
        ((4, 1.0), False, "model/ is the checkpoint of step 4, the best on the dev set; no keep set refutes it"),
        ((9, 0.0), True, "model/ is the model before training, unchanged: the checkpoint of step 9 is refuted by a -0.100"),
        (
            (9, 0.25),
            True,
            "model/ is 0.25 x the checkpoint of step 9 and 0.75 x the model before training: alpha 1 is refuted by a",
        ),
    ],
)
def test_one_line_says_what_was_taken_and_why(best, lost, line):
    tried = [{"alpha": 1.0, "dev": None, "keep": {"a": {**RESULT, "lost": lost}, "b": {**RESULT, "lost": False}}}]
    summary = {
        "best": {"step": best[0], "alpha": best[1]},
        "training": {"steps": 9},
        "guard": {"metric": "ndcg@10", "tried": tried},
    }
    (said,) = taken(summary)
    assert said.startswith(line) and (", b -0.100" in said) == (not lost and best[0] > 0) and " at 97.5 %" in said or not best[0]
    assert taken({**summary, "best": {"step": 9, "alpha": 1.0}, "guard": None}) == []
    assert taken({**summary, "best": {"step": 4, "alpha": 1.0}, "guard": None}) == [
        "model/ is the checkpoint of step 4, the best on the dev set."
    ]


@given(texts, texts)
def test_the_section_on_merging_too(base, name):
    sets = {name: SCORES}
    entry = {"alpha": 0.5, "keep": {}, "sets": sets, "qualifies": True}
    record = {"base": base, "fine_tuned": name, "alpha": 0.5, "rule": None, "metric": "ndcg@10", "target": name, "keep": []}
    written = _card_section({**record, "alphas": [entry], "split": base})
    harmless = _card_section(
        {**record, "base": "a", "fine_tuned": "b", "target": "b", "split": "a", "alphas": [{**entry, "sets": {"b": SCORES}}]}
    )
    assert "<" not in written and "](" not in written
    assert [line[:2] for line in written.splitlines()] == [line[:2] for line in harmless.splitlines()]


GIVEN = readable("train", [
    *("data.train_file=자료 (2)/faq (1).csv", "+data.columns.query=질문", "data.columns.document='답변, 정리됨'"),
    *("data.columns.ignore=[번호,'분류 \"b\"']", "data.encoding=cp949", "data.max_train_rows=50", "loss.temperature=0.05"),
])  # fmt: skip


def offered(composed, given):
    return saved_choices(given, plain(composed("train", *[each.lstrip("+") for each in given]))["data"])


@pytest.mark.parametrize("in_clone", [True, False])
def test_pasting_the_lines_gives_the_same_group(composed, tmp_path, monkeypatch, in_clone):
    asked = composed("train", *[each.lstrip("+") for each in GIVEN])
    conf = tmp_path / "conf" if in_clone else tmp_path / "elsewhere/conf"
    monkeypatch.setattr(report, "shipped", lambda name: conf)
    title, lines = offered(composed, GIVEN).lstrip("\n").split("\n", 1)
    assert "data=faq_1" in title and ("--config-dir=conf" in title) == (not in_clone)
    subprocess.run(["bash", "-ec", lines], cwd=tmp_path, check=True)
    assert [path.name for path in (tmp_path / "conf/data").iterdir()] == ["faq_1.yaml"]
    searched = composed("train", f'hydra.searchpath=["file://{tmp_path / "conf"}"]', "data=faq_1")
    assert searched.data == asked.data


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["data.format=auto"], "data=rows "),  # the sample: no file has a name
        (["data.train_file=2024 (1).csv", "data.on_bad_row=skip"], "data=rows "),  # Hydra would read a number
        (["data.train_file=default.csv", "data.on_bad_row=skip"], "data=default_2 "),  # shipped, not to be replaced
        (["data=flagembedding", "data.train_file=a.jsonl", "data.columns.query=q"], 'defaults: ["flagembedding", "_self_"]'),
        (["data=simlm", "data.columns={query: q, document: d}", "data.train_file=x/y.z.jsonl"], "data=y_z "),
    ],
)  # fmt: skip
def test_its_name_and_what_it_stands_on(composed, given, words):
    given = [each.replace("2024 (1).csv", "'2024 (1).csv'") for each in given]
    assert words in offered(composed, given)


@pytest.mark.parametrize(
    "given", [[], ["data.train_file=a.csv"], ["data=flagembedding"], ["data=mix", "data.sources={a: b.csv}"]]
)
def test_where_little_was_given_nothing_is_offered(composed, given):
    assert offered(composed, given) is None
