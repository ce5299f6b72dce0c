"""What a folder costs to serve and what it finds: its weights and the graphs beside them, each in a process of its own.

python -m benchmarks.serving FOLDER [FOLDER ...] --sets SET [SET ...] [--passages 2000] [--threads 1] [--output FILE.json]

SET: a folder in BEIR layout with qrels/test.tsv; corpora are cut to --passages, judged ones and BM25's finds first.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bench.texts import ROOT
from e5ft.files import write_json
from e5ft.retrieval.tables import aligned

_METRIC = "ndcg@10"
_WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one file of one folder.

    Attributes:
        folder, file: which; "weights" are model.safetensors, run by torch.
        disk: MB of the file and of the tokenizer, which every server needs.
        memory: MB that loading it and embedding a text add to a process that has imported everything.
        load: seconds until a text can be embedded.
        thousand: seconds for a thousand passages, over all sets.
        found: set -> nDCG@10.
    """

    folder: str
    file: str
    disk: float
    memory: float
    load: float
    thousand: float
    found: dict[str, float]


def files_of(folder: Path) -> dict[str, Path]:
    """What can be run of a folder, by the names of the formats."""
    from e5ft.exporting.settings import FILES

    graphs = {name: folder / file for name, file in FILES.items() if (folder / file).is_file()}
    return {_WEIGHTS: folder / "model.safetensors", **graphs}


def measure(folder: Path, name: str, sets: list[Path], passages: int, threads: int) -> Row:
    """Load one file and rank every set with it."""
    import numpy as np
    import torch

    from e5ft.exporting.onnx import Graph, weigh
    from e5ft.modeling.encoder import Encoder
    from e5ft.modeling.loading import ModelSource, load_description, load_encoder
    from e5ft.retrieval.evaluation import evaluate_run
    from e5ft.retrieval.runs import dense_run
    from e5ft.retrieval.sets import load_beir, shrink_corpus

    torch.set_num_threads(threads)
    loaded = [shrink_corpus(load_beir(path, "test", name=str(path)), passages) for path in sets]
    source, file = ModelSource(path=str(folder)), files_of(folder)[name]
    if name != _WEIGHTS:
        __import__("openvino" if name == "openvino" else "onnxruntime")
    before, start = _resident(), time.perf_counter()
    if name == _WEIGHTS:
        encoder = load_encoder(source)
    else:
        config, spec, tokenizer = load_description(source)
        encoder = Encoder(Graph(config, file), tokenizer, spec, padded=True).eval()
    encoder.encode(["서울의 수도"], "query")
    load, memory = time.perf_counter() - start, _resident() - before
    seconds, found = 0.0, {}
    for each in loaded:
        start = time.perf_counter()
        vectors = encoder.encode(each.passages, "passage")
        seconds += time.perf_counter() - start
        run = dense_run(encoder.encode(each.queries, "query"), np.asarray(vectors), each, 10)
        found[each.name] = evaluate_run(each, run, [10], name, samples=50).metrics[_METRIC]
    count = sum(len(each.passages) for each in loaded)
    disk = (weigh(file) + (folder / "tokenizer.json").stat().st_size) / 1e6
    return Row(str(folder), name, disk, memory, load, 1000 * seconds / count, found)


def table(rows: list[Row]) -> str:
    """The rows in text."""
    names = list(rows[0].found)
    cells = [
        ["folder", "file", "MB on disk", "MB in memory", "s to load", "s for 1,000 passages", *(f"{n} nDCG@10" for n in names)]
    ]
    for row in rows:
        figures = [f"{row.disk:,.0f}", f"{row.memory:,.0f}", f"{row.load:.1f}", f"{row.thousand:.1f}"]
        cells.append([row.folder, row.file, *figures, *(f"{row.found[name]:.3f}" for name in names)])
    return aligned(cells, text_columns=2)


def _resident() -> float:
    """MB that this process holds in memory now (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def main(arguments: list[str] | None = None) -> None:
    """Measure every file of every folder, or, as a process of its own, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--sets", nargs="+", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.file:
        row = measure(given.folders[0], given.file, given.sets, given.passages, given.threads)
        print(json.dumps(dataclasses.asdict(row)))
        return
    rows = []
    for folder in given.folders:
        for name in files_of(folder):
            command = [sys.executable, "-m", "benchmarks.serving", str(folder.absolute()), "--file", name, "--sets"]
            command += [*(str(path.absolute()) for path in given.sets), "--passages", str(given.passages)]
            command += ["--threads", str(given.threads)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            values = json.loads(done.stdout.splitlines()[-1])
            sets = {str(path): value for path, value in zip(given.sets, values["found"].values(), strict=True)}
            rows.append(Row(**{**values, "folder": str(folder), "found": sets}))
            print(f"{folder} {name}: {rows[-1].thousand:.1f} s for 1,000 passages", flush=True)
    print("\n" + table(rows))
    if given.output is not None:
        write_json(given.output, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    main()
