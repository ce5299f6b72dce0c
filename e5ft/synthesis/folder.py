"""The folder that holds rows and an evaluation set: train.jsonl, dev.jsonl, eval/ in BEIR's layout, and a record beside them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from e5ft.data.rows import Row, row_lines
from e5ft.errors import ConfigurationError
from e5ft.files import new_folder, read_json, write_json, write_lines

Judgements = Iterable[tuple[str, str, int]]  # query id, passage id, relevance


def check_output(folder: Path, record: str, settings: Mapping | None = None) -> Path:
    """Refuse a folder that holds anything that was not written here, or with other settings: it would be replaced.

    Args:
        folder: to write.
        record: the name of the file that only such a folder has.
        settings: must be those of the record, if there is one; None: whichever.

    Returns:
        The folder.

    Raises:
        ConfigurationError: there is something else, or a file, or a link, or it was made with other settings.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigurationError(f"output_dir={folder}: must be a folder; this is a file or a link")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / record).is_file():
        raise ConfigurationError(f"output_dir={folder}: holds other files ({record} is not among them); name another folder")
    if settings is not None and (folder / record).is_file():
        then = read_json(folder / record).get("settings")
        if then != json.loads(json.dumps(settings)):
            raise ConfigurationError(f"{folder}: holds what other settings made; choose another name=, or remove it")
    return folder


def write_folder(
    folder: Path,
    rows: Mapping[str, Iterable[Row]],
    corpus: Iterable[dict],
    queries: Iterable[tuple[str, str]],
    qrels: Mapping[str, Judgements],
    record: tuple[str, dict],
) -> None:
    """Write a folder, whole or not at all; what was there goes.

    Args:
        folder: to write.
        rows: name of a file of rows, without suffix -> its rows.
        corpus: {"_id", "text", ...} of the evaluation set.
        queries: id and text of its queries.
        qrels: split -> judgements; without any no evaluation set is written.
        record: name and content of the record.
    """
    with new_folder(folder) as new:
        for name, part in rows.items():
            write_lines(new / f"{name}.jsonl", row_lines(part))
        if qrels:
            write_lines(new / "eval/corpus.jsonl", (json.dumps(each, ensure_ascii=False) for each in corpus))
            lines = (json.dumps({"_id": name, "text": text}, ensure_ascii=False) for name, text in queries)
            write_lines(new / "eval/queries.jsonl", lines)
        for split, judged in qrels.items():
            lines = (f"{query}\t{passage}\t{relevance}" for query, passage, relevance in judged)
            write_lines(new / f"eval/qrels/{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
        write_json(new / record[0], record[1])
