"""One set of rows in the dialects in which the field's programs write it: read back they are equal, or the file is refused."""

import csv
import gzip
import importlib.util
import io
import json
import random
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa

from e5ft.data.lines import BadLine
from e5ft.data.rows import read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.errors import DataError
from tests.chaos.report import Report

_WORDS = [
    "배송",
    "환불",
    "규정",
    "신청,",
    "방법;",
    "문의",
    "회의실",
    "a|b",
    "탭\t줄\n둘",
    '"인용"',
    "'it''s'",
    "[1]",
    "{x}",
    "0",
    "12",
    "1.5",
    "true",
    "--",
    "#",
    "\\n",
    "\\",
    "/",
    "'",
    "",
]
_UNUSUAL = ["—", "日本語", "😀", "café", "İ", "\u200b", "\u2028", "가\u0301"]
COLUMNS = ("query", "document", "hard_negative")


def make_rows(generator: random.Random, plain: bool, lists: bool) -> list[dict]:
    """Rows with what separates, quotes and ends cells in their texts.

    Args:
        generator: of the choice.
        plain: only characters that cp949 has.
        lists: whether documents and hard negatives may be lists.
    """
    words, number = _WORDS if plain else _WORDS + _UNUSUAL, count()

    def text() -> str:
        return f"글 {next(number)} " + " ".join(generator.choices(words, k=generator.randint(1, 8)))

    rows = []
    for _ in range(generator.randint(1, 12)):
        document, negative = text(), generator.choice([None, text()])
        if lists:
            document, negative = [document, text()], generator.choice([[], [text()], [text(), text()]])
        rows.append({"query": text(), "document": document, "hard_negative": negative})
    return rows


