"""Entries of a cache folder: each is a folder that one process builds and seals, and that is believed only while it is as sealed."""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from e5ft.errors import StorageError
from e5ft.files import check_manifest, disk_was_full, new_folder, write_manifest, write_refused

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Let one process at a time, of whatever run, look for an entry, build it and open it.

    Args:
        entry: its folder; the cache is the folder around it, made where it is absent.

    Raises:
        StorageError: as of `writing`.
    """
    with writing(entry.parent):
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # where no folder can be: /proc, or another machine's drive that is gone
            raise StorageError(f"{entry.parent}: cannot be made; name another folder: cache_dir=DIR") from error
        lock = FileLock(f"{entry}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning(f"{entry}: another process uses it; waiting for that")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Name the cache, and not the run's folder, where the block cannot write into it.

    Raises:
        StorageError: its disk is full, or it must not be written.
    """
    try:
        yield
    except OSError as error:
        reason = write_refused(error)
        if isinstance(error.filename, str | os.PathLike):
            place = Path(error.filename)
            is_here = place.is_relative_to(cache) or cache.is_relative_to(place)
        else:  # of a write; a storage's refusal to read has none either
            is_here = error.errno not in (errno.EACCES, errno.EPERM)
        if reason is None or not is_here:
            raise
        first = "make room (what it holds may be deleted)" if disk_was_full(error) else "make it writable"
        raise StorageError(f"{cache}: cannot be written ({reason}); {first}, or name another folder: cache_dir=DIR") from error


def keep(entry: Path, build: Callable[[Path], object], rebuild: bool = False) -> None:
    """Build an entry, unless it is there and whole. Its lock is the caller's.

    Args:
        entry: its folder.
        build: called with an empty folder, which takes the entry's place when it is filled.
        rebuild: build it whatever is there.
    """
    if rebuild or not is_whole(entry):
        with new_folder(entry) as temporary:
            build(temporary)
            write_manifest(temporary)


def is_whole(entry: Path) -> bool:
    """Whether an entry is there and every byte of it is what was written; a damaged one is said, and must be built again."""
    if not entry.exists():
        return False
    damage = check_manifest(entry)
    if damage is not None:
        log.warning(f"{entry}: damaged ({damage}); building it again")
    return damage is None
