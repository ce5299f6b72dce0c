"""Checkpoints: a visible one is complete, and no run resumes from a damaged one.

All processes write a checkpoint under a hidden name. It is flushed to disk, sealed with a manifest of sizes and SHA-256, and only
then renamed. Whatever ends the process, `checkpoint-N` is complete or absent.
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
from e5ft.files import MANIFEST, check_manifest, flush_folder, read_json, write_manifest

STATE = "trainer_state.json"
STATES = OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
_NAME = re.compile(r"checkpoint-(\d+)")
_NEEDED = (STATE, *STATES)


def path_of(run: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint in a run's folder."""
    return run / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(_NAME.fullmatch(checkpoint.name)[1])


def visible(run: Path) -> list[Path]:
    """Return the checkpoints of a run, by step."""
    return sorted((path for path in run.iterdir() if _NAME.fullmatch(path.name)), key=step_of) if run.is_dir() else []


@contextlib.contextmanager
def writing(run: Path, step: int, definition: dict | None = None) -> Iterator[Path]:
    """Yield, on every process, the hidden folder that is renamed to `checkpoint-N` after all of them have written.

    Args:
        run: the run's folder, on a file system that all processes see.
        step: N. An older folder of that name is replaced.
        definition: what makes the training what it is, as plain values, for the manifest.

    Raises:
        StorageError: a process could not write; the hidden folder is removed, and nothing else is touched.
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
                _show(hidden, path_of(run, step), definition)
    except StorageError:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


@contextlib.contextmanager
def _together(run: Path, step: int) -> Iterator[None]:
    """Wait for all processes at the end of the block; if one of them could not write, all fail and none waits for it."""
    failed: Exception | None = None
    try:
        yield
    # A full disk is a RuntimeError in torch.save, and an error of its own in safetensors.
    except (OSError, RuntimeError, SafetensorError) as error:
        failed = error
    if distributed.any_process(failed is not None):
        complete = [path.name for path in visible(run) if path != path_of(run, step)]
        raise StorageError(
            f"step {step}: the checkpoint could not be written ({failed or 'by another process'}). "
            + (f"Complete before it: {', '.join(complete)}. " if complete else "There is none before it. ")
            + f"Make room in {run}, then resume with name={run.name} resume=true"
        ) from failed


def _show(hidden: Path, folder: Path, definition: dict | None) -> None:
    write_manifest(hidden, definition=definition)
    if folder.exists():  # a folder cannot be renamed over one that is not empty
        _remove(folder)
    os.rename(hidden, folder)
    flush_folder(folder.parent)


def _remove(path: Path) -> None:
    """Hide a checkpoint, then remove it: a kill during the removal leaves no visible half."""
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
    *older, last = visible(run)
    staying = {last, best} - {None}
    for path in reversed(older):
        if len(staying) < limit:
            staying.add(path)
    for path in older:
        if path not in staying:
            _remove(path)


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint from which a run can resume, and why newer ones are passed over.

    A complete one whose best checkpoint is damaged is passed over too: an earlier one leads to the same weights again.

    Args:
        run: the run's folder.

    Returns:
        The checkpoint, or None; and a line for each that was passed over, newest first.
    """
    passed = []
    for path in reversed(visible(run)):
        reason = why_unusable(path)
        if reason is None:
            return path, passed
        passed.append(f"{path.name}: {reason}")
    return None, passed


def why_unusable(checkpoint: Path) -> str | None:
    """Return why a run cannot resume from a checkpoint; None if it can."""
    reason = _why_unusable_alone(checkpoint)
    best = None if reason else best_of(checkpoint)
    if best is not None and best != checkpoint:
        reason = _why_unusable_alone(best)
        reason = reason and f"the best checkpoint so far, {best.name}, is damaged: {reason}"
    return reason


def best_of(checkpoint: Path) -> Path | None:
    """Return the checkpoint beside it that it names as the best so far (by its name alone, since folders may have been moved)."""
    best = read_json(checkpoint / STATE)["best_model_checkpoint"]
    return None if best is None else checkpoint.with_name(Path(best).name)


def definition_of(checkpoint: Path) -> dict | None:
    """Return the definition of the training that a checkpoint is of; None if its manifest holds none, or no mapping."""
    definition = read_json(checkpoint / MANIFEST).get("definition")
    return definition if isinstance(definition, dict) else None


def _why_unusable_alone(checkpoint: Path) -> str | None:
    reason = check_manifest(checkpoint)
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    return reason or (f"{missing[0]} is missing" if missing else None)


def clear(run: Path, damaged: list[str]) -> None:
    """Remove what a killed process left half-written, and move damaged checkpoints out of the way, before a run resumes.

    Args:
        run: the run's folder, which no other process uses.
        damaged: the lines of `newest`. These folders are renamed to `damaged-checkpoint-N`, not deleted: somebody may want
            their content, and the run will write that step again.
    """
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.removed"):
        for path in run.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for line in damaged:
        path = run / line.partition(":")[0]
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
