"""Checkpoints damaged on disk: the next call names them, goes on from an earlier one, and ends with the same weights."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.chaos.faults import Fault
from tests.chaos.kills import IN_A_STEP, MIDDLE, Laboratory, differences, fingerprint


def _empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def _without(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def _flip(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)


def _zero_tail(checkpoint: Path) -> None:
    content = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def _cut(name: str) -> Callable[[Path], None]:
    def cut(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: len(content) // 2])

    return cut


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {  # name -> (what it does, what the next call must say of it)
    "empty folder": (_empty, "no manifest.json"),
    "no manifest": (_without("manifest.json"), "no manifest.json"),
    "half a manifest": (_cut("manifest.json"), "manifest.json cannot be read"),
    "no optimizer": (_without("optimizer.pt"), "optimizer.pt cannot be read"),
    "no random state": (_without("rng_state.pth"), "rng_state.pth cannot be read"),
    "no weights": (_without("model.safetensors"), "model.safetensors cannot be read"),
    "half the trainer's state": (_cut("trainer_state.json"), "trainer_state.json has"),
    "a flipped bit in the weights": (_flip, "model.safetensors is not what was written"),
    "zeroed tail of the weights": (_zero_tail, "model.safetensors is not what was written"),
    "half the optimizer": (_cut("optimizer.pt"), "optimizer.pt has"),
}
EVERY = "every checkpoint damaged"


@dataclasses.dataclass(frozen=True)
class Damage:
    """What became of a damaged checkpoint.

    Attributes:
        kind: of `KINDS`, or EVERY.
        named: the next call said which it passed over and why.
        identical: the run ended as one that nothing stopped, and the damaged folder was kept.
        detail: what was not as it should be.
    """

    kind: str
    named: bool
    identical: bool
    detail: str = ""


def try_out(laboratory: Laboratory, setting: str, kind: str) -> Damage:
    """Kill a run, damage its newest checkpoint (or all), go on, compare."""
    reference, work = laboratory.reference(setting), laboratory.work(f"damage {setting} {kind}")
    laboratory.call(setting, work, Fault(IN_A_STEP[1], MIDDLE))
    run = work / "outputs/run"
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    do, words = KINDS.get(kind, (_flip, "is not what was written"))
    damaged = checkpoints if kind == EVERY else checkpoints[-1:]
    for checkpoint in damaged:
        do(checkpoint)
    (ended,) = laboratory.call(setting, work, resume=True)
    named = all(f"skipping damaged {checkpoint.name}: " in ended.output for checkpoint in damaged) and words in ended.output
    found = differences(reference, fingerprint(run)) if ended.code == 0 else [f"exit status {ended.code}"]
    kept = all((run / f"damaged-{checkpoint.name}").is_dir() for checkpoint in damaged)
    found = [line for line in found if not line.startswith("files differs")] + ([] if kept else ["the damaged folder is gone"])
    return Damage(kind, named, not found, "; ".join(found) + ("" if named and not found else ended.output[-600:]))
