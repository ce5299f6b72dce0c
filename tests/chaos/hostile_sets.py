"""Hostile evaluation folders in the BEIR layout, and what must hold of each."""

import json
import os
import random
import shutil
import traceback
from pathlib import Path

from e5ft.data.text import normalise
from e5ft.errors import DataError
from e5ft.retrieval.evaluation import Judgements
from e5ft.retrieval.runs import bm25_run
from e5ft.retrieval.sets import load_beir, shrink_corpus
from tests.chaos.children import run_script
from tests.chaos.commands import check_ending, tiny
from tests.chaos.report import Report
from tests.chaos.row_checks import Hang, deadline

_IDS = ("d0", "d1", "d1", "q0", "", " ", "a b", "a\tb", "\ud800", "\x00", "가", "d" * 5000, "NaN", "-1", 5, None, ["d0"], 1.5)
_TEXTS = ("a document", "문서", "", "  ", None, 5, ["x"], {"a": 1}, "\x00", "\ud800", "x" * 200_000, "\u0315\u0300" * 20_000)
_GRADES = ("1", "0", "-1", "2", "1", "999999999", "-999999999", "1000000000000", "1e3", "0.5", "NaN", "", "relevant", "１", "+1")
_DAMAGE = (
    "",
    "empty",
    "missing",
    "folder",
    "bom",
    "utf-16",
    "cp949",
    "cut",
    "flip",
    "crlf",
    "one_line",
    "gzip_bytes",
    "pipe",
    "loop",
)


def make_set(folder: Path, generator: random.Random) -> None:
    """An evaluation folder in the BEIR layout with up to a handful of faults."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "qrels").mkdir(parents=True)
    hostile = generator.random() < 0.7
    count = generator.choice([1, 3, 10]) if generator.random() < 0.95 else 0
    corpus = [{"_id": f"d{i}", "title": generator.choice(["", "t"]), "text": f"document {i} 문서"} for i in range(count)]
    queries = [{"_id": f"q{i}", "text": f"query {i} 질의"} for i in range(generator.choice([1, 2, 5]))]
    judged = [(q["_id"], generator.choice(corpus)["_id"], "1") for q in queries] if corpus else []
    if hostile:
        for rows in (corpus, queries):
            for _ in range(generator.choice([0, 0, 1, 2])):
                _spoil(rows, generator)
        for _ in range(generator.choice([0, 0, 1, 2])):
            line = (generator.choice([*_IDS, "q0"]), generator.choice([*_IDS, "d0"]), generator.choice(_GRADES))
            judged.insert(
                generator.randint(0, len(judged)), generator.choice([line, line, line[:2], (*line, "x"), ("query-id",)])
            )
    if generator.random() < 0.3:
        judged.insert(0, ("query-id", "corpus-id", generator.choice(["score", "rel", "grade"])))
    files = {
        "corpus.jsonl": "".join(json.dumps(row) + "\n" for row in corpus),
        "queries.jsonl": "".join(json.dumps(row) + "\n" for row in queries),
        "qrels/test.tsv": "".join("\t".join(map(str, line)) + "\n" for line in judged),
    }
    for name, text in files.items():
        _write(folder / name, text.encode("utf-8", "surrogatepass"), generator)


def _spoil(rows: list, generator: random.Random) -> None:
    row = dict(next((row for row in rows if isinstance(row, dict)), {}))
    kind = generator.choice(["id", "text", "title", "drop", "add", "double", "other"])
    if kind in ("id", "text", "title"):
        row["_id" if kind == "id" else kind] = generator.choice(_IDS if kind == "id" else _TEXTS)
    elif kind == "drop" and row:
        del row[generator.choice(list(row))]
    elif kind == "add":
        row["metadata"] = {"url": "x"}
    rows.insert(generator.randint(0, len(rows)), generator.choice([[], 5, "x", None]) if kind == "other" else row)


def _write(path: Path, content: bytes, generator: random.Random) -> None:
    kind = generator.choice(_DAMAGE) if generator.random() < 0.12 else ""
    if kind == "missing":
        return
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.write_bytes(_changed(content, kind, generator))


def _changed(content: bytes, kind: str, generator: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    if kind == "flip" and content:
        position = generator.randrange(len(content))
        return content[:position] + bytes([content[position] ^ (1 << generator.randrange(8))]) + content[position + 1 :]
    return {
        "empty": b"",
        "bom": b"\xef\xbb\xbf" + content,
        "utf-16": text.encode("utf-16"),
        "cp949": text.encode("cp949", "replace"),
        "cut": content[: generator.randint(0, len(content))],
        "crlf": content.replace(b"\n", b"\r\n"),
        "one_line": content.replace(b"\n", b" ") * (1 + 2_000_000 // (len(content) + 1)),
        "gzip_bytes": b"\x1f\x8b\x08\x00" + content,
    }.get(kind, content)


def check_set(folder: Path, generator: random.Random, report: Report) -> None:
    """Load a folder, cut its corpus, rank it with BM25 deeper than it is, and score it."""
    kind = "evaluation sets"
    counts = report.kind(kind)
    counts.tried += 1
    make_set(folder, generator)
    try:
        with deadline():
            found = load_beir(folder, "test")
            shrink_corpus(found, generator.choice([1, 2, 10**9]), depth=generator.choice([1, 1000]))
            depth = generator.choice([1, 10, 10_000])
            values = Judgements(found, [1, depth]).values(bm25_run(found, depth))
            assert ((values >= 0) & (values <= 1)).all(), values
            assert all(text == normalise(text) or text.strip() for text in found.passages)
    except DataError as error:
        counts.refused += 1
        if not str(error).startswith(str(folder)):
            counts.tracebacks += 1
            report.keep(kind, f"no place in: {error}", "", [])
    except Hang as error:
        counts.hangs += 1
        report.keep(kind, "hang", str(error), [])
    except Exception as error:
        counts.tracebacks += 1
        report.keep(kind, f"traceback: {type(error).__name__}: {error}", traceback.format_exc(), [folder])
    else:
        counts.accepted += 1


def run_sets(count: int, number: int, report: Report, world: Path) -> None:
    """Hostile evaluation folders, and some of them through eval.py."""
    folder = world / "hostile-set"
    for case in range(count):
        check_set(folder, random.Random(f"{number} set {case}"), report)
    for case in range(count // 40):
        make_set(folder, random.Random(f"{number} set {case}"))
        arguments = [*tiny("eval"), "data.eval_dir=hostile-set", "evaluation.cutoffs=[1,10000]", "output_dir=measured"]
        ending = run_script("eval.py", arguments, world)
        files = [folder] if not any(path.is_fifo() for path in folder.rglob("*")) else []
        check_ending("sets through eval.py", ending, f"set {number} {case}", report, files)
