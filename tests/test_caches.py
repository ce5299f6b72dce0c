"""Entries of a cache: built once, believed while they are whole, and errors that name the cache."""

import errno
import re
import threading
import time
from pathlib import Path

import pytest

from e5ft import caches
from e5ft.errors import StorageError
from e5ft.files import read_json


def test_an_entry_is_built_once_and_anew_where_asked(tmp_path):
    built = []

    def build(folder):
        built.append(1)
        (folder / "file").write_text(f"{len(built)}")

    entry = tmp_path / "cache/entry"
    for rebuild, expected in ((False, "1"), (False, "1"), (True, "2")):
        with caches.locked(entry):
            caches.keep(entry, build, rebuild)
            assert (entry / "file").read_text() == expected
    assert list(read_json(entry / "manifest.json")["files"]) == ["file"]


def test_one_that_waits_for_another_process_says_so(tmp_path, caplog):
    entry, opened = tmp_path / "entry", []

    def wait():
        with caches.locked(entry):
            opened.append(1)

    other = threading.Thread(target=wait)
    with caches.locked(entry):
        other.start()
        while "another process uses it" not in caplog.text:
            time.sleep(0.01)
        assert not opened
    other.join()
    assert opened


def test_building_that_fails_leaves_the_cache_as_it_was(tmp_path):
    def fails(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caches.keep(tmp_path / "entry", fails)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "(the disk is full); make room (what it holds may be deleted)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "{cache}/rows"), "(the disk is full); make room"),
        (OSError("1000 requested and 200 written"), "(the disk is full); make room"),  # NumPy's
        (OSError(errno.EROFS, "Read-only file system"), "(Read-only file system); make it writable"),
        (OSError(errno.EROFS, "Read-only file system", "{cache}/rows.lock"), "(Read-only file system); make it writable"),
        (PermissionError(errno.EACCES, "Permission denied", "{cache}"), "(Permission denied); make it writable"),
        (FileExistsError(errno.EEXIST, "File exists", "{cache.parent}"), "(File exists); make it writable"),
    ],
)
def test_an_error_of_the_disk_names_the_cache_and_the_setting(error, words, tmp_path):
    cache = tmp_path / "a/cache"
    if error.filename is not None:
        error.filename = error.filename.format(cache=cache)
    message = f"^{re.escape(f'{cache}: cannot be written {words}')}.*, or name another folder: cache_dir=DIR$"
    with pytest.raises(StorageError, match=message) as raised, caches.writing(cache):
        raise error
    assert raised.value.exit_code == 6


def test_a_cache_that_no_folder_can_hold_is_named():
    message = "^/proc/nowhere/c: cannot be made; name another folder: cache_dir=DIR$"
    with pytest.raises(StorageError, match=message), caches.locked(Path("/proc/nowhere/c/entry")):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/download"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/rows.jsonl"),
        PermissionError(errno.EACCES, "Access denied"),  # of a storage
        FileNotFoundError(errno.ENOENT, "No such file or directory", "{cache}/rows"),
        OSError(errno.EIO, "Input/output error"),
        OSError("flash_attention_2 was requested and is not installed"),
    ],
)
def test_other_errors_pass(error, tmp_path):
    if error.filename is not None:
        error.filename = error.filename.format(cache=tmp_path)
    with pytest.raises(OSError) as raised, caches.writing(tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("function", ["mkdir", "open"])
def test_a_read_only_cache_is_named_at_its_first_use(function, tmp_path, monkeypatch):
    """Of the folder itself, and of the lock in it: permissions alone would not stop root."""

    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    if function == "open":
        (tmp_path / "cache").mkdir()
    monkeypatch.setattr(f"os.{function}", refuse)
    with pytest.raises(StorageError, match=r"/cache: cannot be written \(Read-only file system\).*cache_dir=DIR$"):  # noqa: SIM117
        with caches.locked(tmp_path / "cache/rows-1"):
            pytest.fail("the lock was taken")
