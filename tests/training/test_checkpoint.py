"""A visible checkpoint is complete, a damaged one is passed over, and the last good one always stays."""

import json
import os
import shutil

import pytest

from e5ft.errors import StorageError
from e5ft.files import MANIFEST, check_manifest, write_manifest
from e5ft.training import checkpoint

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def write(run, step, best=None):
    with checkpoint.writing(run, step) as folder:
        for name in FILES:
            (folder / name).write_bytes(f"{name} of step {step}".encode() * 50)
        named = None if best is None else f"/elsewhere/checkpoint-{best}"
        (folder / checkpoint.STATE).write_text(json.dumps({"best_model_checkpoint": named}))
    return checkpoint.path_of(run, step)


def names(run):
    return sorted(path.name for path in run.iterdir())


def test_a_checkpoint_appears_whole_and_at_once(tmp_path):
    with checkpoint.writing(tmp_path, 3) as folder:
        (folder / "model.safetensors").write_bytes(b"x")
        assert checkpoint.visible(tmp_path) == []
    assert names(tmp_path) == ["checkpoint-3"]
    assert check_manifest(tmp_path / "checkpoint-3") is None
    listed = json.loads((tmp_path / "checkpoint-3" / MANIFEST).read_text())["files"]
    assert list(listed) == ["model.safetensors"] and listed["model.safetensors"]["size"] == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path, error):
    write(tmp_path, 2)
    with pytest.raises(StorageError, match="step 4: .*Complete before it: checkpoint-2.*resume=true"):  # noqa: SIM117
        with checkpoint.writing(tmp_path, 4) as folder:
            (folder / "model.safetensors").write_bytes(b"half")
            raise error
    assert names(tmp_path) == ["checkpoint-2"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_at_the_end_of_a_save(tmp_path, monkeypatch, call):
    write(tmp_path, 2)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(StorageError):
            write(tmp_path, 4)
    assert checkpoint.newest(tmp_path) == (tmp_path / "checkpoint-2", [])


def test_every_file_and_both_folders_are_flushed_in_order(tmp_path, monkeypatch):
    """The files, the manifest, the hidden folder; the renaming; the run's folder."""
    events, fsync, rename, replace = [], os.fsync, os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: events.append(os.readlink(f"/proc/self/fd/{number}")) or fsync(number))
    monkeypatch.setattr(os, "rename", lambda source, target: events.append(f"renamed: {target}") or rename(source, target))
    monkeypatch.setattr(os, "replace", lambda source, target: events.append(f"written: {target}") or replace(source, target))
    folder, hidden = write(tmp_path, 2), tmp_path / ".checkpoint-2.partial"
    *files, manifest, written, whole, renamed, run = events
    assert sorted(files) == sorted(str(hidden / name) for name in (*FILES, checkpoint.STATE))
    assert manifest.startswith(f"{hidden}/.{MANIFEST}.") and written == f"written: {hidden / MANIFEST}"
    assert (whole, renamed, run) == (str(hidden), f"renamed: {folder}", str(tmp_path))


def test_the_manifest_has_the_definition_of_the_training(tmp_path):
    with checkpoint.writing(tmp_path, 1, {"seed": 1}):
        pass
    assert checkpoint.definition_of(tmp_path / "checkpoint-1") == {"seed": 1}
    assert checkpoint.definition_of(write(tmp_path, 2)) is None
    for damaged in ("seed", ["seed"], 1, None):
        write_manifest(tmp_path / "checkpoint-2", definition=damaged)
        assert checkpoint.definition_of(tmp_path / "checkpoint-2") is None


def test_a_checkpoint_that_stands_but_may_not_outlast_a_power_cut_is_a_failure_to_write(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "flush_folder", fail)
        with pytest.raises(StorageError, match="step 4: .*Input/output error"):
            write(tmp_path, 4)
    assert checkpoint.newest(tmp_path) == (tmp_path / "checkpoint-4", [])


def test_writing_again_replaces_what_a_killed_process_left(tmp_path):
    (tmp_path / ".checkpoint-4.partial").mkdir()
    (tmp_path / ".checkpoint-4.partial" / "old").write_text("old")
    write(tmp_path, 4)
    write(tmp_path, 4)
    assert names(tmp_path) == ["checkpoint-4"] and not (tmp_path / "checkpoint-4" / "old").exists()


@pytest.mark.parametrize("name", [*FILES, checkpoint.STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "cut", "zeroed", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, name, damage):
    good, bad = write(tmp_path, 2), write(tmp_path, 4)
    file = bad / name
    content = file.read_bytes()
    half = len(content) // 2
    changed = {
        "cut": content[:half],
        "zeroed": content[:half].ljust(len(content), b"\0"),
        "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "empty": b"",
    }
    file.unlink() if damage == "missing" else file.write_bytes(changed[damage])
    found, passed = checkpoint.newest(tmp_path)
    assert found == good and len(passed) == 1 and passed[0].startswith("checkpoint-4: ")
    assert name in passed[0] or (name == MANIFEST and damage == "flipped")  # a digest that was changed names the file it is of
    checkpoint.clear(tmp_path, passed)
    assert names(tmp_path) == ["checkpoint-2", "damaged-checkpoint-4"]


def test_one_whose_best_is_damaged_is_passed_over_too(tmp_path):
    write(tmp_path, 2)
    best, _ = write(tmp_path, 4, best=4), write(tmp_path, 6, best=4)
    assert checkpoint.newest(tmp_path) == (tmp_path / "checkpoint-6", [])
    (best / "model.safetensors").unlink()
    found, passed = checkpoint.newest(tmp_path)
    assert found == tmp_path / "checkpoint-2" and "the best checkpoint so far, checkpoint-4, is damaged" in passed[0]


def test_nothing_to_go_on_from(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    found, passed = checkpoint.newest(tmp_path)
    assert found is None and passed == [f"checkpoint-9: no {MANIFEST}: it was never written to its end"]


def test_only_what_was_resumable_when_written_is(tmp_path):
    with checkpoint.writing(tmp_path, 1) as folder:
        (folder / checkpoint.STATE).write_text('{"best_model_checkpoint": null}')
    assert checkpoint.why_unusable(tmp_path / "checkpoint-1") == "optimizer.pt is missing"


@pytest.mark.parametrize(
    ("limit", "best", "left"), [(None, 2, [2, 4, 6, 10]), (3, 2, [2, 6, 10]), (2, 2, [2, 10]), (1, 2, [2, 10]), (1, None, [10]), (2, None, [6, 10])]
)  # fmt: skip
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit, best, left):
    for step in (2, 4, 6, 10):
        write(tmp_path, step)
    checkpoint.rotate(tmp_path, limit, None if best is None else checkpoint.path_of(tmp_path, best))
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in left)


def test_a_kill_amid_a_removal_leaves_no_half_of_a_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 2), write(tmp_path, 4)

    def killed(path, *args, **kwargs):
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.rotate(tmp_path, 1, None)
    assert checkpoint.newest(tmp_path) == (tmp_path / "checkpoint-4", []) and checkpoint.visible(tmp_path) == [
        tmp_path / "checkpoint-4"
    ]
    checkpoint.clear(tmp_path, [])
    assert names(tmp_path) == ["checkpoint-4"]
