"""Where the parts of an evaluation set lie in a folder: BEIR's own layout, and those of its hub repositories and of MTEB's.

- `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv` (BEIR's archives);
- folders `corpus`, `queries` and `qrels` (or `data`, `default`) of .jsonl or .parquet, whole or in shards (both on the hub);
- the same for one of several languages: `ko-corpus`, `ko-queries`, `ko-qrels` (or `ko`), named as the folder's subfolder.
Text files may be compressed; of several files of one name the uncompressed one is read.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

from e5ft.data.lines import is_file
from e5ft.data.opening import COMPRESSED
from e5ft.data.remote import Fetched
from e5ft.data.shards import JSON_SUFFIXES
from e5ft.errors import DataError

LAYOUT = "corpus.jsonl, queries.jsonl and qrels/<split>.tsv, or folders corpus, queries and qrels of .jsonl or .parquet"
ROWS = (*JSON_SUFFIXES, ".parquet")
JUDGEMENTS = (".tsv", ".txt", ".csv", *ROWS)
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_UNNAMED = "test"  # the split of a lone qrels.tsv

Root = Path | Fetched


@dataclasses.dataclass(frozen=True)
class SetFiles:
    """The files of one evaluation set, each part whole or in shards, in their order."""

    corpus: tuple[Root, ...]
    queries: tuple[Root, ...]
    qrels: tuple[Root, ...]


def find_files(folder: Root, split: str) -> SetFiles:
    """The files of a split's set.

    Args:
        folder: the set's, or for one of several languages in a folder, that folder and the language's name: `FOLDER/ko`.
        split: of the judgements, and of a corpus and queries that are divided by split.

    Raises:
        DataError: a part is missing, ambiguous or no regular file; the message names what is there.
    """
    folder, language = _root(folder)
    parts = [_texts(folder, language, part, split) for part in ("corpus", "queries")]
    # Asked for first, so that a name that can be no file's, or a pipe, is refused as everywhere.
    if is_file(folder / "qrels" / f"{split}.tsv"):
        return SetFiles(*parts, (folder / "qrels" / f"{split}.tsv",))
    judged = _judged(folder, language)
    if split not in judged:
        there = f"the splits there are: {', '.join(sorted(judged))}" if judged else "there is no qrels/*.tsv at all"
        raise DataError(f"{folder / f'{language}qrels' / split}.tsv: no such file; {there}")
    return SetFiles(*parts, _checked(judged[split]))


def splits_of(folder: Root) -> list[str]:
    """Names of the splits whose judgements are there, in ascending order."""
    return sorted(_judged(*_root(folder)))


def _root(folder: Root) -> tuple[Root, str]:
    """The folder that holds the parts, and what their names begin with: nothing, or `ko-`.

    Raises:
        DataError: there is no such folder, or it holds the sets of several languages.
    """
    if _rows_in(folder, "", only="corpus") or "corpus" in _folders(folder):
        return folder, ""
    parent, name = (Fetched(*_parent(folder)), Path(folder).name) if isinstance(folder, Fetched) else (folder.parent, folder.name)
    if f"{name}-corpus" in _folders(parent):
        return parent, f"{name}-"
    if is_file(folder) or not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder; an evaluation set is a folder with {LAYOUT}")
    languages = sorted(inside.removesuffix("-corpus") for inside in _folders(folder) if inside.endswith("-corpus"))
    if not languages:
        return folder, ""
    if len(languages) > 1:
        names = ", ".join(languages)
        raise DataError(f"{folder}: holds the sets {names}; name one of them: {folder / languages[0]}")
    return folder, f"{languages[0]}-"


def _parent(folder: Fetched) -> tuple[str, Path]:
    return folder.url.rstrip("/").rpartition("/")[0], folder.path.parent


def _texts(folder: Root, language: str, part: str, split: str) -> tuple[Root, ...]:
    """The files of the corpus or of the queries."""
    for place in () if language else ("", "data"):
        whole = _rows_in(folder, place, only=part)
        if whole:
            return _checked(whole[part])
    places = [place for place in (f"{language}{part}", f"data/{language}{part}") if os.path.isdir(folder / place)]
    if not places:
        there = ", ".join(_shown(folder)) or "nothing"
        raise DataError(
            f"{folder / f'{part}.jsonl'}: no such file; there is {there}; an evaluation set is a folder with {LAYOUT}"
        )
    place = folder / places[0]
    found = _rows_in(folder, places[0])
    for stem in (split, part, part.removesuffix("s")):
        if stem in found:
            return _checked(found[stem])
    if len({re.sub(r"[-_.]?\d+$", "", stem) for stem in found}) == 1:  # one file, or docs00, docs01, ...
        return _checked(tuple(file for stem in sorted(found) for file in found[stem]))
    there = ", ".join(_shown(place)) or "nothing"
    raise DataError(f"{place}: there is {there}; must be {split}.jsonl or .parquet, {part}.jsonl or .parquet, or shards of one")


def _judged(folder: Root, language: str) -> dict[str, tuple[Root, ...]]:
    """Split -> its files."""
    found = {}
    for place in (f"{language}qrels", f"data/{language}qrels", *([language[:-1]] if language else ["data", "default"])):
        for split, files in _rows_in(folder, place, kinds=JUDGEMENTS if place.endswith("qrels") else ROWS).items():
            if split not in ("corpus", "queries"):
                found.setdefault(split, files)
    if not language:
        for name, files in _rows_in(folder, "", kinds=JUDGEMENTS).items():
            beside = re.fullmatch(r"qrels(?:[._-](.+))?", name)
            if beside:
                found.setdefault(beside[1] or _UNNAMED, files)
    return found


def _rows_in(folder: Root, place: str, *, kinds: Iterable[str] = ROWS, only: str | None = None) -> dict[str, tuple[Root, ...]]:
    """Name without suffix and shard number -> its files in a subfolder, of one kind: the first of `kinds`, uncompressed first.

    Raises:
        DataError: a shard is missing.
    """
    inside = folder / place if place else folder
    suffixes = [*kinds, *(kind + packed for packed in COMPRESSED for kind in kinds if kind != ".parquet")]
    found: dict[str, dict[str, list]] = {}
    for name in _names(inside):
        suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), None)
        if suffix is None or name.startswith("."):
            continue
        stem = name[: -len(suffix)]
        shard = _SHARD.fullmatch(stem)
        found.setdefault(shard[1] if shard else stem, {}).setdefault(suffix, []).append((name, shard))
    result = {}
    for stem, by_suffix in found.items():
        if only in (None, stem):
            files = by_suffix[min(by_suffix, key=suffixes.index)]
            plain = [name for name, shard in files if shard is None]
            for _, shard in () if plain else files[:1]:
                if len(files) != int(shard[3]):
                    raise DataError(
                        f"{inside}: {len(files)} of the {int(shard[3])} shards of {stem} are there; fetch all of them"
                    )
            result[stem] = tuple(inside / name for name in plain[:1] or sorted(name for name, _ in files))
    return result


def _checked(files: tuple[Root, ...]) -> tuple[Root, ...]:
    for file in files:
        if not is_file(file):
            raise DataError(f"{file}: no such file; must be a file, this is a folder or a link to nothing")
    return files


def _names(folder: Root) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _folders(folder: Root) -> list[str]:
    return [name for name in _names(folder) if os.path.isdir(folder / name)]


def _shown(folder: Root, most: int = 8) -> list[str]:
    names = [f"{name}/" if os.path.isdir(folder / name) else name for name in _names(folder) if not name.startswith(".")]
    return names[:most] + ["..."] * (len(names) > most)
