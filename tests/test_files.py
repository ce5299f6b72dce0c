"""Files and folders are the old ones or the new ones, never half of one; digests follow the content and nothing else."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from e5ft import files
from e5ft.files import (
    check_manifest,
    clear_temporaries,
    digest_of,
    digest_of_file,
    new_folder,
    read_json,
    replace_link,
    share,
    write_json,
    write_lines,
    write_manifest,
    write_text,
)


class Stop(BaseException):
    """Stands for whatever may end a process in the middle, KeyboardInterrupt among it."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_at(monkeypatch, name: str) -> None:
    def stop(*args, **kwargs):
        raise Stop

    monkeypatch.setattr(files.os, name, stop)


# -- files -------------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_and_replaced_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    for text in ("한국어\n", "", "second\r\nline"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert names(path.parent) == ["note.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # mkstemp alone would leave it to its owner


@pytest.mark.parametrize("where", ["fsync", "chmod", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(where, tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        fail_at(patch, where)
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_what_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "a" * 100_000 + "\ud800")
    assert (path.read_text(), names(tmp_path)) == ("old", ["note.txt"])


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *args, name=name, function=function: (calls.append(name), function(*args)))
    write_text(tmp_path / "note.txt", "a")
    assert calls == ["fsync", "replace"]


def test_a_manifest_is_written_after_every_file_is_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_text(name)
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda file: (flushed.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    write_manifest(tmp_path)
    assert flushed[:2] == [str(tmp_path / "a"), str(tmp_path / "deep/b")] and flushed[-1] == str(tmp_path)
    assert check_manifest(tmp_path) is None


def test_json_comes_back_and_is_readable(tmp_path):
    value = {"이름": ["가", 1, 0.5, None, True], "b": {}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "이름" in (tmp_path / "value.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_json_leave_the_old_file(number, tmp_path):
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(ValueError):
        write_json(path, {"loss": number})
    assert (read_json(path), names(tmp_path)) == (1, ["value.json"])


# -- folders -----------------------------------------------------------------------------------------------------------------


def fill(path: Path, content: str) -> None:
    with new_folder(path) as temporary:
        assert names(temporary) == []
        (temporary / "deep").mkdir()
        (temporary / "deep" / "file").write_text(content)


def test_a_folder_appears_whole_when_its_block_ends(tmp_path):
    path = tmp_path / "runs" / "model"
    with new_folder(path) as temporary:
        (temporary / "file").write_text("a")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system: the renaming is atomic
    assert names(path) == ["file"]
    assert names(path.parent) == ["model"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_folder_is_on_the_disk_before_it_takes_its_name_and_its_name_after(tmp_path, monkeypatch):
    """A lost machine must leave no folder of this name, or a whole one."""
    calls, fsync, rename = [], os.fsync, os.rename
    shown = lambda path: str(path).replace(str(tmp_path), "").replace(temporary.name, "NEW")  # noqa: E731
    with new_folder(tmp_path / "model") as temporary:
        (temporary / "deep").mkdir()
        for name in ("a", "deep/b"):
            (temporary / name).write_text(name)
        monkeypatch.setattr(
            files.os, "fsync", lambda file: (calls.append(shown(os.readlink(f"/proc/self/fd/{file}"))), fsync(file))
        )
        monkeypatch.setattr(files.os, "rename", lambda *paths: (calls.append("rename"), rename(*paths)))
    assert calls == ["/NEW/deep/b", "/NEW/deep", "/NEW/a", "/NEW", "rename", ""]


@pytest.mark.parametrize("there", ["folder", "empty folder", "file", "link"])
def test_a_folder_takes_the_place_of_what_was_there(there, tmp_path):
    path, target = tmp_path / "model", tmp_path / "target"
    fill(target, "kept")
    if there == "folder":
        fill(path, "old")
        (path / "only in the old one").touch()
    elif there == "empty folder":
        path.mkdir()
    elif there == "file":
        path.write_text("old")
    else:
        path.symlink_to("target")
    fill(path, "new")
    assert not path.is_symlink()
    assert names(path) == ["deep"]
    assert (path / "deep" / "file").read_text() == "new"
    assert names(tmp_path) == ["model", "target"]
    assert (target / "deep" / "file").read_text() == "kept"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [Stop, OSError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(error, old, tmp_path):
    path = tmp_path / "model"
    if old:
        fill(path, "old")
    with pytest.raises(error), new_folder(path) as temporary:
        (temporary / "half").write_text("a")
        raise error
    assert names(tmp_path) == (["model"] if old else [])
    assert not old or (path / "deep" / "file").read_text() == "old"


def test_a_renaming_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), new_folder(tmp_path / "model"):
        monkeypatch.setattr(files.os, "rename", full)
    assert names(tmp_path) == []


def test_of_two_that_make_the_same_folder_at_once_the_later_wins_and_none_fails(tmp_path):
    path = tmp_path / "model"
    with new_folder(path) as late:
        (late / "late").touch()
        with new_folder(path) as early:
            (early / "early").touch()
        assert names(path) == ["early"]
    assert names(path) == ["late"]
    assert names(tmp_path) == ["model"]


def test_another_process_between_looking_and_renaming(tmp_path, monkeypatch):
    """It makes the folder just before ours is renamed; and once more, it takes away what we are about to move aside."""
    path, rename = tmp_path / "model", os.rename
    pending = ["make", "take"]

    def interfering(source, target):
        if pending and pending[0] == "make" and Path(target) == path:
            pending.pop(0)
            fill_without_rename(path)
        elif pending and pending[0] == "take" and Path(source) == path:
            pending.pop(0)
            rename(path, tmp_path / "taken")
        rename(source, target)

    def fill_without_rename(folder):
        folder.mkdir()
        (folder / "theirs").touch()

    monkeypatch.setattr(files.os, "rename", interfering)
    fill(path, "ours")
    assert pending == []
    assert (path / "deep" / "file").read_text() == "ours"
    assert names(tmp_path) == ["model", "taken"]


# -- links -------------------------------------------------------------------------------------------------------------------


def test_a_link_is_relative_and_can_be_pointed_elsewhere(tmp_path):
    link = tmp_path / "outputs" / "latest"
    for name in ("first", "second"):
        fill(link.parent / name, name)
        replace_link(link, link.parent / name)
        assert os.readlink(link) == name
        assert (link / "deep" / "file").read_text() == name
    assert names(link.parent) == ["first", "latest", "second"]
    (tmp_path / "outputs").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest" / "deep" / "file").read_text() == "second"


def test_a_link_whose_target_is_gone_is_replaced(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    (tmp_path / "run").mkdir()
    replace_link(tmp_path / "latest", tmp_path / "run")
    assert os.readlink(tmp_path / "latest") == "run"


def test_a_replacement_that_fails_leaves_the_old_link(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    replace_link(tmp_path / "latest", tmp_path / "run")
    monkeypatch.setattr(files.os, "replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        replace_link(tmp_path / "latest", tmp_path / "other")
    assert os.readlink(tmp_path / "latest") == "run"
    assert names(tmp_path) == ["latest", "run"]


def test_a_real_folder_is_not_replaced_by_a_link(tmp_path):
    fill(tmp_path / "latest", "mine")
    with pytest.raises(OSError):
        replace_link(tmp_path / "latest", tmp_path / "run")
    assert (tmp_path / "latest" / "deep" / "file").read_text() == "mine"
    assert names(tmp_path) == ["latest"]


# -- digests -----------------------------------------------------------------------------------------------------------------


def test_a_digest_follows_the_value_and_not_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    different = [("a",), ("a", None), ("a", "b"), (["a", "b"],), ("ab",), (1,), ("1",), (1.5,), (True,), (None,), ({"a": 1},), ()]
    assert len({digest_of(*parts) for parts in different}) == len(different)
    assert all(len(digest_of(*parts)) == 20 for parts in different)


def test_a_digest_is_that_of_another_process():
    code = "from e5ft.files import digest_of; print(digest_of('한국어', {'b': 1, 'a': None}))"
    root = Path(__file__).parents[1]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert output.strip() == digest_of("한국어", {"a": None, "b": 1})


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"a", Path("a")])
def test_what_json_cannot_write_has_no_digest(value):
    with pytest.raises((TypeError, ValueError)):
        digest_of(value)


def test_a_file_s_digest_follows_its_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"a" * 1_000_000)
    other.write_bytes(b"a" * 1_000_000)
    assert digest_of_file(one) == digest_of_file(other)
    other.write_bytes(b"a" * 999_999 + b"b")
    assert digest_of_file(one) != digest_of_file(other)
    assert len(digest_of_file(one)) == 32 and json.dumps(digest_of_file(one))


def test_lines_are_written_one_by_one_and_all_or_none(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    write_lines(path, (f"줄 {i}" for i in range(3)))
    assert path.read_text(encoding="utf-8") == "줄 0\n줄 1\n줄 2\n"

    def broken():
        yield "다른 줄"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_lines(path, broken())
    assert path.read_text(encoding="utf-8").startswith("줄 0") and list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    kept = [".hidden", ".model.partial", ".checkpoint-4.partial", "model.abcdefgh", "rows.jsonl", ".gitignore"]
    for name in kept:
        (tmp_path / name).write_text("x")
    for target in ("model", "config.yaml"):
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:  # a kill: nobody cleans up
            patch.setattr("shutil.rmtree", lambda *a, **k: None)
            patch.setattr("pathlib.Path.unlink", lambda *a, **k: None)
            if target == "model":
                with new_folder(tmp_path / target) as folder:
                    (folder / "weights").write_text("half")
                    raise KeyboardInterrupt
            patch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
            write_text(tmp_path / target, "half")
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    clear_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_files_and_folders_have_the_mode_of_any_other(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    write_text(tmp_path / "written", "x")
    with new_folder(tmp_path / "new"):
        pass
    (tmp_path / "private").touch(0o600)
    share(tmp_path / "private")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["written"] == modes["private"] == modes["file"] and modes["new"] == modes["folder"]


def test_the_umask_is_the_user_s(tmp_path):
    code = f"import os; os.umask(0o027); from e5ft.files import write_text; write_text({str(tmp_path / 'x')!r}, 'x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
