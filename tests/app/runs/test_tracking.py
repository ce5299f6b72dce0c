"""metrics.jsonl is the record: whole lines, flushed one by one, and no run continues without it.

W&B mirrors what is logged; whatever happens inside it is one warning and never ends or holds up a run.
"""

import asyncio
import contextlib
import dataclasses
import errno
import json
import sys
import threading
import types

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState

from e5ft.app.runs.tracking import MetricsFile, tracked
from e5ft.app.settings.build import plain
from e5ft.app.settings.groups import TrackingSettings
from e5ft.errors import ConfigurationError, DataError, NonFiniteError, StorageError, TerminatedError
from e5ft.training import trackers
from e5ft.training.trackers import Closing

TRACKING = TrackingSettings("offline", "p", None, ("t",))
FULL = OSError(errno.ENOSPC, "No space left on device")


def raising(error):
    def act(*_):
        raise error

    return act


def test_on_resuming_metrics_are_those_that_the_checkpoint_knows(tmp_path):
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


def test_every_line_is_json_and_holds_every_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    logs = {"nan": float("nan"), "far": -np.inf, "small": np.float32(0.5), "count": np.int64(3), "loss": 0.1, "text": "left out"}
    MetricsFile(path).on_log(None, TrainerState(is_world_process_zero=True, global_step=2), TrainerControl(), logs)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"step": 2, "nan": None, "far": None, "small": 0.5, "count": 3, "loss": 0.1} and type(found["count"]) is int


class FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        taken = self.file.write(data[: self.room])
        self.room -= taken
        if not taken:
            raise FULL
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

    monkeypatch.setattr("e5ft.files.os.fsync", raising(FULL))
    with pytest.raises(StorageError, match="No space left"):
        MetricsFile(path, logged_before=[{"step": 1, "loss": 1}])
    assert len(path.read_text().splitlines()) == 2


# -- W&B -------------------------------------------------------------------------------------------------------------------


class FakeRun:
    def __init__(self):
        self.does, self.logged, self.finished, self.threads, self.exit_code = {}, [], 0, set(), None
        self.summary, self.artifacts, self.id = {}, [], "abc"

    def log(self, values, step=None):
        self.act("log")
        self.logged.append((step, values))

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self, exit_code=None):
        self.finished += 1
        self.exit_code = exit_code
        self.act("finish")

    def act(self, where):
        self.threads.add(threading.current_thread())
        if where in self.does:
            self.does[where]()


@pytest.fixture
def fake(monkeypatch):
    """A wandb whose import, init, log and finish do as `run.does` says."""
    fake = types.SimpleNamespace(run=FakeRun(), calls=[])
    fake.Settings = lambda **values: values

    def init(**values):
        fake.run.act("init")
        fake.calls.append(values)
        return fake.run

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(trackers, "_hung_or_failed", False)
    return fake


def train_through(tracking, folder):
    """What a training does with its mirror."""
    with tracked(tracking, {}, folder, None) as mirror:
        for step in range(3):
            mirror.on_log(None, TrainerState(global_step=step), None, {"loss": 1.0})
        mirror.end(Closing({"test/ndcg@10": 0.5}, {}))


def warnings_of(caplog):
    return [record.message for record in caplog.records if "W&B" in record.message]


def test_a_mirror_of_what_is_logged(fake, tmp_path):
    config = {"name": "n", "loss": {"temperature": 1}, "secret_thing": "canary"}
    with tracked(TRACKING, config, tmp_path / "3", "sweep") as mirror:
        mirror.on_log(None, TrainerState(global_step=7), None, {"loss": 1.0})
        mirror.on_log(None, TrainerState(global_step=7), None, {"eval_ndcg@10": 0.5})
    assert fake.run.logged == [(7, {"train/loss": 1.0}), (7, {"dev/ndcg@10": 0.5})]
    assert fake.run.finished == 1 and fake.run.exit_code == 0
    call = fake.calls[0]
    assert call["group"] == "sweep" and call["name"] == "sweep-3" and call["mode"] == "offline"
    assert "canary" not in str(call)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("api_key not configured"),
        FULL,
        SystemExit(1),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        AssertionError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_what_wandb_raises_is_one_warning(fake, tmp_path, caplog, where, error):
    """On the thread that calls wandb a KeyboardInterrupt is wandb's too: Python gives a person's to the main thread."""
    fake.run.does = {where: raising(error)}
    train_through(TRACKING, tmp_path)
    assert len(warnings_of(caplog)) == 1 and "metrics.jsonl has everything" in warnings_of(caplog)[0]
    assert fake.run.finished == (0 if where == "init" else 1)
    assert len(fake.run.logged) == {"init": 0, "log": 0, "finish": 4}[where]
    assert trackers.hung_or_failed() == (where != "init")  # wandb's hooks at exit would fail on a run that is dead


def test_failing_everywhere_is_one_warning(fake, tmp_path, caplog):
    fake.run.does = {"log": raising(FULL), "finish": raising(FULL)}
    train_through(TRACKING, tmp_path)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("error", [ImportError("no libz"), SystemExit(3), RuntimeError("half installed")], ids=repr)
