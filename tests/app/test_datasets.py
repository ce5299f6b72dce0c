"""data=mix: from the command line to rows, shares in the record, and what is refused."""

import json

import pytest

from e5ft.app.configuration import model_source
from e5ft.app.datasets import load_training_data, mix_of
from e5ft.data.store import tokenize_rows
from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.training.trainer import ContrastiveTrainer
from tests.app.conftest import TINY


def rows(name: str, count: int) -> list[dict]:
    return [{"query": f"{name} 질의 {i}", "document": f"{name} 본문 {i}"} for i in range(count)]


@pytest.fixture
def two_files(write_rows, composed):
    """laws.jsonl (120 rows) and web.jsonl (60), in the folder that the job runs in."""
    write_rows(rows("laws", 120), "laws.jsonl")
    write_rows(rows("web", 60), "web.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


BOTH = "data.sources={laws: laws.jsonl, web: {train_file: web.jsonl, weight: 2}}"


# -- configuration -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        (BOTH,),
        ("+data.sources.laws.train_file=laws.jsonl", "+data.sources.web={train_file: web.jsonl, weight: 2}"),
        ("data.sources={laws: laws.jsonl, web: web.jsonl}", "data.sources.web={train_file: web.jsonl, weight: 2}"),
    ],
)
def test_sources_are_named_on_the_command_line(composed, overrides):
    mix = mix_of(composed("train", "data=mix", *overrides, "data.mix.temperature=3"))
    assert mix.names == ("laws", "web")
    assert [(s.train_file, s.weight, s.cap, s.columns.query) for s in mix.sources] == [
        ("laws.jsonl", 1.0, None, "query"),
        ("web.jsonl", 2, None, "query"),
    ]
    assert (mix.temperature, mix.one_source) == (3, True)


def test_other_data_is_no_mix(composed):
    assert mix_of(composed("train")) is None


def test_a_source_may_have_its_own_columns(composed):
    given = "data.sources={a: {train_file: f, columns: {document: answer, ignore: [id]}}, b: f}"
    first, second = mix_of(composed("train", "data=mix", given, "data.columns.query=q")).sources
    assert (first.columns.query, first.columns.document, first.columns.ignore) == ("q", "answer", ("id",))
    assert (second.columns.query, second.columns.document, second.columns.ignore) == ("q", "document", ())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.sources=null", "data.sources is empty"),
        ("data.sources={}", "data.sources is empty"),
        ("data.sources=[laws.jsonl]", r"data\.sources=\['laws\.jsonl'\]: names and files"),
        ("data.sources={a: {train_file: f, wieght: 2}}", r"data\.sources\.a\.wieght=2: no such field; there are cap, columns"),
        ("data.sources={a: {train_file: f, columns: {doc: x}}}", r"data\.sources\.a\.columns\.doc='x': no such field"),
        ("data.sources={a: {weight: 2}}", r"data\.sources\.a\.train_file=None: a file"),
        ("data.sources={a: 3}", r"data\.sources\.a\.train_file=3: a file"),
        ("data.sources={a: {train_file: f, weight: 0}}", r"data\.sources\.a\.weight=0"),
        ("data.train_file=rows.jsonl", r"data\.train_file=rows\.jsonl: with data=mix every file is a source"),
        ("+data.mix.kind=x", r"data\.mix\.kind='x': no such field"),
        ("data.mix=3", r"data\.mix=3: fields are needed"),
        ("data.mix.temperature=0", r"data\.mix\.temperature=0"),
    ],
)
def test_what_a_mix_refuses(composed, override, words):
    sources = [] if override.startswith("data.sources") else ["data.sources={a: f}"]
    with pytest.raises(ConfigurationError, match=words):
        mix_of(composed("train", "data=mix", *sources, override))


# -- rows --------------------------------------------------------------------------------------------------------------------


def test_the_dev_set_is_split_off_the_joined_rows(composed, two_files):
    """No sample anywhere; places and sources survive the split."""
    data = load_training_data(composed("train", "data=mix", BOTH))
    assert (data.read, data.rejected, data.sample, data.label) == (180, 0, False, "a mix of laws, web")
    assert len(data.train.rows) + len(data.dev.queries) == 180
    assert len(data.dev.queries) == 18
    for number in range(len(data.train.rows)):
        row = data.train.rows[number]
        name = ("laws", "web")[row["source"]]
        assert row["query"].startswith(name)
        assert data.train.place(number) == f"{name}.jsonl:{int(row['query'].split()[-1]) + 1}"


