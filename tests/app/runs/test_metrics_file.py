"""metrics.jsonl is the record: whole lines, flushed one by one, and no run goes on without it."""

import errno

import pytest
from transformers import TrainerControl, TrainerState

from e5ft.app.runs.tracking import MetricsFile
from e5ft.errors import StorageError


def test_metrics_are_written_anew_from_the_checkpoints_past(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    state = TrainerState(is_world_process_zero=True)
    for step in (1, 2, 3):
        state.global_step = step
        first.on_log(None, state, TrainerControl(), {"loss": step / 2, "text": "left out"})
    whole = path.read_text()
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    MetricsFile(path, logged_before=[{"loss": 0.5, "step": 1, "text": "left out"}, {"loss": 1.0, "step": 2}])
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:2])
    MetricsFile(path)
    assert path.read_text() == ""


class FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        taken = self.file.write(data[: self.room])
        self.room -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return taken

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_ends_the_run_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    state = TrainerState(is_world_process_zero=True, global_step=1)
    metrics.on_log(None, state, TrainerControl(), {"loss": 0.5})
    before = path.read_text()

    def full(*given, **more):
        return FullDisk(open(*given, **more), room=7)

    monkeypatch.setattr("e5ft.app.runs.tracking.open", full, raising=False)
    state.global_step = 2
    with pytest.raises(StorageError, match=r"metrics.jsonl: cannot be written \(No space left on device\).*resume=true"):
        metrics.on_log(None, state, TrainerControl(), {"loss": 0.25})
    assert path.read_text() == before


def test_a_full_disk_at_resuming_leaves_the_old_record(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n')

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("e5ft.files.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        MetricsFile(path, logged_before=[{"step": 1, "loss": 1}])
    assert len(path.read_text().splitlines()) == 2
