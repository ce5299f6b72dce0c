"""A sweep's table: best run first, failures last, what it cost on keep sets beside what it gained."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from e5ft.app.configuration import PROJECT
from e5ft.app.sweep import collect
from e5ft.files import write_json


def job(folder, number, *, dev=None, test=0.5, change=None, error=None):
    write_json(folder / str(number) / "status.json", {"state": "failed", "error": error} if error else {"state": "finished"})
    if error:  # a job that went wrong leaves a summary, too
        end = {"state": "failed", "error": error, "exit_code": 3, "reached": {"step": 4, "dev": None}, "seconds": 1.5}
        write_json(folder / str(number) / "summary.json", end)
        return
    keep = [{"set": "wiki-test", "differences": {"ndcg@10": {"mean": change}}}] if change is not None else []
    summary = {
        "state": "finished", "best": {"score": dev}, "objective": "ndcg@10", "test_set": "law-test", "keep": keep, "training": {"seconds": 1.5},
        "scores": {"after": {"metrics": {"ndcg@10": test, "hit@1": test}}},
    }  # fmt: skip
    write_json(folder / str(number) / "summary.json", summary)


def test_gain_and_loss_stand_side_by_side(tmp_path):
    job(tmp_path, 0, dev=0.4, change=-0.02)
    job(tmp_path, 1, error="no rows\nsecond line")
    job(tmp_path, 2, dev=0.6, test=0.7, change=0.01)
    rows = collect(tmp_path)
    assert [row["job"] for row in rows] == ["2", "0", "1"]
    assert [row.get("wiki-test ndcg@10 change") for row in rows] == [0.01, -0.02, None]
    assert rows[0]["law-test ndcg@10"] == 0.7 and rows[2]["error"] == "no rows" and rows[2]["state"] == "failed"


def test_a_sweep_without_keep_sets_has_no_such_column(tmp_path):
    job(tmp_path, 0, dev=0.4)
    assert not any("change" in column for column in collect(tmp_path)[0])


@pytest.mark.parametrize(
    ("launcher", "package"), [("parallel", "hydra_joblib_launcher"), ("submitit", "hydra_submitit_launcher")]
)
def test_launchers_compose_into_what_their_package_takes(launcher, package):
    """Our values over the package's, and no field that its launcher does not know."""
    pytest.importorskip(f"hydra_plugins.{package}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        composed = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra.launcher
    GlobalHydra.instance().clear()
    ours = OmegaConf.load(PROJECT / "conf/hydra/launcher" / f"{launcher}.yaml")
    assert {key: composed[key] for key in ours if key != "defaults"} == {key: ours[key] for key in ours if key != "defaults"}
    given = {
        **OmegaConf.to_container(composed, resolve=False),
        **({} if launcher == "parallel" else {"submitit_folder": ".", "name": "train"}),
    }
    assert instantiate(given, _recursive_=False) is not None
