"""Checkpoints: a visible one is complete, and a damaged one is never gone on from.

A checkpoint is written beside its place under a hidden name by all processes, flushed to disk, sealed with a manifest of sizes
and SHA-256, and only then renamed. Whatever ends the process, `checkpoint-N` is not there or whole.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from e5ft import distributed
from e5ft.errors import StorageError
from e5ft.files import check_manifest, flush_folder, read_json, write_manifest

STATE = "trainer_state.json"
STATES = OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
_NAME = re.compile(r"checkpoint-(\d+)")
_NEEDED = (STATE, *STATES)


def path_of(run: Path, step: int) -> Path:
    """The place of a step's checkpoint in a run's folder."""
    return run / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(_NAME.fullmatch(checkpoint.name)[1])


def visible(run: Path) -> list[Path]:
    """The checkpoints of a run, by step."""
    return sorted((path for path in run.iterdir() if _NAME.fullmatch(path.name)), key=step_of) if run.is_dir() else []


@contextlib.contextmanager
def writing(run: Path, step: int) -> Iterator[Path]:
    """Yield, on every process, the hidden folder that takes its place as `checkpoint-N` once all of them have written.

    Args:
        run: the run's folder, on a file system that all processes see.
        step: N. An older folder of that name is replaced.

    Raises:
        StorageError: something could not be written, by whichever process; the hidden folder is removed, and nothing else is
            touched.
    """
    hidden = run / f".checkpoint-{step}.partial"
    with _together(run, step):
        if distributed.is_main():
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)
    try:
        with _together(run, step):
            yield hidden
        with _together(run, step):
            if distributed.is_main():
                _show(hidden, path_of(run, step))
    except StorageError:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


@contextlib.contextmanager
def _together(run: Path, step: int) -> Iterator[None]:
    """Wait for all processes at the end of the block; where one of them could not write, all fail: none waits for it."""
    failed: Exception | None = None
    try:
        yield
    # torch.save tells of a full disk as a RuntimeError, safetensors with an error of its own.
    except (OSError, RuntimeError, SafetensorError) as error:
        failed = error
    if distributed.any_process(failed is not None):
        whole = [path.name for path in visible(run) if path.name != path_of(run, step).name]
        raise StorageError(
            f"step {step}: the checkpoint could not be written ({failed or 'by another process'}). "
            + (f"Complete before it: {', '.join(whole)}. " if whole else "There is none before it. ")
            + f"Make room in {run}, then go on with name={run.name} resume=true"
        ) from failed


def _show(hidden: Path, place: Path) -> None:
    write_manifest(hidden)
    if place.exists():  # a folder cannot be renamed over one that holds something
        _remove(place)
    os.rename(hidden, place)
    flush_folder(place.parent)


def _remove(path: Path) -> None:
    """Out of sight at once: a kill amid the removal leaves no half of a checkpoint."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def rotate(run: Path, limit: int | None, best: Path | None) -> None:
    """Remove the oldest checkpoints; the newest and the best always stay.

    Args:
        run: the run's folder; its newest checkpoint was just written.
        limit: how many may stay; None keeps all.
        best: the checkpoint with the best score so far, if any.
    """
    if limit is None:
        return
    found = visible(run)
    kept = {found[-1], *([best] if best is not None else [])}
    for path in reversed(found[:-1]):
        if len(kept) < limit:
            kept.add(path)
    for path in found:
        if path not in kept:
            _remove(path)


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be gone on from, and why newer ones cannot.

    One that is whole but names a best checkpoint that is damaged is passed over too: from an earlier one the same weights
    come again.

    Args:
        run: the run's folder.

    Returns:
        The checkpoint, or None; and a line for each that was passed over, newest first.
    """
    passed, found = [], None
    for path in reversed(visible(run)):
        reason = why_unusable(path)
        if reason is None:
            found = path
            break
        passed.append(f"{path.name}: {reason}")
    return found, passed


def why_unusable(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be gone on from; None where it can."""
    reason = _why_unusable_alone(checkpoint)
    best = None if reason else best_of(checkpoint)
    if best is not None and best != checkpoint:
        reason = _why_unusable_alone(best)
        reason = reason and f"the best checkpoint so far, {best.name}, is damaged: {reason}"
    return reason


def best_of(checkpoint: Path) -> Path | None:
    """The checkpoint beside it that it names as the best so far (folders may have been moved, so its name alone counts)."""
    best = read_json(checkpoint / STATE)["best_model_checkpoint"]
    return None if best is None else checkpoint.with_name(Path(best).name)


def _why_unusable_alone(checkpoint: Path) -> str | None:
    reason = check_manifest(checkpoint)
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    return reason or (f"{missing[0]} is missing" if missing else None)


def clear(run: Path, damaged: list[str]) -> None:
    """Before going on: remove what a killed process left half-written, and move damaged checkpoints out of the way.

    Args:
        run: the run's folder, which no other process uses.
        damaged: the lines of `newest`. These folders are renamed to `damaged-checkpoint-N`, not deleted: what they hold may be
            wanted, and the run will write that step again.
    """
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.removed"):
        for path in run.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for line in damaged:
        path = run / line.partition(":")[0]
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
