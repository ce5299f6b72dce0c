"""Which files hold the rows of a source: one, a list, a glob, a folder of shards, what `save_to_disk` wrote, or a hub's repository."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from e5ft.data.lines import is_file
from e5ft.data.opening import COMPRESSED, kind_of
from e5ft.data.remote import is_url
from e5ft.data.settings import Reading
from e5ft.errors import DataError
from e5ft.files import read_json
from e5ft.settings import HUB_NAME

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
READ = f"{', '.join(SUFFIXES)}, text also with {', '.join(COMPRESSED)}"
Names = str | os.PathLike | Sequence[str | os.PathLike]
_ELSEWHERE = {  # kinds that people have rows in, and what makes a readable file of them
    **dict.fromkeys((".xls", ".xlsb", ".xlsm", ".ods", ".numbers"), "save the sheet as .xlsx or CSV UTF-8"),
    **dict.fromkeys(
        (".pkl", ".pickle"), 'a pickle can run code, and is not read; pd.read_pickle(FILE).to_parquet("rows.parquet")'
    ),
    **dict.fromkeys((".feather", ".orc"), 'pd.read_feather(FILE).to_parquet("rows.parquet")'),
    **dict.fromkeys(
        (".txt", ".md", ".pdf", ".docx", ".doc", ".html", ".hwp"),
        "rows need a query and a document column: write them as .jsonl or .csv",
    ),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "an archive; unpack it, and name the folder"),
    **dict.fromkeys((".npy", ".npz", ".pt", ".bin", ".h5"), "no rows of text; write them as .jsonl or .parquet"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb"), 'pd.read_sql(QUERY, CONNECTION).to_parquet("rows.parquet")'),
    **dict.fromkeys((".yaml", ".yml", ".xml"), "write them as .jsonl"),
}
_SPLITS = {  # the words by which datasets finds splits in names of files and folders
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_ASIDE = re.compile(  # what stands beside the shards of a data set
    r"[._].*|(readme|license|licence|changelog|citation)\b.*|(dataset_infos?|state|dataset_dict|metadata|config)\.json|.*\.(md|py|lock|crc|yaml|png|jpg)",
    re.IGNORECASE,
)


def display(source: Names) -> str:
    """A source's name for a person: a file, or the first of several and how many more."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    return str(source[0]) if len(source) == 1 else f"{source[0]} and {len(source) - 1:,} more"


def stem(source: Names) -> str:
    """A source's name without folder and suffixes: dev of data/dev.csv.gz."""
    name = Path(source if isinstance(source, str | os.PathLike) else source[0]).name
    suffix = kind_of(name)
    return name[: name.lower().rindex(suffix)] if suffix in SUFFIXES else re.sub(r"[*?\[\]]+", "", name) or "rows"


def find_shards(source: Names, reading: Reading) -> tuple[str | os.PathLike, ...]:
    """The files that hold a source's rows, in order; a URL and the name of a hub data set stand for themselves.

    Args:
        source: a file, a folder, a glob, a URL, the name of a hub data set; or several of these.
        reading: `split` chooses among a folder's splits, `config` among its configurations.

    Raises:
        DataError: nothing is there, it is of no kind that is read, or which of the files are meant is not plain.
    """
    if not isinstance(source, str | os.PathLike):
        shards = [shard for name in source for shard in find_shards(name, reading)]
        if not shards:
            raise DataError("an empty list of files; must name at least one")
        seen = set()
        places = (shard if is_url(os.fspath(shard)) else os.path.realpath(shard) for shard in shards)
        twice = next((shard for shard, place in zip(shards, places, strict=True) if place in seen or seen.add(place)), None)
        if twice is not None:
            raise DataError(f"{twice}: named twice; each row would be there twice")
        return tuple(shards)
    name = os.fspath(source)
    if is_url(name):
        return (source,)
    if is_file(source):
        return (_readable(source),)
    if os.path.isdir(source):
        return tuple(_in_folder(Path(name), reading))
    if glob.has_magic(name):
        found = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
        if not found:
            raise DataError(f"{name}: no file matches")
        return tuple(_of_one_kind(name, map(Path, found)))
    if kind_of(name) in (*SUFFIXES, *_ELSEWHERE) or not HUB_NAME.fullmatch(name) or PurePath(name).suffix.lower() in COMPRESSED:
        raise DataError(f"{name}: there is no such file")
    return (source,)


