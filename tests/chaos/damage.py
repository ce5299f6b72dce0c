"""Checkpoints damaged on disk: the next call names them, resumes from an earlier one, and ends with the same weights."""

from collections.abc import Callable
from pathlib import Path

from tests.chaos.faults import Fault
from tests.chaos.kills import IN_A_STEP, MIDDLE, Laboratory, Outcome, differences, fingerprint


def _changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda checkpoint: (checkpoint / name).write_bytes(change((checkpoint / name).read_bytes()))


def _without(name: str) -> Callable[[Path], object]:
    return lambda checkpoint: (checkpoint / name).unlink()


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


_flip = _changed("model.safetensors", lambda c: _half(c) + bytes([c[len(c) // 2] ^ 1]) + c[len(c) // 2 + 1 :])
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {  # name -> (what it does, what the next call must say of it)
    "empty folder": (lambda checkpoint: [file.unlink() for file in checkpoint.iterdir()], "no manifest.json"),
    "no manifest": (_without("manifest.json"), "no manifest.json"),
    "half a manifest": (_changed("manifest.json", _half), "manifest.json cannot be read"),
    "no optimizer": (_without("optimizer.pt"), "optimizer.pt cannot be read"),
    "no random state": (_without("rng_state.pth"), "rng_state.pth cannot be read"),
    "no weights": (_without("model.safetensors"), "model.safetensors cannot be read"),
    "half the trainer's state": (_changed("trainer_state.json", _half), "trainer_state.json has"),
    "a flipped bit in the weights": (_flip, "model.safetensors is not what was written"),
    "zeroed tail of the weights": (
        _changed("model.safetensors", lambda c: _half(c).ljust(len(c), b"\0")),
        "model.safetensors is not what was written",
    ),
    "half the optimizer": (_changed("optimizer.pt", _half), "optimizer.pt has"),
}
EVERY = "every checkpoint damaged"


def try_out(laboratory: Laboratory, setting: str, kind: str) -> Outcome:
    """Kill a run, damage its newest checkpoint (or all), resume, compare.

    Returns:
        What became of it; "survived" where the next call said which it passed over and why, "identical" where the damaged folder
        was kept, too.
    """
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
    different = differences(reference, fingerprint(run)) if ended.code == 0 else [f"exit status {ended.code}"]
    wrong = [line for line in different if not line.startswith("files differs")]
    if not all((run / f"damaged-{checkpoint.name}").is_dir() for checkpoint in damaged):
        wrong.append("the damaged folder is gone")
    return Outcome(setting, kind, named, not wrong, "; ".join(wrong) + ("" if named and not wrong else ended.output[-600:]))
