"""Two processes against one: gathering, its gradient, and whole training runs. One launch of two gloo processes for all."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from e5ft import distributed, gathering
from e5ft.data.collator import collate
from e5ft.data.sampler import StepSampler
from e5ft.retrieval.search import top_k
from e5ft.training.losses import InfoNCE, Triplet
from tests.conftest import make_encoder, make_rows
from tests.training import two_processes
from tests.training.conftest import make_trainer, micro_batches_of


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(100)))
    return str(path)


def launched(module: str, count: int, rows_file: str, folder: Path) -> list[dict]:
    """Run a module in `count` processes; what each of them found.

    Where a process dies by SIGSEGV all are started once more: gloo's own thread was seen to do so, once.
    """
    codes = _exit_codes(module, count, rows_file, folder)
    if -signal.SIGSEGV in codes:
        shutil.rmtree(folder)
        folder.mkdir()
        codes = _exit_codes(module, count, rows_file, folder)
    for rank, code in enumerate(codes):
        assert code == 0, f"{codes}\n{(folder / f'output-{rank}').read_text()[-3000:]}"
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(count)]


def _exit_codes(module: str, count: int, rows_file: str, folder: Path) -> list[int]:
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    processes = []
    for rank in range(count):
        with open(folder / f"output-{rank}", "w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, rows_file, str(folder)],
                    cwd=Path(__file__).parents[1],
                    env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    deadline = time.monotonic() + 300  # generous: it only ends a launch that hangs, one process waiting for the other
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):  # the others may wait for it
            deadline = min(deadline, time.monotonic() + 20)
        time.sleep(0.1)
    for process in processes:
        process.kill()
    return [process.wait() for process in processes]


@pytest.fixture(scope="module")
def found(rows_file, tmp_path_factory):
    """What each of two processes found."""
    return launched(two_processes.__name__, 2, rows_file, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one_process(rows_file, tmp_path_factory):
    return two_processes.trained(rows_file, tmp_path_factory.mktemp("one"), batch=32, accumulation=1, steps=4)


def test_ranks(found):
    assert [each["ranks"] for each in found] == [(0, 2, True, True), (1, 2, False, True)]


def test_gathered_arrays_keep_their_lengths(found):
    for case, counts in enumerate(two_processes.ARRAY_COUNTS):
        for each in found:
            for rank, count in enumerate(counts):
                part = each["arrays"][case][rank]
                assert part.dtype == np.int64
                np.testing.assert_array_equal(part, two_processes.array_of(rank, count))


def test_the_main_process_goes_first_and_its_failure_holds_up_nobody(found):
    assert found[0]["order"] == ["0", "1", "on"]


@pytest.mark.parametrize("cut", two_processes.CUTS, ids=lambda cut: f"({cut[0]}x{cut[1]})x2")
def test_two_processes_equal_one(found, one_process, cut):
    """Same losses, gradient norms, gradients of all parameters and weights as 32 rows in one process and one pass."""
    for each in found:
        run = each[cut]
        torch.testing.assert_close(run["losses"], one_process["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(run["norms"], one_process["norms"], rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(run["gradients"], one_process["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(run["weights"], one_process["weights"], rtol=0, atol=1e-4)
    assert torch.equal(found[0][cut]["weights"], found[1][cut]["weights"])
    assert one_process["losses"][-1] < one_process["losses"][0]


def test_the_tokens_of_both_processes_are_counted(found, rows_file, tmp_path):
    """Each process embeds the texts of its own rows; four steps, three an epoch."""
    data, count = make_trainer(rows_file, tmp_path, batch=1, accumulation=1).train_dataset, 0
    for rank in range(2):
        sampler = StepSampler(len(data), 16, world_size=2, rank=rank, seed=5)
        first = list(sampler)
        sampler.set_epoch(1)
        count += sum(len(collate([data[row] for row in rows]).input_ids) for rows in first + list(sampler)[:1])
    assert {each[16, 1]["tokens"] for each in found} == {count}


def test_triplets_that_are_spread_unevenly_count_the_same(found, rows_file, tmp_path):
    one = two_processes.trained(rows_file, tmp_path, batch=16, accumulation=1, steps=3, loss=Triplet(0.3))
    for each in found:
        torch.testing.assert_close(each["triplet"]["losses"], one["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(each["triplet"]["weights"], one["weights"], rtol=0, atol=1e-4)


def test_masks_distillation_cuts_and_several_positives_are_the_whole_steps(found, rows_file, tmp_path):
    """(8x2)x2 with another model's vectors at the step's side gives what 32 rows in one process and one pass give."""
    rows = two_processes.several_positives(rows_file)
    one = two_processes.trained(rows, tmp_path, batch=32, accumulation=1, steps=4, **two_processes.guided())
    for each in found:
        torch.testing.assert_close(each["guided"]["losses"], one["losses"], rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(each["guided"]["gradients"], one["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(each["guided"]["weights"], one["weights"], rtol=0, atol=1e-4)
    plain = two_processes.trained(rows, tmp_path / "plain", batch=32, accumulation=1, steps=1)
    assert abs(plain["losses"][0] - one["losses"][0]) > 0.1


def test_the_models_own_mask_is_the_whole_steps(found, rows_file, tmp_path):
    """(4x4)x2 masks by the margin what 32 rows in one process and one pass mask."""
    one = two_processes.trained(rows_file, tmp_path, batch=32, accumulation=1, steps=3, loss=two_processes.margin_mask())
    for each in found:
        torch.testing.assert_close(each["margin"]["losses"], one["losses"], rtol=0, atol=1e-5)
        for ours, theirs in zip(each["margin"]["gradients"], one["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(each["margin"]["weights"], one["weights"], rtol=0, atol=1e-4)
    plain = two_processes.trained(rows_file, tmp_path / "plain", batch=32, accumulation=1, steps=1, loss=InfoNCE(0.1))
    assert plain["losses"][0] - one["losses"][0] > 0.1  # it masks something


def test_micro_batch_negatives_stay_within_a_process_and_micro_batch(found, rows_file, tmp_path):
    """The mean of the four losses of 4 rows that a step of 16 holds."""
    options = {"negatives": "micro_batch"}  # rows are then dealt as they come
    trainer = make_trainer(rows_file, tmp_path, batch=4, accumulation=4, loss=InfoNCE(0.1), options=options)
    with torch.no_grad():
        losses = [trainer.loss(trainer.model(b.input_ids, b.lengths), b.step).item() for b in micro_batches_of(trainer)]
    for each in found:
        assert each["micro_batch"]["losses"][0] == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_micro_batches_and_steps_without_a_negative_are_counted_over_the_processes(found, rows_file, tmp_path):
    """Twelve rows, six without a hard negative: alone, six micro-batches; two by two, those steps in which neither process has one."""
    rows = two_processes.some_hard_negatives(rows_file)
    one = two_processes.trained(rows, tmp_path, batch=2, accumulation=1, steps=6, loss=Triplet(2.0))
    order = StepSampler(12, 2, seed=5).epoch_steps(0)
    assert one["without_negatives"] == int((order % 2).all(axis=1).sum()) > 0  # every second row has hard negatives
    assert ((order % 2).sum(axis=1) == 1).any()  # and a step in which one process has some
    for each in found:
        assert each["alone"]["without_negatives"] == 6
        assert each["some triplets"]["without_negatives"] == one["without_negatives"]
        torch.testing.assert_close(each["some triplets"]["losses"], one["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(each["some triplets"]["weights"], one["weights"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("batch", "step"), [(16, 4), (4, 1), (4, 4)])
def test_a_resumed_run_of_two_processes_equals_the_uninterrupted_one(found, batch, step):
    """Dropout on, 16x1 and 4x4: losses, norms and weights to the last bit, resumed within the first and the second epoch."""
    for each in found:
        whole, resumed = each["whole", batch], each["resumed", batch, step]
        assert resumed["losses"] == whole["losses"] and len(set(whole["losses"])) == 5
        assert resumed["norms"] == whole["norms"]
        assert torch.equal(resumed["weights"], whole["weights"])
        assert resumed["tokens"] == whole["tokens"]


def test_all_processes_take_the_cut_that_fits_the_smallest_memory(found, one_process):
    """The first process would hold 16 rows; the second does not. The losses are those of one process."""
    cuts = [each["fitted"]["cut"] for each in found]
    assert cuts[0] == cuts[1] and cuts[0][0] < 16 and cuts[0][0] * cuts[0][1] == 16
    for each in found:
        torch.testing.assert_close(each["fitted"]["losses"], one_process["losses"], rtol=0, atol=1e-5)


def test_each_process_scores_its_own_rows_against_everyones_passages(found):
    """Scoring all rows on both would give the same numbers for twice the work."""
    first, second = (each["step"] for each in found)
    assert (first.local_rows, second.local_rows) == ((0, 4), (4, 8))
    assert len(first.query) == len(second.query) == 8
    assert len(first.passage) == len(set(first.text_id[[*first.positive, *first.negative]]))  # each passage once


def test_processes_draw_different_dropout(found):
    """The same micro-batch of the same step; each process draws its own masks, and draws them again."""
    (first, again), (other, _) = (each["dropout"] for each in found)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


def test_each_process_writes_its_own_vectors(found):
    """23 texts: 11 and 12, in two files; what both see is what one process encodes, and so is what they find together."""
    encoder, texts = make_encoder(), two_processes.texts_of(23)
    wanted = encoder.encode(texts, "passage")
    expected = top_k(encoder.encode(texts[:3], "query"), wanted, 6)
    for rank, each in enumerate(found):
        vectors, files, asked = each["sharded"][23]
        np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-6)
        assert files == ["0-of-2.f32", "1-of-2.f32"] and sum(asked) == (11, 12)[rank]
        scores, indices = each["sharded"]["search", 23]
        np.testing.assert_allclose(scores, expected[0], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(indices, expected[1])
        one, kind, asked = each["sharded"][1]
        np.testing.assert_allclose(one, encoder.encode(texts[:1], "passage"), rtol=0, atol=1e-6)
        assert kind == "memmap" and asked == ([1], [])[rank]


def test_a_broken_shard_ends_the_search_in_both_processes(found):
    messages = [each["sharded"]["broken"] for each in found]
    assert messages[0].startswith("another process's passages") and messages[1].startswith("row 0 of the passages")


def test_an_interrupted_shard_goes_on_where_it_stopped(found):
    for rank, each in enumerate(found):
        vectors, asked = each["sharded"]["again"]
        np.testing.assert_array_equal(vectors, each["sharded"][23][0])
        assert asked == ([], [4, 4])[rank]


def test_alone_everything_is_passed_through():
    rows, array = torch.ones(2, 3), np.arange(3)
    assert gathering.gather_rows(rows) is rows
    assert distributed.gather_arrays(array)[0] is array
    assert (distributed.rank(), distributed.world_size(), distributed.is_main(), distributed.active()) == (0, 1, True, False)
    with distributed.main_process_first():
        distributed.barrier()


def test_ranks_before_the_process_group_exists(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (3, 4, False)
