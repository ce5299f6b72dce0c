"""The installed command: which verb it runs, and what it says where there is none."""

import os
import subprocess
import sys

import pytest

from e5ft.__main__ import main
from e5ft.app.runs.script import COMMANDS
from e5ft.errors import StorageError


@pytest.mark.parametrize(
    ("argument", "code", "stream"), [("--help", 0, "out"), ("-h", 0, "out"), ("trian", 2, "err"), (None, 2, "err")]
)
def test_usage_is_output_where_it_is_asked_for_and_an_error_otherwise(monkeypatch, capsys, argument, code, stream):
    monkeypatch.setattr(sys, "argv", ["e5ft", *filter(None, [argument])])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()._asdict()
    assert ended.value.code == code
    usage, _, *verbs, _, _ = printed.pop(stream).splitlines()
    assert usage.startswith("usage: e5ft train|eval|mine|export|check|serve") and set(printed.values()) == {""}
    assert [line.split()[0] for line in verbs] == list(COMMANDS) and all(line.endswith(".") for line in verbs)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "4000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_wait_shortly_unless_the_user_says_how(given, expected):
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, e5ft; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], env={**environment, **given}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_closed_pipe_is_one_line(tmp_path):
    """As of `python -m e5ft runs | head -0`: the reader is gone before anything is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "e5ft", "runs", f"folders=[{tmp_path}]"]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (StorageError.exit_code, "error: nobody reads the output any more (a closed pipe)\n")
