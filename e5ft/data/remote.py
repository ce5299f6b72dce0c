"""Files named by a URL (s3://, gs://, https://, hf://, ...: whatever fsspec knows), fetched once into the cache.

The readers then work on the local copy, and a `Fetched` shows the URL wherever they name the file.
"""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec

from e5ft import caches, distributed
from e5ft.errors import ConfigurationError, DataError, E5ftError
from e5ft.files import digest_of, read_json, write_json

_URL = re.compile(r"[a-z][a-z0-9+.\-]*://", re.IGNORECASE)
# A password in the authority (a port is none; abfs://container@account is none), any user of a web address (often a token),
# and the parameters by which providers sign an address.
_CREDENTIALS = re.compile(
    r"://[^/@\s:]*:(?!:|\d+/)[^@\s]*@|https?://[^/@\s]+@"
    r"|[?&](?:[\w-]*(?:signature|token|secret|password|credential)|sig|[\w-]*(?:api|access)[_-]?key\w*)=",
    re.IGNORECASE,
)
# Metadata keys that change with the content.
_MARKS = (
    *("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "crc32c", "generation", "VersionId", "version_id", "blob_id", "sha"),
    *("LastModified", "Last-Modified", "last_modified", "modified", "updated", "mtime", "created", "CRC"),
)
_FILES = "files"  # where they lie in an entry of the cache: one may have the name of its manifest
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Fetched(os.PathLike):
    """A fetched file or folder: opened at `path`, shown as `url`."""

    url: str
    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Fetched":
        return Fetched(f"{self.url.rstrip('/')}/{name}", self.path / name)


def is_url(name: object) -> bool:
    """Whether a name is a URL, not a local path or a hub name."""
    return isinstance(name, str) and _URL.match(name) is not None


def check_url(name: object, field: str = "") -> None:
    """Refuse a URL that carries credentials: it would be in logs, in config.yaml and in W&B. The message does not show it.

    Args:
        name: any text; one without a URL passes.
        field: where it stands, for the message.

    Raises:
        ConfigurationError: user:password@, a token as the user, or a signed address.
    """
    if isinstance(name, str) and "://" in name and _CREDENTIALS.search(name):
        raise ConfigurationError(
            f"{field or 'an argument'}: the URL carries credentials (user:password@, a token or a signature), which would be stored "
            "with the run; leave them out: they are taken from the environment or the provider's own configuration files"
        )


def expanded(names: Iterable[str | os.PathLike]) -> Iterator[str | os.PathLike]:
    """Yield names, and for a URL with a * in its path the URLs of the files that match it, in order.

    Raises:
        ConfigurationError: as of `local_file`.
        DataError: nothing matches, or the storage cannot list its files.
    """
    for name in names:
        if not is_url(name) or "*" not in name:
            yield name
            continue
        check_url(name, name.partition("://")[0] + "://...")
        if name.lower().startswith("http"):
            raise DataError(f"{name}: a web server lists no files; name each: [{name.replace('*', '0')}, ...]")
        with _explained(name):
            storage, pattern = _storage(name)
            found = sorted(path for path in storage.glob(pattern) if storage.isfile(path))
        if not found:
            raise DataError(f"{name}: no file matches")
        yield from map(storage.unstrip_protocol, found)


def local_file(name: str, cache: Path) -> str | Fetched:
    """Return what to open for a name: the name itself, or for a URL the cache's copy, fetched unless it is as the object is now.

    Args:
        name: a local path, the name of a hub data set, or a URL.
        cache: folder of the caches. The main process fetches, the others read.

    Raises:
        ConfigurationError: the protocol is unknown, its package is missing, or the URL carries credentials.
        DataError: it is not there or cannot be read.
    """
    if not is_url(name):
        return name
    url, name = name, re.split(r"[?#]", name.split("::")[0].partition("://")[2])[0].rpartition("/")[2]
    if not name:
        raise DataError(f"{url}: this names a folder; must be a file")
    return Fetched(url, _fetched(url, cache, lambda storage, root: {name: root}) / name)


def fetch_folder(url: str, cache: Path, names: tuple[str, ...], patterns: tuple[str, ...], others: tuple[str, ...]) -> Fetched:
    """Fetch those of some files of a folder that are there; see `local_file`.

    Args:
        url: of the folder.
        cache: folder of the caches.
        names: files, relative to the folder.
        patterns: further ones, where the storage can list them (many web servers cannot).
        others: patterns of what is looked for where the first of the names is not there.
    """

    def choose(storage: fsspec.AbstractFileSystem, root: str) -> dict[str, str]:
        """Return name -> address of the files that are there."""
        root, candidates, sources = root.rstrip("/"), set(names), {}
        for pattern in (*patterns, *(() if storage.exists(f"{root}/{names[0]}") else others)):
            with contextlib.suppress(Exception):  # no listing; if nothing can be read, the lines below say why
                folder = pattern[: pattern.rfind("/") + 1]
                candidates |= {folder + path.rpartition("/")[2] for path in storage.glob(f"{root}/{pattern}")}
        for name in sorted(candidates):
            with contextlib.suppress(FileNotFoundError):  # storage.exists() takes a refusal for an absence too
                storage.info(f"{root}/{name}")
                sources[name] = f"{root}/{name}"
        return sources

    return Fetched(url, _fetched(url, cache, choose))


def fetch_repository(name: str) -> Fetched:
    """Fetch the files of a hub data set's repository that can be an evaluation set's, into the hub's own cache.

    Args:
        name: OWNER/NAME. The main process fetches, the others find it there.

    Raises:
        DataError: there is none, or it cannot be fetched.
    """
    import huggingface_hub

    kinds = ["*.jsonl*", "*.json*", "*.ndjson*", "*.parquet", "*.tsv*", "*.txt*", "*.csv*"]
    try:
        with distributed.main_process_first():
            folder = huggingface_hub.snapshot_download(name, repo_type="dataset", allow_patterns=kinds)
    except Exception as error:  # the library raises a dozen kinds; each means that there is nothing to read
        raise DataError(
            f"{name}: no such folder, and no hub data set of that name could be fetched ({_first_line(error).partition('. ')[0]}); "
            f"name a folder, or fetch it: hf download {name} --repo-type dataset --local-dir DIR"
        ) from error
    return Fetched(f"hf://datasets/{name}", Path(folder))


def _fetched(url: str, cache: Path, choose: Callable[[fsspec.AbstractFileSystem, str], dict[str, str]]) -> Path:
    """Return the local folder; a small file beside it tells the other processes which one the main process fetched."""
    check_url(url, url.partition("://")[0] + "://...")
    record = cache / f"remote-{digest_of(url)}.json"
    with distributed.main_process_first():
        if distributed.is_main() or not distributed.active():  # who has not met the others yet must look for itself
            with _explained(url), caches.locked(record):
                write_json(record, {"url": url, "folder": _fetch(url, cache, choose)})
    try:
        return cache / read_json(record)["folder"]
    except OSError as error:
        raise DataError(f"{url}: the main process did not fetch it ({record} is missing)") from error


def _fetch(url: str, cache: Path, choose: Callable) -> str:
    """Return the name of the folder in the cache that holds the files as they are now."""
    storage, root = _storage(url)
    sources = choose(storage, root)
    if not sources:
        raise FileNotFoundError(url)
    infos = {name: storage.info(path) for name, path in sources.items()}
    marks = {
        name: {"size": str(info.get("size")), **{mark: str(info[mark]) for mark in _MARKS if info.get(mark) is not None}}
        for name, info in infos.items()
    }

    def copy(folder: Path) -> None:
        log.info(f"fetching {url} ({sum(info.get('size') or 0 for info in infos.values()):,} bytes)")
        for name, path in sources.items():
            if infos[name].get("type") == "directory":
                raise DataError(f"{url}: this is a folder; must be a file")
            target = folder / _FILES / name
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.get_file(path, str(target))
            size, expected = target.stat().st_size, infos[name].get("size")
            if expected not in (None, size):
                raise DataError(f"{url}: {size:,} of {expected:,} bytes of {name} arrived, or it changed meanwhile; start again")

    folder = cache / f"remote-{digest_of(_FILES, url, marks)}"
    caches.keep(folder, copy, rebuild=any(len(each) == 1 for each in marks.values()))  # a size alone tells nothing
    return f"{folder.name}/{_FILES}"


def _storage(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        storage, root = fsspec.url_to_fs(url)
    except ImportError as error:
        raise ConfigurationError(
            f"{url}: this protocol needs a package that is not installed ({error}); for s3:// pip install s3fs, for gs:// gcsfs, "
            "for abfs:// adlfs"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{url}: {error}; must be s3://, gs://, abfs://, https://, hf:// or file://, among others"
        ) from error
    storage.invalidate_cache()  # a listing from earlier in this process would hide a change
    return storage, root


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn every storage library's own errors into a DataError: each means that there is nothing to read."""
    try:
        yield
    except E5ftError:
        raise
    except FileNotFoundError as error:
        reason = "" if error.__cause__ is None else f" ({_first_line(error.__cause__)})"
        raise DataError(f"{url}: there is no such file{reason}; check the name") from error
    except Exception as error:
        raise DataError(
            f"{url}: cannot be fetched ({_first_line(error)}); check the name, the network, and this machine's credentials "
            "(environment or the provider's configuration files)"
        ) from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
