"""The small share of the search for secrets, and the search itself on what it must find."""

import gzip
import io
import tarfile
import zipfile

import pytest

from tests.chaos.secrets import COMMANDS, _environment, contents, run_in, search

CANARY = "CanaryOfThisTest-correct-horse"


def test_no_secret_is_left_anywhere(tmp_path):
    report = run_in(tmp_path, True)
    assert report.unexpected == () and report.leaks == ()
    assert report.tried >= 10 and report.files > 60
    assert list(tmp_path.rglob("*.wandb")) and list(tmp_path.rglob("optimizer.pt"))  # there was something to search


def packed(data: bytes, how: str) -> bytes:
    file = io.BytesIO()
    if how == "gz":
        return gzip.compress(data)
    if how == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner", data)
    elif how == "tar":
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo("inner")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    elif how == "wandb":  # a record of LevelDB's log that goes on in the next block, in the middle of the canary
        first = 32768 - 7 - 7
        text = b"x" * (first - 10) + data
        head = lambda part: b"\0" * 4 + len(part).to_bytes(2, "little") + b"\1"  # noqa: E731
        file.write(b":W&B\0\0\0" + head(text[:first]) + text[:first] + head(text[first:]) + text[first:])
    return file.getvalue()


@pytest.mark.parametrize("how", [("gz",), ("zip",), ("tar",), ("wandb",), ("zip", "gz"), ("tar", "gz", "zip")])
def test_the_search_opens_what_is_packed(how, tmp_path):
    data = f"before {CANARY} after".encode()
    for way in how:
        data = packed(data, way)
    (tmp_path / "file").write_bytes(data)
    assert search(tmp_path, {"it": CANARY})[0] and len(list(contents("file", data))) > 1


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
def test_the_search_sees_base64(before, tmp_path):
    import base64

    (tmp_path / "file").write_bytes(base64.b64encode(f"{before}{CANARY}:more".encode()))
    assert search(tmp_path, {"it": CANARY})[0] == ["file: it"]


def test_the_search_sees_names_and_links(tmp_path):
    (tmp_path / f"a-{CANARY}").mkdir()
    (tmp_path / "link").symlink_to(f"/nowhere/{CANARY}")
    (tmp_path / "good").write_text("nothing")
    assert search(tmp_path, {"it": CANARY}) == ([f"a-{CANARY}: it", "link: it"], 1)


def test_every_command_has_its_own_name():
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


def test_nothing_of_this_machine_s_settings_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "WANDB_MODE" not in _environment(tmp_path, tmp_path, tmp_path)
