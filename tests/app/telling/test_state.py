"""A run's folder says how it stands, also where its status is gone."""

import pytest

from e5ft.app.telling.state import holds_work, record, status_of
from e5ft.errors import ConfigurationError
from e5ft.files import write_json


def test_without_a_status_the_work_in_it_says_that_a_run_has_begun(tmp_path):
    assert status_of(tmp_path) is None and not holds_work(tmp_path)
    write_json(tmp_path / "status.json", {"state": "failed"})
    assert status_of(tmp_path) == {"state": "failed"} and not holds_work(tmp_path)
    (tmp_path / "checkpoint-1").mkdir()
    assert holds_work(tmp_path)
    (tmp_path / "status.json").unlink()
    assert status_of(tmp_path) == {"state": "unknown"} and holds_work(tmp_path)


@pytest.mark.parametrize("state", ["running", "stopped", "finished"])
def test_all_but_a_failed_one_hold_work(tmp_path, state):
    write_json(tmp_path / "status.json", {"state": state})
    assert holds_work(tmp_path)


def test_a_record_without_its_keys_is_damaged(tmp_path):
    write_json(tmp_path / "status.json", {"pid": 1})
    with pytest.raises(ConfigurationError, match="status.json: damaged; remove it, or choose another name="):
        record(tmp_path / "status.json", "state")
    assert record(tmp_path / "status.json", "pid") == {"pid": 1}