def _pandas_csv(rows: list[dict], generator: random.Random, path: Path) -> dict:
    encoding = generator.choice(["utf-8", "utf-8-sig", "utf-16", "cp949"])
    suffix, separator = generator.choice(
        [(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t"), (".tsv", ","), (".csv", "|")]
    )
    quoting = generator.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    end, compression = generator.choice(["\n", "\r\n"]), generator.choice(["", "", ".gz", ".bz2", ".xz"])
    compression = "" if encoding == "utf-16" else compression  # pandas writes no byte order mark into an archive
    word = generator.choice(["NULL", "nan", "<NA>", "None", "\\N"]) if generator.random() < 0.2 else ""  # never read as a text
    layout = dict(sep=separator, quoting=quoting, index=generator.random() < 0.4, lineterminator=end, na_rep=word)
    pd.DataFrame(rows).to_csv(f"{path}{suffix}{compression}", encoding=encoding, errors="strict", **layout)
    return {"encoding": "cp949"} if encoding == "cp949" else {}


def _excel_csv(rows: list[dict], generator: random.Random, path: Path) -> dict:
    """As Excel saves a sheet: CRLF, blank rows and columns within its used range, perhaps `sep=;`."""
    separator, width = generator.choice(",;\t"), 3 + generator.randint(0, 2)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\r\n")
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]:
        writer.writerow([*(row[name] or "" for name in COLUMNS), *[""] * (width - 3)])
        for _ in range(generator.choice([0, 0, 1])):
            text.write(separator * (width - 1) + "\r\n")
    declared = f"sep={separator}\r\n" if generator.random() < 0.3 else ""
    Path(f"{path}.csv").write_bytes((declared + text.getvalue()).encode(generator.choice(["utf-8-sig", "utf-16", "cp949"])))
    return {"encoding": "cp949"}  # which a byte order mark overrules


def _pandas_json(rows: list[dict], generator: random.Random, path: Path) -> dict:
    orient, frame = generator.choice(["records", "lines", "index", "columns", "split", "table", "values"]), pd.DataFrame(rows)
    shape = dict(orient="records", lines=True) if orient == "lines" else dict(orient=orient, indent=generator.choice([0, 2]))
    frame.to_json(f"{path}.json{generator.choice(['', '.gz', '.xz'])}", force_ascii=generator.random() < 0.5, **shape)
    return {}


def _json(rows: list[dict], generator: random.Random, path: Path) -> dict:
    """As json.dump, jq (`.`, `-c .[]`, `.[]`), DuckDB (a row a line, and ARRAY) and annotation tools write it."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    text = {
        "dump": json.dumps(rows),
        "jq": json.dumps(rows, ensure_ascii=False, indent=2) + "\n",
        "jq lines": "".join(f"{line}\n" for line in lines),
        "jq objects": "".join(json.dumps(row, ensure_ascii=False, indent=2) + "\n" for row in rows),
        "DuckDB array": "[\n\t" + ",\n\t".join(lines) + "\n]\n",
        "one key": json.dumps({"version": 1, "data": rows}, indent=generator.choice([None, 4])),
        "null left out": "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\r\n" for row in rows),
    }[generator.choice(["dump", "jq", "jq lines", "jq objects", "DuckDB array", "one key", "null left out"])]
    content = text.encode(generator.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    suffix = generator.choice([".json", ".jsonl", ".ndjson"])
    compression = generator.choice(["", ".gz", ".zst"])
    content = gzip.compress(content) if compression == ".gz" else content
    content = pa.Codec("zstd").compress(content, asbytes=True) if compression == ".zst" else content
    Path(f"{path}{suffix}{compression}").write_bytes(content)
    return {}


def _polars_csv(rows: list[dict], generator: random.Random, path: Path) -> dict:
    """As polars writes it: quotes where needed, and around an empty text but not for null."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *([row[name] or "" for name in COLUMNS] for row in rows)])
    Path(f"{path}.csv").write_bytes((b"\xef\xbb\xbf" if generator.random() < 0.3 else b"") + text.getvalue().encode())
    return {}


def _parquet(rows: list[dict], generator: random.Random, path: Path) -> dict:
    frame = pd.DataFrame(rows)
    if generator.random() < 0.3:
        frame.index = [f"row {number}" for number in range(len(frame))]
    frame.to_parquet(f"{path}.parquet", compression=generator.choice(["snappy", "zstd", None]))
    return {}


def _datasets(rows: list[dict], generator: random.Random, path: Path) -> dict:
    made, kind = datasets.Dataset.from_list(rows), generator.choice(["csv", "json", "parquet", "disk", "splits", "shards"])
    if kind == "disk":
        made.save_to_disk(path, num_shards=min(len(rows), generator.randint(1, 3)))
    elif kind == "splits":
        datasets.DatasetDict({"test": made.select([0]), "train": made}).save_to_disk(path)
    elif kind == "shards":  # a hub's repository on disk
        shards = min(len(rows), 2)
        for number in range(shards):
            part = made.shard(shards, number, contiguous=True)
            part.to_parquet(path / "data" / f"train-{number:05d}-of-{shards:05d}.parquet")
        made.select([0]).to_parquet(path / "data" / "test-00000-of-00001.parquet")
        (path / "README.md").write_text("---\nlicense: mit\n---\n")
    elif kind == "json":
        made.to_json(f"{path}.jsonl")
    else:
        getattr(made, f"to_{kind}")(f"{path}.{kind}")
    return {}


def _excel(rows: list[dict], generator: random.Random, path: Path) -> dict:
    pd.DataFrame(rows).to_excel(f"{path}.xlsx", index=generator.random() < 0.4, startrow=generator.choice([0, 2]))
    return {}


DIALECTS: dict[str, tuple[Callable, bool, bool]] = {  # what writes, whether characters are plain, whether lists may occur
    "pandas to_csv": (_pandas_csv, True, False),
    "Excel's CSV": (_excel_csv, True, False),
    "pandas to_json": (_pandas_json, False, True),
    "JSON": (_json, False, True),
    "polars write_csv": (_polars_csv, False, False),
    "Parquet": (_parquet, False, True),
    "datasets": (_datasets, False, False),
}
if importlib.util.find_spec("openpyxl") is not None:
    DIALECTS["Excel"] = (_excel, True, False)


def expected(row: dict) -> tuple:
    """A row as it must come back."""
    documents, negatives = ([] if row[name] is None else row[name] for name in COLUMNS[1:])
    return (
        row["query"],
        *(tuple([value] if isinstance(value, str) else value) for value in (documents, negatives)),
    )


def check(name: str, number: str, folder: Path) -> str:
    """Write rows in a dialect and read them back.

    Args:
        name: of DIALECTS.
        number: the seed.
        folder: empty.

    Returns:
        "accepted" or "refused".

    Raises:
        AssertionError: other rows came back.
    """
    generator = random.Random(f"{name} {number}")
    write, plain, lists = DIALECTS[name]
    rows = make_rows(generator, plain, lists and generator.random() < 0.5)
    folder.mkdir()
    reading = Reading(**write(rows, generator, folder / "rows"))
    [path] = folder.iterdir()
    try:
        read = [value for _, value in read_rows(str(path), Columns(), reading)]
    except DataError:
        return "refused"
    if any(isinstance(value, BadLine) for value in read):
        return "refused"
    assert [(row.query, row.positives, row.negatives) for row in read] == list(map(expected, rows)), path.name
    return "accepted"


def run(files: int, seed: int, report: Report) -> None:
    """Try so many files, each dialect in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        for case in range(files):
            name, folder = list(DIALECTS)[case % len(DIALECTS)], Path(scratch, str(case))
            report.check(
                f"dialect {name}",
                lambda name=name, folder=folder, case=case: check(name, f"{seed} {case}", folder),
                f"{seed} {case}",
                [],
            )
