"""What tests/test_concurrent_runs.py runs: processes that want the same rows, tokens and vectors from an empty cache at once.

    python -m tests.cold_cache ROWS_FILE FOLDER COUNT

Process n leaves what it got in FOLDER/found-n.json; every write into the cache is a line of FOLDER/writes.
"""

import multiprocessing
import os
import sys
from pathlib import Path

from e5ft.data import store
from e5ft.data.settings import Columns
from e5ft.files import digest_of, write_json
from e5ft.retrieval import vectors
from tests.conftest import make_encoder


def noting(function, what: str, path: Path):
    """The function, with a line at the end of a file at each call."""

    def call(*args, **kwargs):
        with open(path, "a") as file:
            file.write(f"{what} {os.getpid()}\n")
        return function(*args, **kwargs)

    return call


def work(number: int, barrier, rows_file: str, folder: Path) -> None:
    """Wait for the others, then load, tokenise and encode."""
    encoder = make_encoder()
    barrier.wait()
    rows = store.load_rows(rows_file, Columns(), folder / "cache")
    tokens = store.tokenize_rows(rows, encoder.tokenizer, encoder.spec.text, folder / "cache")
    texts = [row.query for row in rows]
    encoded = vectors.encode_collection(encoder, texts, "query", cache=folder / "cache", window=32)
    found = {"rows": rows.rows[:], "tokens": tokens.tokens[:], "lengths": tokens.lengths.tolist()}
    write_json(folder / f"found-{number}.json", {"digest": digest_of(found), "vectors": encoded.tobytes().hex()})


def main(rows_file: str, folder: Path, count: int) -> None:
    """Fork, so that one import serves all."""
    store._write_arrow = noting(store._write_arrow, "arrow", folder / "writes")
    vectors.write_json = noting(vectors.write_json, "vectors", folder / "writes")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    processes = [context.Process(target=work, args=(n, barrier, rows_file, folder)) for n in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    sys.exit(any(process.exitcode != 0 for process in processes))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
