"""A run writes in one folder below the output root, whatever name, link or override it is given."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.settings import guard as places
from e5ft.errors import ConfigurationError

TOKEN = "hf_" + "aB3" * 12
BAD = ["../x", "a/b", "/etc", "", ".", "..", ".hidden", "a\0b", "a\nb", "a\n", "a b", "a ", "x" * 101, "-rf", "--help", "가" * 90]
GOOD = ["2026-11-23_13-00-00", "한국어-실험_1", "a.b", "a.", "CON", "nul", "x" * 100, "가" * 66, "éclair", "로그"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [*BAD, "latest", "LATEST", TOKEN, f"run-{TOKEN}"])
@pytest.mark.parametrize("function", [places.run_dir, places.sweep_dir])
def test_names_stay_below_the_output_root(function, name):
    with pytest.raises(ConfigurationError) as caught:
        function(name)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name):
    assert places.run_dir(name) == f"outputs/{name}" and places.sweep_dir(name) == f"multirun/{name}"


@given(st.text(max_size=120))
def test_any_text_is_refused_or_one_folder(name):
    try:
        path = Path(places.run_dir(name))
    except ConfigurationError:
        return
    assert path.parts == ("outputs", name) and len(name.encode()) <= 200 and name.isprintable()


def test_a_link_out_of_the_root_is_refused(here):
    (here / "elsewhere").mkdir()
    (here / "outputs/other").mkdir(parents=True)
    for name, target in (("out", here / "elsewhere"), ("etc", "/etc"), ("dangling", "../../nowhere"), ("inside", "other")):
        (here / "outputs" / name).symlink_to(target)
    for name in ("out", "etc", "dangling"):
        with pytest.raises(ConfigurationError, match=f"name={name}.*leads out of outputs/"):
            places.run_dir(name)
    assert places.run_dir("inside") == "outputs/inside"


def test_the_root_may_be_a_link_to_a_larger_disk(here):
    (here / "disk").mkdir()
    (here / "outputs").symlink_to(here / "disk")
    assert places.run_dir("a") == "outputs/a"


@pytest.mark.parametrize(
    "override",
    [
        "hydra.run.dir=/tmp/x",
        "hydra.sweep.dir=..",
        "++hydra.sweep.subdir=../x",
        "hydra.run={dir: /tmp/x}",
        "~hydra.run.dir",
        "hydra.output_subdir=.hydra",
        "hydra={run: {dir: x}}",
    ],
)
def test_hydra_s_own_folders_are_not_set(override):
    with pytest.raises(ConfigurationError, match="hydra"):
        places.check_overrides(["seed=1", override])


def test_other_overrides_are_let_through():
    places.check_overrides(
        ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2", "name=a", "+loss.x=hydra.run.dir=1", "--cfg"]
    )


@pytest.mark.parametrize(("folder", "good"), [
    (".", True), ("outputs/a", True), ("multirun/s/0", True),
    ("..", False), ("outputs", False), ("outputs/out", False), ("elsewhere", False), ("multirun/s/1", False),
])  # fmt: skip
def test_where_a_job_may_be(here, folder, good):
    (here / "outputs").mkdir()
    (here / "multirun/s").mkdir(parents=True)
    (here / "outputs/out").symlink_to("/etc")
    (here / "multirun/s/1").symlink_to(here)
    with contextlib.nullcontext() if good else pytest.raises(ConfigurationError, match="leads out"):
        places.check_job_folder(here, here / folder)
