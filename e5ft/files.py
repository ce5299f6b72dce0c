"""The ground floor writes files so that a reader sees the old one or the new one, never half of one; manifests and digests."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

MANIFEST = "manifest.json"
_UMASK = os.umask(0o022)  # it can only be read by setting it, which is safe while one thread runs
os.umask(_UMASK)
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as tempfile names what stands beside its target
# How a full disk is reported: by the system, by safetensors (Rust), by torch.save, by NumPy.
_DISK_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|os error (28|122)|PytorchStreamWriter failed writing|\d+ requested and \d+ written"
)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 file atomically: to a neighbour first, flushed to disk, then renamed."""
    _write(path, (text,))


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Write a UTF-8 file of lines in the same way; only one line at a time is held."""
    _write(path, (f"{line}\n" for line in lines))


def _write(path: str | os.PathLike, parts: Iterable[str]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        share(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write a value as indented JSON, atomically. NaN and infinities are refused: they are not JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> object:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def share(path: str | os.PathLike) -> None:
    """Give a file or folder the mode of any other that this user makes: temporary files, and safetensors', are private."""
    os.chmod(path, (0o777 if os.path.isdir(path) else 0o666) & ~_UMASK)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block ends well, and is removed otherwise.

    If `path` is there already, also because another process made it meanwhile, the newer one wins: the old folder is moved
    aside and removed. (For an instant there is none, so readers in other processes need a lock.)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    share(temporary)
    try:
        yield temporary
        replace_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Flush a folder to disk and rename it to `path` beside it; what was there is removed, see `new_folder`."""
    source, path, old = Path(source), Path(path), []
    for folder, _, names in os.walk(source, topdown=False):
        for name in names:
            _flush(Path(folder, name))
        _flush(folder)
    while True:
        try:
            os.rename(source, path)  # asking first would leave time for another process to put something there
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        old.append(Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old.")))
        with contextlib.suppress(FileNotFoundError):  # another process has moved it aside
            os.rename(path, old[-1] / path.name)
    flush_folder(path.parent)
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)


def clear_temporaries(folder: str | os.PathLike) -> None:
    """Remove what writers of this module left half-written in a folder when their process was killed.

    Args:
        folder: in which nobody is writing.
    """
    for path in Path(folder).glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_link(link: str | os.PathLike, target: str | os.PathLike) -> None:
    """Point a relative symbolic link at a folder beside it, atomically."""
    link, target = Path(link), Path(target)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    try:
        os.replace(temporary, link)
    except OSError:  # a real folder stands there
        temporary.unlink()
        raise


def digest_of(*parts: object) -> str:
    """Return a short digest (20 hexadecimal digits) of values that JSON can write, for cache keys."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def digest_of_file(path: str | os.PathLike) -> str:
    """Return a digest (32 hexadecimal digits) of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_manifest(folder: str | os.PathLike, **more: object) -> None:
    """Flush every file below a folder to disk, then write down their sizes and SHA-256: `check_manifest` compares with them.

    Args:
        folder: complete but for the manifest.
        more: what else the manifest says, as plain values.
    """
    folder = Path(folder)
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(file)}
    write_json(folder / MANIFEST, {**more, "files": files})
    flush_folder(folder)


def check_manifest(folder: str | os.PathLike) -> str | None:
    """Say what is wrong with a folder that `write_manifest` sealed: the first file that is missing, cut or changed; None if nothing.

    Args:
        folder: any folder; one without a readable manifest was never complete.
    """
    folder = Path(folder)
    try:
        entries = read_json(folder / MANIFEST)["files"].items()
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in entries}
    except FileNotFoundError:
        return f"no {MANIFEST}: it was never written to its end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, (size, digest) in files.items():
        try:
            with open(folder / name, "rb") as file:
                actual = os.fstat(file.fileno()).st_size
                if actual != size:
                    return f"{name} has {actual:,} bytes, {size:,} were written"
                if _sha256(file) != digest:
                    return f"{name} is not what was written (SHA-256)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def flush_folder(folder: str | os.PathLike) -> None:
    """Let the names in a folder reach the disk: a rename is only safe once its folder is."""
    _flush(folder)


def disk_was_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that of a full disk or quota, whichever library reports it."""
    if error is None:
        return False
    full = _DISK_FULL.search(str(error)) is not None or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or disk_was_full(error.__cause__ or error.__context__)


def write_refused(error: OSError) -> str | None:
    """Why something could not be written: a full disk, a read-only one, no permission, a file in the way; None for other errors."""
    if disk_was_full(error):
        return "the disk is full"
    refusals = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)
    return error.strerror if error.errno in refusals else None


def _flush(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
