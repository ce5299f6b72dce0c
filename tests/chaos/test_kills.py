"""A small share of `make chaos`: real processes are killed, their disk is full, their checkpoints are damaged; all are resumed exactly."""

import subprocess
import sys

from tests.chaos import damage, kills
from tests.chaos.forking import ROOT


def test_a_share_of_the_kills_and_of_the_damage_is_survived_bit_for_bit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--quick", "--only", "kills", "damage", "--workers", "1", "--output", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "| SIGKILL | " in (tmp_path / "chaos.md").read_text()


def test_the_matrix_is_as_large_as_promised():
    matrix = [fault for _, fault in kills.faults()]
    killed = [fault for fault in matrix if fault.kind == kills.KILL]
    assert len({(fault.place.name, kills.phase(fault)) for fault in killed}) >= 60 and len(killed) >= 200
    assert len(damage.KINDS) >= 6 and {fault.kind for fault in matrix} == {"SIGKILL", "ENOSPC", "SIGTERM", "SIGUSR1", "NaN"}


def test_a_difference_is_seen():
    one = {"model": "a", "log": [1, 2], "checkpoint-8: weights": "c"}
    assert kills.differences(one, dict(one)) == []
    assert kills.differences(one, {**one, "log": [1, 2, 2]}) == ["log differs"]
    assert kills.differences(one, {"model": "b", "log": [1, 2]}) == ["model differs", "checkpoint-8: weights differs"]