# -- the whole job -----------------------------------------------------------------------------------------------------------


def test_a_mix_trains_and_records_its_shares(trained, two_files, capsys):
    """Weights 1 and 2 on 120 and 60 rows: both are drawn alike. 162 rows are 10 steps of 16, 5 of each source."""
    small = "training.num_train_epochs=1"
    _, folder = trained("data=mix", BOTH, small, "training.gradient_accumulation_steps=2",
                        "training.per_device_train_batch_size=8")  # fmt: skip
    logged = [entry for entry in lines(folder / "metrics.jsonl") if "loss" in entry]
    assert len(logged) == 10
    for entry in logged:
        count = entry["share/laws"] * entry["step"]
        assert count == pytest.approx(round(count))  # whole steps of one source
        assert entry["share/laws"] + entry["share/web"] == pytest.approx(1)
    assert 4 <= round(logged[-1]["share/laws"] * 10) <= 6
    printed = capsys.readouterr().out
    assert "on a mix of laws, web" in printed
    assert "rows drawn" in printed and "sources" in printed
    assert read_json(folder / "summary.json")["data"]["source"] == "a mix of laws, web"


def test_a_resumed_mix_ends_as_the_uninterrupted_one_and_another_mix_is_refused(trained, two_files, monkeypatch):
    """Stopped in step 13, after the checkpoint of step 12, in the second epoch of 10 steps."""
    settings = ["data=mix", "training.max_steps=14", "training.save_steps=6", "training.eval_strategy=no",
                "training.load_best_model_at_end=false"]  # fmt: skip
    _, whole = trained(*settings, BOTH, run_dir="outputs/whole")
    compute_loss, calls = ContrastiveTrainer.compute_loss, []

    def interrupted(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ContrastiveTrainer, "compute_loss", interrupted)
        trained(*settings, BOTH, run_dir="outputs/cut")
    for field, other in (("mix", "data.mix.temperature=2"), ("rows", "+data.sources.web.cap=40")):
        with pytest.raises(ConfigurationError, match=rf"(?s)another training than the one that was stopped:.*\n  {field}: "):
            trained(*settings, BOTH, other, "resume=true", run_dir="outputs/cut")
    _, cut = trained(*settings, BOTH, "resume=true", run_dir="outputs/cut")
    steps = [[entry for entry in lines(folder / "metrics.jsonl") if "loss" in entry] for folder in (whole, cut)]
    assert len(steps[0]) == 14
    assert steps[0] == steps[1]


def test_prefixes_of_a_source_reach_its_tokens(composed, two_files, tmp_path):
    given = "data.sources={laws: {train_file: laws.jsonl, query_prefix: '법: ', passage_prefix: ''}, web: web.jsonl}"
    config = composed("train", "data=mix", given, *TINY)
    data, tokenizer = load_training_data(config), load_encoder(model_source(config)).tokenizer
    model = TextSpec(query_max_length=24, passage_max_length=48)
    tokens = tokenize_rows(data.train, tokenizer, [source.text(model) for source in data.mix.sources], tmp_path / "cache")
    expected = {0: ("법: ", ""), 1: ("query: ", "passage: ")}
    seen = set()
    for row, found in zip(data.train.rows, tokens.tokens, strict=True):
        query, passage = expected[row["source"]]
        seen.add(row["source"])
        assert found["query"] == tokenizer(query + row["query"])["input_ids"]
        assert found["positives"] == [tokenizer(passage + row["positives"][0])["input_ids"]]
    assert seen == {0, 1}
    plain = tokenize_rows(data.train, tokenizer, model, tmp_path / "cache")  # another contract, another cache
    assert plain.tokens[0]["query"] != tokens.tokens[0]["query"]


def test_grouping_a_mix_by_length_is_refused(trained, two_files):
    with pytest.raises(ConfigurationError, match="group_by_length=true: not with data=mix"):
        trained("data=mix", BOTH, "training.group_by_length=true", "training.max_steps=1")


def test_a_source_smaller_than_a_step_is_told_before_training(trained, two_files):
    given = "data.sources={laws: laws.jsonl, web: {train_file: web.jsonl, cap: 10}}"
    with pytest.raises(DataError, match=r"data\.sources\.web: its \d+ training rows do not fill one step of 16 rows"):
        trained("data=mix", given, "training.max_steps=1")
