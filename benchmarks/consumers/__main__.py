"""Load an exported folder in each library that people use, and compare its vectors with ours.

python -m benchmarks.consumers MODEL --data KO_WIKI/eval KO_PREC/eval

Each library has an environment of its own with pinned versions, and runs the code that the model card shows for it. The table
goes into docs/serving.md.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np

from benchmarks.consumers.environments import ENVIRONMENTS, Consumer, consumers, environment
from e5ft.files import write_json, write_text
from e5ft.formatting import markdown_table
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.runs import dense_run
from e5ft.retrieval.sets import RetrievalSet, load_beir, subsample

COSINE = 0.9999  # at least, for a library to serve the model right
QUERIES, PASSAGES = 400, 1200  # of a set; its passages are encoded by us
SECONDS = 1800  # the most that one library may take
METRIC = "ndcg@10"
_SHORT = (
    "전입신고는 어디에서 하나요?",
    "서울의 수도",
    "훈민정음은 백성을 가르치는 바른 소리라는 뜻이다.",
    "계약 해지 시 위약금 규정 (제12조 제3항)",
    "multilingual-E5 embeds queries and passages with different prefixes.",
    "GPU 메모리 부족 오류 out of memory 해결 방법",
    "  앞뒤와   사이의\t빈칸  ",
)
_LONG = ("훈민정음은 백성을 가르치는 바른 소리라는 뜻이다. " * 60, "The quick brown fox jumps over the lazy dog. " * 120)
# Kind of text -> the texts, each asked as a query and as a passage.
PROBES = {
    "NFC": _SHORT,
    "over-long": _LONG,
    "NFD": tuple(unicodedata.normalize("NFD", text) for text in (*_SHORT[:4], _SHORT[5], _LONG[0])),
}

# Around a library's code, in the script that its environment runs: texts in, vectors and versions out.
_BEFORE = """
import json as _json, sys as _sys
from importlib.metadata import version as _version
_job = _json.load(open(_sys.argv[1], encoding="utf-8"))
queries, passages = _job["queries"], _job["passages"]


def in_batches(texts):  # of the code's own embed, which pads all it is given to the longest
    return [vector for start in range(0, len(texts), 16) for vector in embed(texts[start : start + 16])]


