"""Sums behind log lines survive a checkpoint unchanged."""

import pytest
import torch

from e5ft.training.log_sums import LogSums


def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path):
    one = LogSums(logged=3, loss=float(torch.tensor(0.1) + torch.tensor(0.7)))
    for value in (torch.tensor(1 / 3), torch.tensor(1e-7)):
        one.add("share", value)
    one.add("negatives", 31.0)
    one.step_done(True)
    one.save(tmp_path, 0)
    other = LogSums.load(tmp_path, 0)
    assert (other.logged, other.loss, other.skipped, other.skipped_in_a_row) == (3, one.loss, 1, 1)
    for progress in (one, other):
        progress.add("share", torch.tensor(0.2))
    assert one.means() == other.means() != {} and one.means() == {}


def test_each_of_as_many_processes_takes_its_own_and_another_number_the_mean(tmp_path, monkeypatch):
    for rank, (loss, share) in enumerate([(1.0, 0.2), (3.0, 0.4)]):
        progress = LogSums(logged=2, loss=loss)
        progress.add("share", share)
        progress.save(tmp_path, rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    own = LogSums.load(tmp_path, 1)
    assert own.loss == 3.0 and own.means() == {"share": 0.4}
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = LogSums.load(tmp_path, 0)
    assert found.loss == 2.0 and found.means() == {"share": pytest.approx(0.3)}


def test_another_number_of_processes_takes_the_mean_of_those_that_have_a_sum(tmp_path, monkeypatch):
    """The second process's rows had no hard negative, the first's in one step of two."""
    values = [("kl", 1.0), ("hard", 0.5), ("kl", 2.0)], [("kl", 3.0), ("kl", 4.0)]
    for rank, each in enumerate(values):
        progress = LogSums()
        for name, value in each:
            progress.add(name, value)
        progress.save(tmp_path, rank)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for ranks in ((0, 1), (1, 0)):
        (tmp_path / "progress_0.json").rename(tmp_path / "old")
        (tmp_path / "progress_1.json").rename(tmp_path / f"progress_{ranks[0]}.json")
        (tmp_path / "old").rename(tmp_path / f"progress_{1 - ranks[0]}.json")
        found = LogSums.load(tmp_path, 3)
        assert found.sums["kl"] == (5.0, 2) and found.means() == {"kl": 2.5, "hard": 0.5}


def test_skipped_steps_are_counted_in_all_and_in_a_row():
    progress = LogSums()
    assert [progress.step_done(skipped) for skipped in (True, True, False, True)] == [1, 2, 0, 1] and progress.skipped == 3
