"""Names that Hydra's grammar cannot read work unquoted; what it reads keeps its meaning."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from e5ft.app.runs import overrides
from e5ft.errors import ConfigurationError


def parsed(argument, *flags, verb="train"):
    return OverridesParser.create().parse_override(overrides.readable(verb, [*flags, argument])[-1])


NAMES = [
    *(
        "rows (1).jsonl",
        "a=b.jsonl",
        "a[1].jsonl",
        "[1] a.jsonl",
        "a#b",
        "it's.jsonl",
        "a{x}",
        "{x}",
        '자료 (1)"neu".jsonl',
        "a&b;c!",
    ),
    *(
        "a\\b.jsonl",
        "a (1)\\",
        "~/rows.jsonl",
        "~kim/행 (2).jsonl",
        "$HOME/a (1)",
        "2024",
        "1e5",
        "f(1)",
        "s3://b/a?x=1",
        "part-{a,b}",
    ),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("verb", "field"),
    [
        *(("train", f) for f in ("data.train_file", "+data.sources.laws", "model.path", "cache_dir", "step.guide")),
        *(
            ("eval", "compare"),
            ("mine", "rows_dir"),
            ("mine", "cross_encoder.path"),
            ("export", "merge.base"),
            ("export", "merge.models"),
        ),
    ],
)
def test_a_name_is_itself_in_every_path_field(name, verb, field):
    override = parsed(f"{field}={name}", verb=verb)
    assert not override.is_sweep_override() and override.value() == name


@pytest.mark.parametrize("name", NAMES)
def test_what_was_made_readable_stays_so_in_the_line_that_resumes_a_run_and_in_a_job_of_a_sweep(name):
    once = overrides.readable("train", [f"data.train_file={name}"])
    assert overrides.readable("train", shlex.split(shlex.join(once))) == once
    swept = parsed(f"data.train_file={name}", "-m")
    if "," not in name:  # as Hydra's sweeper writes the overrides of a job
        again = f"data.train_file={swept.get_value_element_as_str()}"
        assert OverridesParser.create().parse_override(again).value() == name


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *(("rows.jsonl", "rows.jsonl"), ("a b.jsonl", "a b.jsonl"), ("null", None), ("true", True), ("'a (1)'", "a (1)")),
        *(('"a, b"', "a, b"), ("a\\(b", "a(b"), ("${name}/rows.jsonl", "${name}/rows.jsonl"), ("", "")),
        *(("[a.jsonl,b.jsonl]", ["a.jsonl", "b.jsonl"]), ("[]", []), ("*.jsonl", "*.jsonl"), ("laws:a@1", "laws:a@1")),
        ("[rows (1).jsonl, 'it (2)',b c.jsonl,it's]", ["rows (1).jsonl", "it (2)", "b c.jsonl", "it's"]),
    ],
)  # fmt: skip
def test_what_hydra_reads_keeps_its_meaning(value, read):
    assert parsed(f"data.train_file={value}").value() == read


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ("a,b", ["a", "b"]),
        ("choice(a,b)", ["a", "b"]),
        ("rows (1).jsonl,rows (2).jsonl", ['"rows (1).jsonl"', '"rows (2).jsonl"']),
        ("'a (1)',b", ["'a (1)'", "b"]),
        ("가,나 (1)", ['"가"', '"나 (1)"']),
    ],
)
def test_a_sweep_over_names(value, values):
    assert list(parsed(f"data.train_file={value}", "--multirun").sweep_string_iterator()) == values


@pytest.mark.parametrize("name", ["a,b", "[a,b]", "choice(a,b)", "a\\(b", "rows (1).jsonl,x", " a"])
def test_the_name_of_a_file_that_exists_wins(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("")
    for flags in ((), ("-m",)):
        assert parsed(f"data.train_file={name}", *flags).value() == name
    (tmp_path / "null").write_text("")
    assert parsed("data.train_file=null").value() is None


def test_two_files_without_multirun_are_told_to_be_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed("output_dir=a,b", verb="eval").value() == "a,b"  # to be made: there is no sweep without -m
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ConfigurationError, match=r"a list, 'data.train_file=\[a.jsonl,b.jsonl\]', and a sweep has -m$"):
        parsed("data.train_file=a.jsonl,b.jsonl")


@pytest.mark.parametrize(
    ("argument", "typed"),
    [
        ("data.sources={a: rows (1).jsonl}", {"a": "rows (1).jsonl"}),
        ("data.sources={a: {train_file: x (1).jsonl, weight: 2}, b: y.csv}", {"a": {"train_file": "x (1).jsonl", "weight": 2}, "b": "y.csv"}),
        ("name=it's", "it's"),
        ("data.sources={a: [x (1).csv, y.csv]}", {"a": ["x (1).csv", "y.csv"]}),
    ],
)  # fmt: skip
def test_elsewhere_one_line_says_what_to_type(argument, typed):
    with pytest.raises(ConfigurationError) as error:
        overrides.readable("train", [argument])
    assert str(error.value).startswith(argument) and "\n" not in str(error.value)
    (advised,) = shlex.split(str(error.value).partition("with quotes: ")[2])
    assert overrides.readable("train", [advised]) == [advised]
    assert OverridesParser.create().parse_override(advised).value() == typed


@pytest.mark.parametrize(
    ("argument", "expected", "read"),
    [
        ("name=한국어-실험_1", "name='한국어-실험_1'", "한국어-실험_1"),
        ("+data.train_file=판례/행 하나.jsonl", '+data.train_file="판례/행 하나.jsonl"', "판례/행 하나.jsonl"),
        ("x=http://가/나", "x='http://가/나'", "http://가/나"),
        ("data.keep_dir=[가,b]", 'data.keep_dir=["가",b]', ["가", "b"]),
        ("x={laws: 법.jsonl, web: {train_file: 웹.jsonl}}", "x={laws: '법.jsonl', web: {train_file: '웹.jsonl'}}", {
            "laws": "법.jsonl", "web": {"train_file": "웹.jsonl"}}),
        ("data.columns.ignore=[번호,'분류 \"b\"', c d]", """data.columns.ignore=["번호",'분류 "b"',c d]""", ["번호", '분류 "b"', "c d"]),
        ("name='가'", "name='가'", "가"),
        ("loss.temperature=0.01", "loss.temperature=0.01", 0.01),
    ],
)  # fmt: skip
def test_korean_values_are_quoted_for_hydra(argument, expected, read):
    assert overrides.readable("train", [argument]) == [expected]
    assert OverridesParser.create().parse_override(expected).value() == read


def test_korean_values_in_a_sweep():
    assert [value.strip("'") for value in parsed("name=가,나 다,c").sweep_string_iterator()] == ["가", "나 다", "c"]


@pytest.mark.parametrize("argument", ["-m", "--config-dir=가", "x=${가}", "~data", "~model.lora=x"])
def test_what_is_not_to_be_quoted_stays(argument):
    assert overrides.readable("train", [argument]) == [argument]