"""
_AFTER = """
_found = {name: [[float(x) for x in vector] for vector in globals()[name]] for name in ("query_vectors", "passage_vectors")}
_found["versions"] = {name: _version(name) for name in _job["packages"]}
_json.dump(_found, open(_sys.argv[2], "w", encoding="utf-8"))
"""


def compare(encoder: Encoder, consumer: Consumer, model: Path, root: Path, sets: list[tuple[RetrievalSet, np.ndarray]]) -> dict:
    """Run one library and hold its vectors against ours.

    Args:
        encoder: the folder as we read it.
        consumer: the library.
        model: the folder.
        root: of the environments.
        sets: each with our vectors of its passages; their queries are asked in NFC and in NFD.

    Returns:
        "versions"; "cosine", kind of probe -> the least over queries and passages; "scores", set -> METRIC of NFC and of NFD.
        Where it could not be run: "failed", why.
    """
    if consumer.needs and not (model / consumer.needs).is_file():
        return {"failed": f"not run: the folder has no {consumer.needs}"}
    probes = [text for texts in PROBES.values() for text in texts]
    asked = [*probes, *(form for retrieval_set, _ in sets for form in _forms(retrieval_set))]
    job = {"queries": asked, "passages": probes, "packages": consumer.shown}
    with tempfile.TemporaryDirectory() as folder:
        script, *files = (Path(folder) / name for name in ("consumer.py", "job.json", "result.json"))
        write_text(script, "\n".join((_BEFORE, consumer.code.replace("PATH", str(model)), _AFTER)))
        write_json(files[0], job)
        try:
            python = environment(consumer.environment, root)
            command = [str(python), "-I", *map(str, (script, *files))]
            offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            subprocess.run(command, check=True, env=offline, cwd=folder, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip().splitlines()
            return {"failed": f"failed: {said[-1].replace(str(root), '')[:200] if said else f'exit status {error.returncode}'}"}
        except subprocess.TimeoutExpired:
            return {"failed": f"failed: not done after {SECONDS} s"}
        result = json.loads(files[1].read_text(encoding="utf-8"))
    queries, passages = (np.array(result[f"{role}_vectors"], dtype=np.float32) for role in ("query", "passage"))
    return {
        "versions": result["versions"],
        "cosine": _cosines(encoder, queries[: len(probes)], passages),
        "scores": _scores(sets, queries[len(probes) :]),
    }


def _forms(retrieval_set: RetrievalSet) -> list[str]:
    texts = [unicodedata.normalize("NFC", text) for text in retrieval_set.queries]
    return texts + [unicodedata.normalize("NFD", text) for text in texts]


def _cosines(encoder: Encoder, queries: np.ndarray, passages: np.ndarray) -> dict[str, float]:
    """Kind of probe -> the least product with our unit vector: vectors that are not of length 1 are seen, too."""
    found, start = {}, 0
    for kind, texts in PROBES.items():
        part = slice(start, start + len(texts))
        pairs = ((queries[part], "query"), (passages[part], "passage"))
        closest = [1 - np.abs(1 - (theirs * encoder.encode(texts, role)).sum(1)) for theirs, role in pairs]
        found[kind], start = float(np.min(closest)), part.stop
    return found


def _scores(sets: list[tuple[RetrievalSet, np.ndarray]], queries: np.ndarray) -> dict[str, list[float]]:
    found, start = {}, 0
    for retrieval_set, passages in sets:
        forms, count = [], len(retrieval_set.queries)
        for _ in ("NFC", "NFD"):
            run = dense_run(queries[start : start + count], passages, retrieval_set, 10)
            forms.append(evaluate_run(retrieval_set, run, (10,), "", samples=1).metrics[METRIC])
            start += count
        found[retrieval_set.name] = forms
    return found


def served_right(result: dict) -> bool:
    """Whether every kind of probe has our vector."""
    return "failed" not in result and min(result["cosine"].values()) >= COSINE


def table(results: list[tuple[Consumer, dict]], sets: list[str]) -> str:
    """The results in Markdown, and below them when and where."""
    rows = [["library", "versions", *PROBES, *(f"{name} {METRIC}, NFC / NFD" for name in sets), "served right"]]
    for consumer, result in results:
        if "failed" in result:
            rows.append(
                [consumer.name, " ".join(ENVIRONMENTS[consumer.environment]), *[""] * (len(PROBES) + len(sets)), result["failed"]]
            )
            continue
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        scores = [" / ".join(f"{value:.3f}" for value in result["scores"][name]) for name in sets]
        rows.append(
            [
                consumer.name,
                versions,
                *(f"{c:.5f}" for c in result["cosine"].values()),
                *scores,
                "yes" if served_right(result) else "no",
            ]
        )
    return f"{markdown_table(rows, text_columns=2)}\n\n{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}."


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 where every library that ran has our vectors, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consumers", description="An exported folder in other libraries.")
    parser.add_argument("model", type=Path, help="the folder that export.py wrote")
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="DIR", help="BEIR folders: queries in NFC and NFD")
    parser.add_argument("--only", nargs="+", choices=list(ENVIRONMENTS), metavar="NAME", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--environments", type=Path, default=Path(".venv-consumers"), metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("outputs/consumers"), metavar="DIR")
    given = parser.parse_args(arguments)
    model, root = given.model.resolve(), given.environments.resolve()
    encoder = load_encoder(ModelSource(path=str(model)))
    sets = [subsample(load_beir(folder, "test", name=_name(folder)), QUERIES, PASSAGES) for folder in given.data]
    sets = [(each, encoder.encode(list(each.passages), "passage")) for each in sets]
    results = []
    for consumer in consumers(encoder):
        if given.only is None or consumer.environment in given.only:
            results.append((consumer, compare(encoder, consumer, model, root, sets)))
            print(consumer.name, consumer.environment, json.dumps(results[-1][1]), file=sys.stderr, flush=True)
    found = table(results, [each.name for each, _ in sets])
    write_text(given.output / "consumers.md", found + "\n")
    print(found)
    return int(any(not served_right(result) and not result.get("failed", "").startswith("not run") for _, result in results))


def _name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == "eval" else folder.name


if __name__ == "__main__":
    sys.exit(main())
