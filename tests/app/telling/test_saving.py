"""How rows were read is offered as a YAML that means the same."""

import subprocess

import pytest

from e5ft.app.runs.overrides import readable
from e5ft.app.settings.build import plain
from e5ft.app.telling import saving
from e5ft.app.telling.saving import saved_choices

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
    monkeypatch.setattr(saving, "shipped", lambda name: conf)
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
