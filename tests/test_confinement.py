"""The commands with hostile names, links and folders: refused, or inside, and not a byte elsewhere changes."""

import os
from pathlib import Path

import pytest

from e5ft.modeling.loading import save_encoder
from tests.app.conftest import TINY
from tests.chaos.forking import Warm
from tests.conftest import make_encoder

MINE = ("sources=[bm25]", "per_query=1", "data.max_train_rows=20")
RUN = (*TINY, "training.max_steps=1", "evaluation.bm25=null", "data.max_train_rows=60", "tracking=off", "training.eval_strategy=no",
       "training.load_best_model_at_end=false")  # fmt: skip
# What a name may hold, and which of Hydra's fields are refused: tests/app/settings. Here, that every command asks.
REFUSED = [
    ("train.py", "name=../../x"),
    ("train.py", "name=out", *RUN),
    ("train.py", "name=a", "+hydra.run.dir=../outside/run", *RUN),
    ("train.py", "--config-dir=theirs", "--config-name=elsewhere", "name=a", *RUN),
    ("train.py", "-m", "name=../s", "seed=1,2", *RUN),
    ("train.py", "-m", "name=s", "seed=1,2", "hydra.sweep.subdir=../../../outside/${hydra.job.num}", *RUN),
    ("train.py", "-m", "name=out", "seed=1,2", *RUN),
    ("mine.py", "name=../x", *MINE),
    ("mine.py", "name=out", *MINE),
    ("mine.py", "output_dir=../outside", *MINE),
    ("mine.py", "output_dir=link", *MINE),
    ("mine.py", "output_dir=rows-out", *MINE),
    ("mine.py", "name=a", "rows_dir=../outside", *MINE),
    ("export.py", "model.path=model", "output_dir=../outside"),
    ("export.py", "model.path=model", "output_dir=../outside/thesis.txt"),
    ("export.py", "model.path=model", "output_dir=model"),
    ("export.py", "model.path=model", "output_dir=link"),
    ("eval.py", "model.path=model", "output_dir=../outside/results"),
]  # fmt: skip


@pytest.fixture(scope="module")
def warm():
    names = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    with Warm({**environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}) as process:
        yield process


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """work/, where commands are given, with links out of it; outside/, which nobody may touch."""
    folder = tmp_path_factory.mktemp("confinement")
    outside, work = folder / "outside", folder / "work"
    (outside / "results/sample-test/model").mkdir(parents=True)
    for path in ("thesis.txt", "modules.json", "rows.jsonl", "results/sample-test/model/thesis.txt"):
        (outside / path).write_text("{}")
    save_encoder(make_encoder(), work / "model")
    (work / "theirs").mkdir()
    (work / "theirs/elsewhere.yaml").write_text("defaults: [train, _self_]\nhydra:\n  run:\n    dir: ../outside\n")
    for root in ("outputs", "multirun", "outputs/mined"):
        (work / root).mkdir()
        (work / root / "out").symlink_to(outside)
    (work / "link").symlink_to(outside)
    (work / "rows-out").mkdir()
    (work / "rows-out/rows.jsonl").symlink_to(outside / "rows.jsonl")
    return work


def tree(work: Path) -> dict[str, str | None]:
    """All but what the runs may write: every path beside work/, and the links and folders in it, with their content."""
    beside = {
        str(path): path.read_text() if path.is_file() else None for path in work.parent.rglob("*") if work not in path.parents
    }
    return beside | {str(path): os.readlink(path) for path in work.rglob("*") if path.is_symlink()}


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: " ".join(command[:3])[:60])
def test_what_leads_out_is_refused_and_nothing_is_written_there(warm, work, tmp_path, command):
    before = tree(work)
    done = warm.call(*command, cwd=work, out=tmp_path / "out")
    assert done.code in ((1, 2) if "-m" in command else (2, 3)), done.output
    assert "error: " in done.output and "Traceback" not in done.output
    assert tree(work) == before
    assert not list(work.glob("outputs/*/config.yaml")) and not list(work.glob("multirun/*/*/config.yaml"))


@pytest.mark.parametrize("name", ["한국어-실험_1", "CON", "a.", "x" * 100])
def test_unusual_names_are_folders(warm, work, tmp_path, name):
    done = warm.call("mine.py", f"name={name}", *MINE, cwd=work, out=tmp_path / "out")
    assert done.code == 0, done.output
    assert (work / "outputs/mined" / name / "rows.jsonl").is_file()


def test_a_result_of_its_own_is_replaced(warm, work, tmp_path):
    for _ in range(2):
        done = warm.call("export.py", "model.path=model", "output_dir=exported", cwd=work, out=tmp_path / "out")
        assert done.code == 0, done.output
    (work / "exported/.git").mkdir()  # somebody keeps it under version control: replacing the folder would lose that
    done = warm.call("export.py", "model.path=model", "output_dir=exported", cwd=work, out=tmp_path / "out")
    assert done.code == 2 and ".git" in done.output and (work / "exported/.git").is_dir()


def test_hydra_writes_no_record_of_its_own_whatever_an_experiment_says(warm, work, tmp_path):
    (work / "theirs/experiment").mkdir()
    (work / "theirs/experiment/record.yaml").write_text("# @package _global_\nhydra:\n  output_subdir: .hydra\n")
    command = ("train.py", "--config-dir=theirs", "experiment=record", "name=record", "model.path=nowhere")
    done = warm.call(*command, cwd=work, out=tmp_path / "out")
    assert done.code == 2 and "nowhere" in done.output
    assert not (work / "outputs/record/.hydra").exists()