def test_a_wandb_that_cannot_be_imported_is_one_warning(tmp_path, caplog, monkeypatch, error):
    package = tmp_path / "broken" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise {error!r}\n")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(package.parent))
    train_through(TRACKING, tmp_path)
    assert len(warnings_of(caplog)) == 1 and "did not start" in warnings_of(caplog)[0]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_call_that_hangs_is_given_up(fake, tmp_path, caplog, monkeypatch, where):
    hold = threading.Event()
    for name in ("START", "FINISH", "_GRACE", "_LOG"):
        monkeypatch.setattr(trackers, name, 0.1)
    fake.run.does = {where: hold.wait}
    try:
        train_through(TRACKING, tmp_path)
        assert len(warnings_of(caplog)) == 1 and "no answer" in warnings_of(caplog)[0]
        assert trackers.hung_or_failed()
    finally:
        hold.set()


def test_a_person_s_interrupt_passes(fake, tmp_path):
    """Ctrl-C while wandb is waited for ends the run; wandb's run is still finished."""
    with pytest.raises(KeyboardInterrupt), tracked(TRACKING, {}, tmp_path, None):
        raise KeyboardInterrupt
    assert fake.run.finished == 1 and not trackers.hung_or_failed()


def test_wandb_is_called_on_one_thread_of_its_own(fake, tmp_path):
    train_through(TRACKING, tmp_path)
    assert len(fake.run.threads) == 1 and threading.main_thread() not in fake.run.threads


def test_online_without_a_key_asks_nobody(fake, tmp_path, caplog, monkeypatch):
    """wandb would ask for a key on the terminal and wait for an answer."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    train_through(dataclasses.replace(TRACKING, wandb="online"), tmp_path)
    assert len(warnings_of(caplog)) == 1 and "no API key" in warnings_of(caplog)[0]
    assert fake.calls == []
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    train_through(dataclasses.replace(TRACKING, wandb="online"), tmp_path)
    assert fake.calls[0]["mode"] == "online"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (ZeroDivisionError(), 1),
        (DataError("rows.csv:3: query is blank"), 3),
        (NonFiniteError("the loss is NaN"), 4),
        (TerminatedError("stopped"), 143),
        (KeyboardInterrupt(), 1),
    ],
    ids=repr,
)
def test_a_run_ends_in_wandb_as_the_job_ended(fake, tmp_path, error, code):
    with contextlib.suppress(type(error) if error else ()), tracked(TRACKING, {}, tmp_path, None):
        if error:
            raise error
    assert (fake.run.finished, fake.run.exit_code) == (1, code)


def test_modes(fake, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for key, expected in ((None, "offline"), ("k", "online")):
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        with tracked(dataclasses.replace(TRACKING, wandb="auto"), {}, tmp_path, None):
            pass
        assert fake.calls[-1]["mode"] == expected
    count = len(fake.calls)
    with tracked(dataclasses.replace(TRACKING, wandb=False), {}, tmp_path, None):
        pass
    assert len(fake.calls) == count


def test_settings_name_their_trackers(composed):
    settings = composed("train", "tracking.also=[tensorboard,mlflow]")
    assert settings.tracking.also == ("tensorboard", "mlflow") and plain(settings)["tracking"]["also"] == [
        "tensorboard",
        "mlflow",
    ]
    for refused in ("wandb", "comet_ml"):
        with pytest.raises(ConfigurationError, match=rf"tracking.also.*{refused}.*tensorboard.*mlflow.*trackio"):
            composed("train", f"tracking.also=[{refused}]")


def wandb_records(data: bytes) -> list:
    """The records of a .wandb file, LevelDB's log: blocks of 32 KiB; a record may go on from one into the next."""
    from wandb.proto.wandb_internal_pb2 import Record

    records, parts, position = [], b"", 7
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:  # too short for a record's head
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def test_what_the_end_says_is_in_wandb_s_own_record_with_the_job_s_exit_code(tmp_path):
    """W&B as it is, offline: read back from the file that it would send."""
    page = tmp_path / "report.html"
    page.write_text("<p>보고서</p>")
    lists = {"won": [["query", "gain", "rank before"], ["연차는?", 0.5, None], ["VPN", 0.25, 3]], "lost": [["query"]]}
    closing = Closing({"test/ndcg@10": 0.5, "gain/ndcg@10": 0.25, "verdict": "BETTER"}, lists, page)
    for name, error in (("good", None), ("bad", DataError("rows.csv:3: query is blank"))):
        with contextlib.suppress(DataError), tracked(TRACKING, {}, tmp_path / name, None) as mirror:
            mirror.end(closing)
            if error is not None:
                raise error
        (file,) = (tmp_path / name).rglob("*.wandb")
        records = wandb_records(file.read_bytes())
        assert [each.exit.exit_code for each in records if each.HasField("exit")] == [0 if error is None else 3]
        logged = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for each in records for i in each.history.item}
        assert (logged["test/ndcg@10"], logged["gain/ndcg@10"]) == (0.5, 0.25)
        assert (logged["tables/won.nrows"], logged["tables/lost.nrows"]) == (2, 0)
        (table,) = (tmp_path / name).rglob("media/table/tables/won_*.table.json")
        assert json.loads(table.read_text())["data"] == lists["won"][1:]
        told = {
            ".".join(item.nested_key) or item.key: json.loads(item.value_json) for each in records for item in each.summary.update
        }
        assert told["verdict"] == "BETTER"
        assert "report.html" in [
            entry.path for each in records for entry in each.request.log_artifact.artifact.manifest.contents
        ] + [entry.path for each in records for entry in each.artifact.manifest.contents]
