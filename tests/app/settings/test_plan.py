"""What a plan decides: sources of a mix, keep sets, the dev set's origin, and what is refused before a row is read."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from e5ft.app.settings.build import register, shipped
from e5ft.app.settings.plan import (
    SAMPLE_ROWS,
    SAMPLE_SET,
    SHIPPED_KEEP,
    BeirSplit,
    DevShare,
    RowsFile,
    evaluation_source,
    plan,
    row_files,
)
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.sets import load_beir

BOTH = "data.sources={laws: laws.jsonl, web: {train_file: web.jsonl, weight: 2}}"


@pytest.fixture
def keep(tmp_path):
    def make(name: str):
        return shutil.copytree(SAMPLE_SET, tmp_path / name)

    return make


def test_where_the_dev_set_and_the_evaluation_come_from(composed, write_rows, keep):
    """The sample's rows, rows of one's own, and both with a dev file or a folder with and without a dev split."""
    file, whole, tested = write_rows([{"query": "q", "document": "d"}]), keep("whole"), keep("tested")
    (tested / "qrels/dev.tsv").unlink()
    share, own = DevShare(0.1, 42), f"data.train_file={file}"
    for script in ("train", "mine"):
        for overrides, dev, evaluation, optimistic in (
            ((), BeirSplit(SAMPLE_SET, "dev"), BeirSplit(SAMPLE_SET, "test"), False),
            (("data.eval_split=dev",), BeirSplit(SAMPLE_SET, "dev"), BeirSplit(SAMPLE_SET, "dev"), True),
            ((f"data.dev_file={file}",), "file", None, True),
            ((own,), share, None, True),
            ((own, f"data.dev_file={file}"), "file", None, True),
            ((own, f"data.eval_dir={whole}"), BeirSplit(whole, "dev"), BeirSplit(whole, "test"), False),
            ((own, f"data.eval_dir={tested}"), share, BeirSplit(tested, "test"), False),
            ((f"data.eval_dir={tested}",), share, BeirSplit(tested, "test"), False),
            ((own, f"data.eval_dir={whole}", f"data.dev_file={file}"), "file", BeirSplit(whole, "test"), False),
        ):
            made = plan(composed(script, *overrides))
            assert (isinstance(made.dev, RowsFile) and made.dev.file == str(file)) if dev == "file" else made.dev == dev
            assert (made.evaluation, made.dev_is_test, made.sample) == (evaluation, optimistic, own not in overrides)
            assert set(made.held_out) == {
                part for part in (made.dev if dev == "file" or dev is share else None, evaluation) if part
            }
    mined = plan(composed("mine", f"rows_dir={tested}", "rows_split=test"))
    assert (mined.dev, mined.evaluation, mined.held_out, mined.sample) == (None, None, (), False)


def test_eval_ranks_one_set(composed, write_rows, keep):
    file, folder = write_rows([{"query": "q", "document": "d"}]), keep("law")
    assert evaluation_source(composed("eval", "model.path=.")) == BeirSplit(SAMPLE_SET, "test")
    in_folder = composed("eval", "model.path=.", f"data.eval_dir={folder}", "data.eval_split=dev")
    assert evaluation_source(in_folder) == BeirSplit(folder, "dev")
    assert evaluation_source(composed("eval", "model.path=.", f"data.dev_file={file}")).file == str(file)
    with pytest.raises(ConfigurationError, match="name one of the two"):
        evaluation_source(composed("eval", "model.path=.", f"data.eval_dir={folder}", f"data.dev_file={file}"))


@pytest.mark.parametrize("field", ["train_file", "dev_file"])
def test_a_missing_file_of_rows_is_told_before_reading(composed, field):
    for given, words in {
        "absent.jsonl": "absent.jsonl: there is no such file",
        "absent.csv.gz": "absent.csv.gz: there is no such file",
        "'absent/*.jsonl'": r"absent/\*.jsonl: no file matches",
        f"[{SAMPLE_ROWS},absent.jsonl]": "absent.jsonl: there is no such file",
        str(SAMPLE_SET): "an evaluation set in BEIR's layout; data.eval_dir=",
    }.items():
        with pytest.raises(DataError, match=words):
            plan(composed("train", f"data.{field}={given}"))


def test_several_files_are_one_source(composed, write_rows):
    first, second = (write_rows([{"query": "q", "document": "d"}], name) for name in ("a.jsonl", "b.jsonl"))
    for given in (f"[{first},{second}]", f"'{Path(first).parent}/?.jsonl'"):
        made = plan(composed("train", f"data.train_file={given}", f"data.dev_file={given}"))
        assert len(made.sources) == 1 and made.sources[0].file == made.dev.file
    assert plan(composed("train", f"data.train_file=[{first},{second}]")).display_name == f"{first} and 1 more"


def test_one_folder_or_a_list_or_nothing(composed, keep):
    folder = keep("law")
    for value, names in ((folder, ["law-test"]), (f"[{folder}]", ["law-test"]), ("[]", []), ("null", [])):
        assert [entry.name for entry in plan(composed("train", f"data.keep_dir={value}")).keep] == names


def test_the_split_is_the_target_s(composed, keep):
    settings = composed("train", f"data.keep_dir={keep('law')}", "data.eval_split=dev")
    assert [entry.name for entry in plan(settings).keep] == ["law-dev"]


def test_sets_of_one_name_are_refused_and_a_link_tells_them_apart(composed, keep, tmp_path):
    first, second = keep("a/law/eval"), keep("b/law/eval")
    for folders in (f"[{first},{second}]", f"[{first},{first}]", f"[{SAMPLE_SET}]"):
        with pytest.raises(ConfigurationError, match=r"it would be named (law|sample)-test, as .* is"):
            plan(composed("train", f"data.keep_dir={folders}"))
    (tmp_path / "other").symlink_to(second)
    settings = composed("train", f"data.keep_dir=[{first},{tmp_path / 'other'}]")
    assert [entry.name for entry in plan(settings).keep] == ["law-test", "other-test"]


def test_the_set_that_ships_is_named_by_one_word_and_e5_s_recipes_name_it(composed, keep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep("six_languages")
    (ours,) = plan(composed("train", "model=e5_small")).keep
    assert ours.name == "six_languages-test" and ours.folder == SHIPPED_KEEP and plan(composed("train")).keep == ()
    for split, taken in (("dev", "dev"), ("validation", "test")):
        shutil.copy((target := keep(split)) / "qrels/test.tsv", target / f"qrels/{split}.tsv")
        given = (f"data.eval_dir={target}", f"data.eval_split={split}")
        assert [each.split for each in plan(composed("train", "model=e5_small", *given)).keep] == [taken]
    (own,) = plan(composed("train", "data.keep_dir=./six_languages")).keep
    assert own.folder != SHIPPED_KEEP
    with pytest.raises(ConfigurationError, match=r"named six_languages-test, .*: data.keep_dir=\[\] leaves it out"):
        plan(composed("train", "model=e5_small", f"data.eval_dir={SHIPPED_KEEP}"))


def test_a_yaml_of_one_s_own_in_the_place_of_a_group_s_wins_over_the_recipe(tmp_path):
    register()
    for file, text in (
        ("data/faq.yaml", "defaults: [default]\nkeep_dir: [mine]\n"),
        ("training/slow.yaml", "defaults: [default]\nper_device_train_batch_size: 4\n"),
        ("optimizer/own.yaml", "_target_: torch.optim.AdamW\nlr: 0.5\n"),
    ):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text)
    for chosen, expected in (
        ([], (["six_languages"], 6e-5, 32)),
        (["data=faq", "training=slow", "optimizer=own"], (["mine"], 0.5, 4)),
        (["optimizer=sgd"], (["six_languages"], 0.01, 32)),
        (["model=mini"], (None, 1e-3, 64)),
    ):
        with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
            overrides = ["model=e5_small", *chosen, f"hydra.searchpath=[file://{tmp_path}]"]
            made = compose("train", overrides, return_hydra_config=True)
        assert (made.data.keep_dir, made.optimizer.lr, made.training.per_device_train_batch_size) == expected


def test_the_set_that_ships_has_six_languages_and_two_splits_that_share_no_topic():
    read = {split: load_beir(SHIPPED_KEEP, split) for split in ("dev", "test")}
    topics = {split: {name[:5] for name in each.query_ids} for split, each in read.items()}
    assert all(len(each.queries) == 240 and len(each.passages) == 240 for each in read.values())
    assert not topics["dev"] & topics["test"]
    assert {each[:2] for each in topics["test"]} == {each[:2] for each in topics["dev"]} == {"en", "zh", "ja", "es", "hi", "ar"}


def test_what_is_not_there_is_told_before_anything_is_read(composed, keep):
    folder = keep("law")
    (folder / "qrels/test.tsv").unlink()
    for value, message in (("nowhere", "nowhere: no such folder"), (f"[{folder}]", "the splits there are: dev")):
        with pytest.raises(DataError, match=message):
            plan(composed("train", f"data.keep_dir={value}"))


def test_mining_reads_no_keep_set(composed):
    assert plan(composed("mine", "data.keep_dir=nowhere")).keep == ()


# -- configuration -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        (BOTH,),
        ("+data.sources.laws.train_file=laws.jsonl", "+data.sources.web={train_file: web.jsonl, weight: 2}"),
        ("data.sources={laws: laws.jsonl, web: web.jsonl}", "data.sources.web={train_file: web.jsonl, weight: 2}"),
    ],
)
def test_sources_are_named_on_the_command_line(composed, write_rows, overrides):
    for name in ("laws", "web"):
        write_rows([{"query": "q", "document": "d"}], f"{name}.jsonl")
    mix = plan(composed("train", "data=mix", *overrides, "data.mix.temperature=3")).mix
    assert mix.names == ("laws", "web")
    assert [(s.train_file, s.weight, s.cap, s.columns.query) for s in mix.sources] == [
        ("laws.jsonl", 1.0, None, None),
        ("web.jsonl", 2, None, None),
    ]
    assert (mix.temperature, mix.one_source) == (3, True)


def test_a_source_may_have_its_own_columns(composed):
    sources = "data.sources={a: {train_file: f, columns: {document: answer, ignore: [id]}}, b: f}"
    first, second = row_files(composed("train", "data=mix", sources, "data.columns.query=q"))
    assert (first.columns.query, first.columns.document, first.columns.ignore) == ("q", "answer", ("id",))
    assert (second.columns.query, second.columns.document, second.columns.ignore) == ("q", None, ())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.sources=null", "data.sources: must name at least one source"),
        ("data.sources={}", "data.sources: must name at least one source"),
        ("data.sources=[laws.jsonl]", r"data\.sources=\['laws\.jsonl'\]: must be names and files"),
        (
            "data.sources={a: {train_file: f, wieght: 2}}",
            r"data\.sources\.a\.wieght=2: no such field; did you mean data.sources.a.weight",
        ),
        ("data.sources={a: {train_file: f, columns: {doc: x}}}", r"data\.sources\.a\.columns\.doc='x': no such field"),
        ("data.sources={a: {weight: 2}}", r"data\.sources\.a\.train_file: must be given"),
        ("data.sources={a: 3}", r"data\.sources\.a\.train_file=3: must be the name of a file"),
        ("data.sources={a: {train_file: f, weight: 0}}", r"data\.sources\.a\.weight=0"),
        ("data.train_file=rows.jsonl", r"data\.train_file='rows.jsonl': must be null with data=mix"),
        ("+data.mix.kind=x", r"data\.mix\.kind='x': no such field"),
        ("~data.columns", r"data\.columns=None: must be a mapping"),
        ("data.columns=null", r"data\.columns=None: must be a mapping"),
        ("data.mix=3", r"data\.mix=3: must be a mapping"),
        ("data.mix.temperature=0", r"data\.mix\.temperature=0"),
    ],
)
def test_what_a_mix_refuses(composed, override, words):
    sources = [] if override.startswith("data.sources") else ["data.sources={a: f}"]
    with pytest.raises(ConfigurationError, match=words):
        plan(composed("train", "data=mix", *sources, override))


@pytest.mark.parametrize("script", ["train", "eval", "mine"])
def test_a_file_as_evaluation_folder_is_told_where_it_belongs(composed, tmp_path, script):
    (tmp_path / "faq (1).csv").write_text("query,document\na,b\n")
    asked = ["model=mini", "data.eval_dir='faq (1).csv'"] + ["sources=[bm25]"] * (script == "mine")
    settings = composed(script, *asked)
    with pytest.raises(ConfigurationError, match=r"data.eval_dir='faq \(1\).csv': .*: 'data.dev_file=faq \(1\).csv'$"):
        evaluation_source(settings) if script == "eval" else plan(settings)
