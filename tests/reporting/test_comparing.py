"""Runs side by side: paired where the sets allow it, and the settings that differ."""

import pytest

from e5ft.errors import DataError
from e5ft.files import read_json, write_json
from e5ft.reporting.comparing import comparison, differing_settings
from e5ft.retrieval.verdict import CHOSE, TOO_FEW
from tests.reporting.made_runs import make_run, make_sweep


def test_each_run_is_held_against_the_first_query_by_query(tmp_path):
    for name, skill in (("a", 0.4), ("b", 0.6), ("c", 0.41)):
        make_run(tmp_path / name, skill=skill, seed=ord(name), keep=[("wiki-test", 0.01)] if name != "c" else ())
    found = comparison([tmp_path / name for name in "abc"])
    scores = [run.summary["scores"]["after"]["metrics"]["ndcg@10"] for run in found.runs]
    first, b, c = found.sets["faq-test"]
    assert first.pair is None and b.pair.mean == pytest.approx(scores[1] - scores[0]) and b.pair.is_apart
    assert c.pair.mean == pytest.approx(scores[2] - scores[0]) and (found.verdict["word"], found.verdict["because"]) == (
        "NO DIFFERENCE",
        None,
    )
    assert [result.entry is None for result in found.sets["wiki-test"]] == [False, False, True]
    assert found.sets["wiki-test"][1].pair is not None and found.sets["wiki-test"][2].pair is None
    assert comparison([tmp_path / "a", tmp_path / "b"]).verdict["word"] == "BETTER"
    assert comparison([tmp_path / "b", tmp_path / "a"]).verdict["word"] == "WORSE"


def test_what_the_test_set_cannot_decide_is_undecided(tmp_path):
    make_run(tmp_path / "a", queries=20)
    make_run(tmp_path / "b", queries=20, skill=0.9)
    verdict = comparison([tmp_path / "a", tmp_path / "b"]).verdict
    assert (verdict["word"], verdict["because"], verdict["reason"]) == ("UNDECIDED", TOO_FEW, "20 test queries, fewer than 30")
    for name in "ab":
        make_run(tmp_path / name, skill=0.9 if name == "b" else 0.4, chosen_on_test=True)
    verdict = comparison([tmp_path / "a", tmp_path / "b"]).verdict
    assert (verdict["word"], verdict["because"]) == ("UNDECIDED", CHOSE)


def test_other_sets_and_damaged_files_are_obstacles_that_are_named(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", test="other")
    found = comparison([tmp_path / "a", tmp_path / "b"])
    assert list(found.sets) == ["faq-test", "other"] and found.last.entry is None and found.verdict["word"] == "UNDECIDED"
    make_run(tmp_path / "b")
    record = tmp_path / "b/eval/faq-test/final/metrics.json"
    write_json(record, {**read_json(record), "passages": 7})
    assert comparison([tmp_path / "a", tmp_path / "b"]).last.obstacle == {"kind": "passages", "values": (7, 1000)}
    (tmp_path / "b/eval/faq-test/final/per_query.jsonl").write_text("{")
    assert comparison([tmp_path / "a", tmp_path / "b"]).last.obstacle["kind"] == "record"


def test_only_finished_runs_compare_and_of_a_multirun_the_best_job(tmp_path):
    make_run(tmp_path / "a")
    write_json(tmp_path / "b/status.json", {"state": "failed", "error": "no rows", "seconds": 1})
    with pytest.raises(DataError, match=r"b: must have finished; it is failed \(no rows\)"):
        comparison([tmp_path / "a", tmp_path / "b"])
    make_sweep(tmp_path / "s")
    best = comparison([tmp_path / "a", tmp_path / "s"]).runs[1]
    assert best.folder.parent == tmp_path / "s" and "loss.temperature=0.02" in (best.folder / "overrides.yaml").read_text()
    for number in (1, 2):
        make_run(tmp_path / "unscored" / str(number), best={"score": None, "step": 3}, overrides=[f"seed={number}"])
    with pytest.raises(DataError, match=r"unscored: no dev score says which job is best; name one: .*unscored/1"):
        comparison([tmp_path / "a", tmp_path / "unscored"])


def test_settings_that_differ_are_listed_and_names_and_caches_are_not():
    a = {
        "name": "a",
        "cache_dir": "x",
        "loss": {"temperature": 0.02, "_target_": "L"},
        "data": {"keep_dir": []},
        "tracking": {"w": 1},
    }
    b = {"name": "b", "cache_dir": "y", "loss": {"temperature": 0.05, "_target_": "L"}, "data": {"keep_dir": ["k"]}, "lora": None}
    found = differing_settings([a, b])
    assert found == {"loss.temperature": ["0.02", "0.05"], "data.keep_dir": ["[]", '["k"]'], "lora": ["–", "null"]}


def test_jobs_of_several_multiruns_have_different_names(tmp_path):
    for folder in ("s/0", "t/0", "x/s/0"):
        make_run(tmp_path / folder)
    assert comparison([tmp_path / "s/0", tmp_path / "t/0"]).names == ["s/0", "t/0"]
    assert len(set(comparison([tmp_path / "s/0", tmp_path / "x/s/0"]).names)) == 2
