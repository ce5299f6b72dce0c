"""Data are looked at before torch is imported, a model is looked for, or anything is written below outputs/."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from e5ft.app.commands import train as training
from e5ft.app.commands.reading import read_first
from e5ft.errors import ConfigurationError, DataError
from tests.test_cli import ENVIRONMENT, ROOT

BAD = '{"query": "q", "document": "d"}\n{"query": "q"}\n'
GOOD = "".join(json.dumps({"query": f"q{i}", "document": f"d{i}"}) + "\n" for i in range(12))


@pytest.fixture
def without_torch(tmp_path):
    """Run a script where importing torch or transformers fails; returns what it printed of an error."""
    for library in ("torch", "transformers"):
        (tmp_path / "lib" / library).mkdir(parents=True)
        (tmp_path / "lib" / library / "__init__.py").write_text(f"raise AssertionError('{library} was imported')")

    def run(*arguments):
        environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path / 'lib'}:{ROOT}"}
        command = [sys.executable, "-m", "e5ft", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 3 and "was imported" not in done.stderr, done.stderr
        return done.stderr

    return run


def a_set(folder: Path, corpus: str = '{"_id": "a", "text": "t"}\n') -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "t"}\n')
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "data.train_file=bad.jsonl"], "bad.jsonl:2"),
        (["train", "data.train_file=bad (1).jsonl", "model=e5_small"], "bad (1).jsonl:2"),
        (["train", "data.train_file=good.jsonl", "data.dev_file=bad.jsonl"], "bad.jsonl:2"),
        (["train", "data.train_file=good.jsonl", "data.eval_dir=empty"], "corpus.jsonl: no such file"),
        (["train", "data.train_file=good.jsonl", "data.keep_dir=[broken]"], "corpus.jsonl:1"),
        (["train", "data.train_file=good.jsonl", "data.dev_file=good.jsonl", "data.eval_dir=broken"], "corpus.jsonl:1"),
        (["train", "data=mix", "data.sources={a: good.jsonl, b: bad.jsonl}"], "bad.jsonl:2"),
        (["train", "data.train_file=bad.jsonl", "rounds.count=2"], "bad.jsonl:2"),
        (["mine", "data.train_file=bad.jsonl", "model=e5_small"], "bad.jsonl:2"),
        (["mine", "data.train_file=good.jsonl", "data.corpus_file=bad.jsonl", "sources=[bm25]"], "bad.jsonl:1"),
        (["eval", "data.dev_file=bad.jsonl", "model=e5_small"], "bad.jsonl:2"),
        (["eval", "data.eval_dir=broken", "model=e5_small"], "corpus.jsonl:1"),
        (["export", "model=e5_small", "merge.base=empty", "data.eval_dir=broken", "data.eval_split=test", "output_dir=x"], "corpus.jsonl:1"),
    ],
)  # fmt: skip
def test_a_fault_in_a_file_comes_before_torch_and_leaves_nothing(without_torch, tmp_path, arguments, told):
    for name, text in (("bad.jsonl", BAD), ("bad (1).jsonl", BAD), ("good.jsonl", GOOD)):
        (tmp_path / name).write_text(text)
    a_set(tmp_path / "broken", '{"_id": "a"}\n')
    (tmp_path / "empty").mkdir()
    assert told in without_torch(*arguments)
    assert not (tmp_path / "outputs").exists()


def test_rows_that_pass_are_read_without_torch_and_handed_on(tmp_path):
    """The whole way: validated, split, and the evaluation set loaded; the command need not read them again."""
    (tmp_path / "good.jsonl").write_text(GOOD)
    a_set(tmp_path / "eval")
    code = (
        "import sys\nfrom e5ft.app.runs import script\n"
        "def stop(): assert not {'torch', 'transformers'} & sys.modules.keys(); print('reached'); sys.exit()\n"
        "script.prepare_libraries = stop\n"
        "script.run('train')"
    )
    arguments = ["data.train_file=good.jsonl", "data.eval_dir=eval", "data.max_train_rows=10", "data.keep_dir=[]"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("reached\n"), done.stderr
    assert [path.name.partition("-")[0] for path in (tmp_path / "cache").glob("rows-*[!k]")] == ["rows"]


@pytest.mark.parametrize(
    ("verb", "overrides", "title"),
    [
        ("train", [], "e5ft: mini shape, random weights, on {rows}"),
        ("mine", ["sources=[bm25]"], "e5ft: hard negatives for {rows}, without a model"),
        ("eval", ["model=e5_small"], "e5ft: intfloat/multilingual-e5-small, measured on {rows}"),
    ],
)
def test_the_title_comes_before_what_was_understood_of_rows(composed, write_rows, capsys, verb, overrides, title):
    rows = write_rows([json.loads(line) for line in GOOD.splitlines()])
    field = "data.dev_file" if verb == "eval" else "data.train_file"
    read_first(verb, composed(verb, *overrides, f"{field}={rows}"))
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == title.format(rows=rows) and second == "  columns     query, document"


def test_what_has_been_read_is_not_read_again(composed, monkeypatch, write_rows):
    rows = f"data.train_file={write_rows([json.loads(x) for x in GOOD.splitlines()])}"
    settings = composed("train", "tracking=off", rows, "training.per_device_train_batch_size=8")
    data, given = read_first("train", settings), []

    class Run:
        def __init__(self, *arguments):
            given.append(arguments[-1])

        def run(self, mirror):
            return {"best": {"score": 0.5}}

    monkeypatch.setattr(training, "training_data", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(training, "_Run", Run)
    assert training.train(settings, training.Job(Path("outputs/x"), "x"), data) == 0.5 and given == [data]


@pytest.mark.parametrize(
    ("override", "refusal"),
    [
        ("data.train_file=nix.jsonl", DataError),
        ("optimizer._target_=torch.optim.Nix", ConfigurationError),
        ("training.fsdp=true", ConfigurationError),
        ("data.max_train_rows=4", DataError),  # fewer than a step
    ],
)
def test_nothing_is_written_and_no_run_begun_until_settings_and_rows_have_passed(
    trained, monkeypatch, tmp_path, override, refusal
):
    monkeypatch.setattr(training, "tracked", lambda *_: pytest.fail("W&B began"))
    with pytest.raises(refusal):
        trained(override)
    assert not (tmp_path / "outputs").exists()


def test_a_fault_found_later_leaves_the_folder_with_status_failed(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "score_model", lambda *_: pytest.fail("the base was measured first"))
    with pytest.raises(ConfigurationError, match="there is no layer 9"):
        trained("model.freeze=[9]", "evaluation.bm25=null")
    assert json.loads((tmp_path / "outputs/test/status.json").read_text())["state"] == "failed"


def test_a_name_that_is_taken_is_refused_before_any_row_is_read(composed, tmp_path):
    settings = composed("train", "data.train_file=nix.jsonl")
    (tmp_path / "outputs/test/checkpoint-1").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="holds a run already"):
        read_first("train", settings)


def test_what_is_resumed_the_doctor_and_several_processes_read_for_themselves(composed, monkeypatch):
    for override in ("resume=true", "doctor=true", "sweep.resume=true"):
        assert read_first("train", composed("train", "data.train_file=nix.jsonl", override)) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert read_first("mine", composed("mine", "data.train_file=nix.jsonl", "sources=[bm25]")) is None


def test_serve_refuses_a_base_that_is_not_there_before_it_listens_and_reads(composed):
    given = ("model=mini", "data.eval_dir=nowhere", "host=no.such.host.invalid", "base=no-base")
    with pytest.raises(ConfigurationError, match="^base=no-base: no such folder"):
        read_first("serve", composed("serve", *given))
