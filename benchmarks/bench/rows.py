"""Rows read, checked, tokenised, and found again: rates, memory, and the time to the first micro-batch."""

import os
import time
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.bench.texts import TOKENIZER, write_rows
from e5ft.data.collator import TrainingRows, collate
from e5ft.data.sampler import StepSampler
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.data.text import TextSpec


def generate(folder: Path, *, count: int, data: str, target: str) -> dict:
    """Write the rows; in a process of its own, so that no measured one holds them."""
    path = Path(target) / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, AutoTokenizer.from_pretrained(TOKENIZER), count, data)
    return {"megabytes": path.stat().st_size / 2**20}


def start(folder: Path, *, target: str) -> dict:
    """From the file to the first micro-batch, with whatever the cache beside the file holds.

    Returns:
        Wall and CPU seconds of validation, of tokenisation and of all up to the first micro-batch of 16 rows; "own_mb", the
        largest memory after these that is no page of a mapped file, which the kernel takes back when it is needed.
    """
    path, cache = Path(target) / "rows.jsonl", Path(target) / "cache"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # as in train.py; compared encoders leave it off, on both sides
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    marks = [(time.perf_counter(), time.process_time(), _own_mb())]
    store = load_rows(str(path), Columns(), cache)
    marks.append((time.perf_counter(), time.process_time(), _own_mb()))
    tokens = tokenize_rows(store, tokenizer, TextSpec(), cache)
    marks.append((time.perf_counter(), time.process_time(), _own_mb()))
    rows = TrainingRows(store, tokens, 1)
    collate([rows[request] for request in next(iter(StepSampler(len(rows), 16)))])
    marks.append((time.perf_counter(), time.process_time(), _own_mb()))
    names = ("validate", "tokenise", "first")
    wall = {name: later[0] - earlier[0] for name, earlier, later in zip(names, marks, marks[1:], strict=False)}
    cpu = {name: later[1] - earlier[1] for name, earlier, later in zip(names, marks, marks[1:], strict=False)}
    own = max(mark[2] for mark in marks)
    return {"wall": {**wall, "all": marks[-1][0] - marks[0][0]}, "cpu": cpu, "tokens": tokens.total_tokens, "own_mb": own}


def _own_mb() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values["RssAnon"].split()[0]) / 1024
