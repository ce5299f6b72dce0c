"""Four gloo processes against one: the exact step over an epoch's ragged end, and gathers where some have nothing."""

import numpy as np
import pytest
import torch

from tests.conftest import make_encoder
from tests.test_distributed import launched, rows_file  # noqa: F401  (a fixture)
from tests.training import four_processes, two_processes


@pytest.fixture(scope="module")
def processes(rows_file, tmp_path_factory):  # noqa: F811
    """What each of four processes returned."""
    return launched(four_processes.__name__, 4, rows_file, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def one_process(rows_file, tmp_path_factory):  # noqa: F811
    return two_processes.trained(rows_file, tmp_path_factory.mktemp("one"), batch=32, accumulation=1, steps=4)


@pytest.mark.parametrize("cut", four_processes.CUTS, ids=lambda cut: f"({cut[0]}x{cut[1]})x4")
def test_four_processes_equal_one(processes, one_process, cut):
    """Losses, gradients of all parameters and weights of 32 rows in one pass; the fourth step is the second epoch's first."""
    for run in (each[cut] for each in processes):
        torch.testing.assert_close(run["losses"], one_process["losses"], rtol=0, atol=1e-5)
        for ours, theirs in zip(run["gradients"], one_process["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(run["weights"], one_process["weights"], rtol=0, atol=1e-4)
        assert torch.equal(run["weights"], processes[0][cut]["weights"])
    assert len(one_process["losses"]) == 4 and one_process["losses"][-1] < one_process["losses"][0]


def test_processes_without_rows_take_part_in_a_gather(processes):
    for case, counts in enumerate(four_processes.ROW_COUNTS):
        expected = torch.cat([four_processes.rows_of(rank, count) for rank, count in enumerate(counts)])
        for rank, each in enumerate(processes):
            everyone, gradient = each["rows"][case]
            assert torch.equal(everyone, expected)
            assert torch.equal(gradient, torch.full((counts[rank], 4), 10.0))  # 1 + 2 + 3 + 4


def test_rows_sent_in_pieces_stand_as_if_sent_at_once(processes):
    expected = torch.cat([four_processes.rows_of(rank, sum(sizes)) for rank, sizes in enumerate(four_processes.PIECES)])
    for rank, each in enumerate(processes):
        everyone, gradient, _ = each["pieces"]
        assert torch.equal(everyone, expected)
        assert torch.equal(gradient, torch.full((sum(four_processes.PIECES[rank]), 4), 10.0))


def test_a_piece_travels_while_a_process_goes_on(processes):
    """The last process sends nothing before it has seen another one go on."""
    assert all(each["pieces"][2] for each in processes)


@pytest.mark.parametrize("case", range(len(four_processes.TEXT_COUNTS)))
def test_encoding_is_shared_and_everyone_gets_all_vectors(processes, case):
    expected = make_encoder().encode(four_processes.texts_of(four_processes.TEXT_COUNTS[case]), "query")
    for each in processes:
        for kind in ("vectors", "repeated"):
            np.testing.assert_allclose(each[kind][case], expected, rtol=0, atol=1e-6)


def test_all_processes_stop_when_one_is_asked(processes):
    assert [each["any"] for each in processes] == [[False, True, True]] * 4
