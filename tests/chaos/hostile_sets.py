"""Hostile evaluation folders in the BEIR layout, and what must hold of each."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from e5ft.data.text import normalise
from e5ft.errors import DataError
from e5ft.retrieval.evaluation import Judgements
from e5ft.retrieval.runs import bm25_run
from e5ft.retrieval.sets import load_beir, shrink_corpus
from tests.chaos import row_files
from tests.chaos.commands import check_command
from tests.chaos.report import Report

_IDS = ("d0", "d1", "d1", "q0", "", " ", "a b", "a\tb", "\ud800", "\x00", "가", "d" * 5000, "NaN", "-1", 5, None, ["d0"], 1.5)
_TEXTS = ("a document", "문서", "", "  ", None, 5, ["x"], {"a": 1}, "\x00", "\ud800", "x" * 200_000, "\u0315\u0300" * 20_000)
_GRADES = ("1", "0", "-1", "2", "1", "999999999", "-999999999", "1000000000000", "1e3", "0.5", "NaN", "", "relevant", "１", "+1")
_SPOILT = ("missing", "folder", "pipe", "loop", "empty", "one line", "gzip's head", *["damage"] * 7)


def make_set(folder: Path, generator: random.Random) -> None:
    """An evaluation folder in the BEIR layout with up to a handful of faults."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "qrels").mkdir(parents=True)
    choose, counts = generator.choice, [0, 0, 1, 2] if generator.random() < 0.7 else [0]
    count = choose([1, 3, 10]) if generator.random() < 0.95 else 0
    corpus = [{"_id": f"d{i}", "title": choose(["", "t"]), "text": f"document {i} 문서"} for i in range(count)]
    queries = [{"_id": f"q{i}", "text": f"query {i} 질의"} for i in range(choose([1, 2, 5]))]
    judged = [(query["_id"], choose(corpus)["_id"], "1") for query in queries] if corpus else []
    for rows in (corpus, queries):
        for _ in range(choose(counts)):
            rows.insert(generator.randint(0, len(rows)), _spoilt(rows, choose))
    for _ in range(choose(counts)):
        line = (choose([*_IDS, "q0"]), choose([*_IDS, "d0"]), choose(_GRADES))
        judged.insert(generator.randint(0, len(judged)), choose([line, line, line[:2], (*line, "x"), ("query-id",)]))
    if generator.random() < 0.3:
        judged.insert(0, ("query-id", "corpus-id", choose(["score", "rel", "grade"])))
    files = {
        "corpus.jsonl": "".join(json.dumps(row) + "\n" for row in corpus),
        "queries.jsonl": "".join(json.dumps(row) + "\n" for row in queries),
        "qrels/test.tsv": "".join("\t".join(map(str, line)) + "\n" for line in judged),
    }
    for name, text in files.items():
        _write(folder / name, text.encode("utf-8", "surrogatepass"), generator)


def _spoilt(rows: list, choose: Callable) -> object:
    row = next((row for row in rows if isinstance(row, dict)), {})
    dropped = choose([*row, ""])
    return choose(
        [
            *({**row, "_id": choose(_IDS)}, {**row, "text": choose(_TEXTS)}, {**row, "title": choose(_TEXTS)}, row),
            *({name: value for name, value in row.items() if name != dropped}, {**row, "metadata": {"url": "x"}}),
            choose([[], 5, "x", None]),
        ]
    )


def _write(path: Path, content: bytes, generator: random.Random) -> None:
    kind = generator.choice(_SPOILT) if generator.random() < 0.12 else ""
    contents = {
        "empty": b"",
        "one line": content.replace(b"\n", b" ") * (1 + 2_000_000 // (len(content) + 1)),
        "gzip's head": b"\x1f\x8b\x08\x00" + content,
        "damage": row_files.damage(generator, content),
    }
    others = {
        "missing": lambda: None,
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "loop": lambda: path.symlink_to(path.name),
    }
    others.get(kind, lambda: path.write_bytes(contents.get(kind, content)))()


def check_set(folder: Path, generator: random.Random, report: Report) -> None:
    """Load a folder, cut its corpus, rank it with BM25 deeper than it is, and score it."""
    make_set(folder, generator)

    def check() -> str:
        try:
            retrieval_set = load_beir(folder, "test")
            shrink_corpus(retrieval_set, generator.choice([1, 2, 10**9]), depth=generator.choice([1, 1000]))
            depth = generator.choice([1, 10, 10_000])
            values = Judgements(retrieval_set, [1, depth]).values(bm25_run(retrieval_set, depth))
        except DataError as error:
            assert str(error).startswith(str(folder)), f"no place in: {error}"
            return "refused"
        assert ((values >= 0) & (values <= 1)).all(), values
        assert all(text == normalise(text) or text.strip() for text in retrieval_set.passages)
        return "accepted"

    report.check("evaluation sets", check, folder.name, _files(folder))


def run_sets(count: int, number: int, report: Report, world: Path) -> None:
    """Hostile evaluation folders, and some of them through eval.py."""
    folder = world / "hostile-set"
    for case in range(count):
        check_set(folder, random.Random(f"{number} set {case}"), report)
    for case in range(count // 40):
        make_set(folder, random.Random(f"{number} set {case}"))
        overrides = ["data.eval_dir=hostile-set", "evaluation.cutoffs=[1,10000]", "output_dir=measured"]
        check_command("eval", overrides, world, report, "sets through eval.py", _files(folder))


def _files(folder: Path) -> list[Path]:
    """What to keep of an offender; a pipe cannot be copied."""
    return [] if any(path.is_fifo() for path in folder.rglob("*")) else [folder]