def unread(source: Names, shards: Sequence[str | os.PathLike]) -> Iterator[str]:
    """Yield what to say of a folder's files of other splits than those that are read: their names alone say that they are.

    Args:
        source: as of `find_shards`.
        shards: what it found.
    """
    for folder in (Path(name) for name in ([source] if isinstance(source, str | os.PathLike) else source) if os.path.isdir(name)):
        inside = [path for path in map(Path, shards) if path.is_relative_to(folder)]
        read = {_split_of(path.relative_to(folder)) for path in inside}
        others: dict[str, Path] = {}
        paths = (path for path in sorted(folder.rglob("*")) if kind_of(path) in SUFFIXES and path.is_file())
        for path in paths if None not in read else ():
            split = _split_of(path.relative_to(folder))
            if split is not None and split not in read and _is_visible(path.relative_to(folder)):
                others.setdefault(split, path.relative_to(folder))
        if others:
            named = " and ".join(f"{path} (data.split={split})" for split, path in others.items())
            yield f"not read, since the name says another split: {named}; all of them: '{folder}/**/*'"


def _readable(path: str | os.PathLike) -> str | os.PathLike:
    kind, suffix = kind_of(path), PurePath(path).suffix.lower()
    if PurePath(os.fspath(path)).name.lower().endswith((".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        kind = ".tar"
    if kind in _ELSEWHERE:
        raise DataError(f"{path}: {kind} is not read: {_ELSEWHERE[kind]}")
    if kind not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file; {READ} are read")
    if suffix in COMPRESSED and kind in (".parquet", ".arrow", ".xlsx"):
        raise DataError(f"{path}: {kind} is compressed in itself; unpack it: {'gunzip' if suffix == '.gz' else 'unpack'} {path}")
    return path


def _of_one_kind(name: str, paths: Iterable[Path]) -> Iterator[str]:
    """Yield the readable files among them.

    Raises:
        DataError: they are of several kinds, or none is readable.
    """
    kinds: dict[str, list[str]] = {}
    for path in paths:
        if not _ASIDE.fullmatch(path.name):
            _readable(path)
            kind = kind_of(path)
            kinds.setdefault(".jsonl" if kind in JSON_SUFFIXES else kind, []).append(str(path))
    if not kinds:
        raise DataError(f"{name}: holds no file of rows; {READ} are read")
    if len(kinds) > 1:
        counts = ", ".join(f"{len(paths)} {kind}" for kind, paths in kinds.items())
        first = next(iter(kinds))
        raise DataError(f"{name}: files of several kinds ({counts}); name one kind, for instance '{name.rstrip('/*')}/*{first}'")
    yield from next(iter(kinds.values()))


def _in_folder(folder: Path, reading: Reading) -> list[str]:
    if (folder / "dataset_dict.json").is_file():
        splits = _record(folder / "dataset_dict.json").get("splits", [])
        return _in_folder(folder / _chosen(folder, splits, reading.split), reading)
    if (folder / "state.json").is_file():  # of datasets' save_to_disk
        files = [entry.get("filename", "") for entry in _record(folder / "state.json").get("_data_files", [])]
        missing = next((file for file in files if not (folder / file).is_file()), None)
        if missing is not None or not files:
            raise DataError(
                f"{folder}: save_to_disk's state.json names {missing or 'no file'}, which is not there; save it again"
            )
        return [str(folder / file) for file in files]
    if (folder / "qrels").is_dir():
        raise DataError(f"{folder}: an evaluation set in BEIR's layout; data.eval_dir={folder}, or rows_dir={folder} of mine.py")
    configured = _configured(folder, reading)
    if configured is not None:
        return list(_of_one_kind(str(folder), configured))
    if reading.config is not None and (folder / reading.config).is_dir():
        folder = folder / reading.config
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_visible(path.relative_to(folder))]
    places = sorted({path.relative_to(folder).parts[0] for path in paths if len(path.relative_to(folder).parts) > 1})
    places = [place for place in places if place != "data" and _split_of(PurePath(place)) is None]
    if len(places) > 1:
        raise DataError(
            f"{folder}: {len(places)} folders ({', '.join(places)}); data.config={places[0]}, or all: '{folder}/**/*'"
        )
    splits: dict[str | None, list[Path]] = {}
    for path in paths:
        splits.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    if None in splits and len(splits) > 1:
        raise DataError(
            f"{folder}: {splits[None][0].name} is of no split, {next(paths for split, paths in splits.items() if split)[0].name} is; "
            f"name the files: '{folder}/*.jsonl', or a list"
        )
    if None not in splits and splits:
        paths = splits[_chosen(folder, list(splits), reading.split)]
    return list(_of_one_kind(str(folder), paths))


def _configured(folder: Path, reading: Reading) -> list[Path] | None:
    """The files that a data set's card lists for the configuration and split; None where it lists none.

    Raises:
        DataError: which configuration or split is meant is not plain, or a file lies outside the folder or is not there.

    Source: https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    if not (folder / "README.md").is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        configs = (metadata_load(folder / "README.md") or {}).get("configs") or []
        found = {str(each["config_name"]): _by_split(each["data_files"]) for each in configs if "data_files" in each}
    except Exception:  # a README for people, or a card that is no data set's: the folder says which its files are
        return None
    if not found or (reading.config is not None and reading.config not in found and (folder / reading.config).is_dir()):
        return None
    name = reading.config or ("default" if "default" in found else next(iter(found)))
    if name not in found or (reading.config is None and "default" not in found and len(found) > 1):
        raise DataError(f"{folder}: its README.md lists the configurations {', '.join(found)}; data.config={next(iter(found))}")
    patterns = found[name][_chosen(folder, list(found[name]), reading.split)]
    if any(PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts for pattern in patterns):
        raise DataError(f"{folder}: its README.md lists files outside of the folder; name the files")
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not paths:
        raise DataError(f"{folder}: nothing is there of what its README.md lists: {', '.join(patterns)}; name the files")
    return list(dict.fromkeys(paths))


def _by_split(files: str | list[str | dict]) -> dict[str, list[str]]:
    """A card's data_files: patterns of the training split, or the patterns of each split."""
    splits: dict[str, list[str]] = {}
    for each in files if isinstance(files, list) else [files]:
        split, paths = (each["split"], each["path"]) if isinstance(each, dict) else ("train", each)
        splits.setdefault(str(split), []).extend(map(str, paths if isinstance(paths, list) else [paths]))
    return splits


def _is_visible(path: PurePath) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts) and not _ASIDE.fullmatch(path.name)


def _split_of(path: PurePath) -> str | None:
    """The split that a file's name or one of its folders' says: data/train-00000-of-00002.parquet."""
    words = (word for part in path.parts for word in re.split(r"[-._ \d]+", part.lower()))
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _chosen(folder: Path, splits: list[str], asked: str) -> str:
    """The name of the split among those that are there.

    Raises:
        DataError: it is not there.
    """
    name = asked if asked in splits else _SPLITS.get(asked)
    if name not in splits:
        raise DataError(
            f"{folder}: no split data.split={asked}; there are {', '.join(splits) or 'none'}: data.split={(splits or ['?'])[0]}"
        )
    return name


def _record(path: Path) -> dict:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return value if isinstance(value, dict) else {}
