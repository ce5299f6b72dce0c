"""Which negatives, which mask: fine-tune one base on one domain by every recipe and seed, and see gain and loss together.

python -m benchmarks.negatives --base MODEL --target KO_PREC --keep KO_WIKI --output DIR

TARGET and KEEP are folders with train.jsonl and eval/ (BEIR's layout). BASE knows KEEP. A teacher (BASE trained on other rows
of TARGET, and more of them, with in-batch negatives only) mines and guides: the place that a stronger public model has in
practice. It must not have seen the rows: it would score their documents so high that no filter had anything to do.
Everything is kept under DIR and skipped when it is there, so that an interrupted study goes on where it stopped. The table
(Markdown and JSON) pairs every recipe with "none" and with "naive" over queries and seeds.
"""

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from e5ft.files import write_json, write_text
from e5ft.retrieval.sets import RetrievalSet, load_beir, shrink_corpus

PROJECT = Path(__file__).resolve().parents[1]
METRIC = "ndcg@10"
SAMPLES = 5000
# mine.py's settings; every list comes from the teacher, but for the random one.
MINED = {
    "random": ["sources=[random]", "filters.percent=null", "filters.near_duplicate=null"],
    "naive": ["window=[1,50]", "filters.percent=null", "filters.near_duplicate=null"],
    "windowed": ["window=[10,50]", "filters.percent=null", "filters.near_duplicate=null"],
    "positive_aware": ["window=[1,50]", "filters.percent=0.95", "filters.near_duplicate.threshold=0.5"],
}
GUIDE = "loss.guide={teacher}"
STEP = ["loss=distill", "loss.teacher=guide", "loss.candidates=step", "loss.weight=0.2"]
# recipe -> (mined list, settings of train.py)
RECIPES = {
    "none": (None, []),
    "random": ("random", []),
    "naive": ("naive", []),
    "windowed": ("windowed", []),
    "positive-aware": ("positive_aware", []),
    "positive-aware + margin mask": ("positive_aware", ["loss.false_negatives=margin"]),
    "positive-aware + guide mask": ("positive_aware", ["loss.false_negatives=guide", GUIDE]),
    "positive-aware + distillation": ("positive_aware", ["loss=distill", "loss.teacher=guide", "loss.weight=1.0", GUIDE]),
    "positive-aware + distillation, step": ("positive_aware", [*STEP, GUIDE]),
    "none + distillation, step": (None, [*STEP, GUIDE]),
    "none + guide mask": (None, ["loss.false_negatives=guide", GUIDE]),
    "naive + guide mask": ("naive", ["loss.false_negatives=guide", GUIDE]),
    "naive + distillation": ("naive", ["loss=distill", "loss.teacher=guide", "loss.weight=1.0", GUIDE]),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """The command line, and where things lie."""

    base: str
    target: Path
    keep: Path
    output: Path
    rows: int
    teacher_rows: int
    corpus: int
    seeds: tuple[int, ...]
    recipes: tuple[str, ...]
    settings: tuple[str, ...]
    jobs: int
    merge: float

    @property
    def teacher(self) -> Path:
        """The teacher's model."""
        return self.output / "runs" / "outputs" / "teacher" / "model"

    def folder(self, name: str) -> Path:
        """An evaluation set of the study."""
        return self.output / "sets" / name

    def model(self, recipe: str, seed: int, merged: bool = False) -> Path:
        """A run's model."""
        run = self.output / "runs" / "outputs" / f"{_slug(recipe)}-{seed}"
        return run / "merged" if merged else run / "model"


def main() -> None:
    """Run what is missing, then write the table."""
    study = _arguments()
    study.output.mkdir(parents=True, exist_ok=True)
    (study.output / "runs").mkdir(exist_ok=True)
    _sets(study)
    started = time.monotonic()
    if not study.teacher.is_dir():
        rows = _train_rows(study, study.teacher_rows, start=study.rows)
        _run(study, "train.py", "name=teacher", *_common(study, rows, 1), *study.settings)
    mined = {name: study.output / "mined" / name / "rows.jsonl" for name in MINED}
    for name, path in mined.items():
        if not path.is_file() and any(RECIPES[recipe][0] == name for recipe in study.recipes):
            _mine(study, name, path)
    jobs = [(recipe, seed) for seed, recipe in itertools.product(study.seeds, study.recipes)]
    with ThreadPoolExecutor(study.jobs) as pool:
        list(pool.map(lambda job: _train(study, *job, mined), jobs))
        list(pool.map(lambda job: _merge(study, *job), jobs if study.merge else ()))
    print(f"{time.monotonic() - started:,.0f} s")
    table, record = _table(study)
    write_text(study.output / "table.md", table)
    write_json(study.output / "table.json", record)
    print(table)


def _train(study: Study, recipe: str, seed: int, mined: dict[str, Path]) -> None:
    """Train one recipe with one seed; train.py measures target and keep set."""
    source, settings = RECIPES[recipe]
    rows = _train_rows(study, study.rows) if source is None else mined[source]
    model = study.model(recipe, seed)
    if not model.is_dir():
        shutil.rmtree(model.parent, ignore_errors=True)  # of a run that was interrupted: it begins anew
        settings = [setting.format(teacher=study.teacher) for setting in settings]
        name = f"name={_slug(recipe)}-{seed}"
        _run(study, "train.py", name, *_common(study, rows, seed), "data.negatives_per_query=1", *settings, *study.settings)


def _merge(study: Study, recipe: str, seed: int) -> None:
    """Merge one run's model with the base, and measure it."""
    model, merged = study.model(recipe, seed), study.model(recipe, seed, merged=True)
    if not merged.is_dir():
        _run(
            study, "export.py", f"model.path={model}", f"merge.base={study.base}", f"merge.alpha={study.merge}",
            f"output_dir={merged}",
        )  # fmt: skip
    for name in ("target", "keep"):
        if not _scores(study, recipe, seed, name, merged=True).is_file():
            folder = merged.parent / "eval-merged"
            _run(
                study, "eval.py", f"model.path={merged}", f"data.eval_dir={study.folder(name)}", "data.eval_split=test",
                f"output_dir={folder}", "evaluation.bm25=null", "evaluation.intervals=200",
            )  # fmt: skip


def _common(study: Study, rows: Path, seed: int) -> list[str]:
    return [
        "model=mini", "model.init=pretrained", f"model.path={study.base}", "tracking=off", f"seed={seed}", f"data.train_file={rows}",
        f"data.eval_dir={study.folder('target')}", f"data.keep_dir=[{study.folder('keep')}]", "evaluation.bm25=null",
        "evaluation.intervals=200",
        "training.eval_strategy=no", "training.save_strategy=no", "training.load_best_model_at_end=false",
    ]  # fmt: skip


def _mine(study: Study, name: str, path: Path) -> None:
    model = [] if name == "random" else [f"model.path={study.teacher}"]
    corpus = study.output / "mined" / "corpus.jsonl"
    if not corpus.is_file():
        documents = {json.loads(line)["document"]: None for line in _lines(study.target / "train.jsonl", study.corpus)}
        write_text(corpus, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents))
    _run(
        study, "mine.py", f"name={name}", f"data.train_file={_train_rows(study, study.rows)}", f"corpus_file={corpus}",
        f"data.eval_dir={study.folder('target')}", f"output_file={path}", "per_query=4", *MINED[name], *model,
    )  # fmt: skip


def _train_rows(study: Study, count: int, start: int = 0) -> Path:
    path = study.output / f"rows-{start}-{start + count}.jsonl"
    if not path.is_file():
        write_text(path, "".join(_lines(study.target / "train.jsonl", start + count)[start:]))
    return path


def _sets(study: Study) -> None:
    """Evaluation sets small enough for many runs: fewer queries, and for each what BM25 finds besides what is judged."""
    for name, folder, queries, passages in (("target", study.target, 1000, 3000), ("keep", study.keep, 600, 1000)):
        if study.folder(name).is_dir():
            continue
        dev = load_beir(folder / "eval", "dev")
        test = load_beir(folder / "eval", "test")
        parts = {"dev": _some(dev, 250), "test": _some(test, queries)}
        both = dataclasses.replace(
            test, query_ids=list(parts["dev"].query_ids) + list(parts["test"].query_ids),
            queries=list(parts["dev"].queries) + list(parts["test"].queries), qrels={**parts["dev"].qrels, **parts["test"].qrels},
        )  # fmt: skip
        _write(shrink_corpus(both, passages, seed=0), parts, study.folder(name))


def _some(retrieval_set: RetrievalSet, count: int) -> RetrievalSet:
    chosen = np.sort(np.random.default_rng(0).permutation(len(retrieval_set.queries))[:count])
    ids = [retrieval_set.query_ids[int(i)] for i in chosen]
    return dataclasses.replace(
        retrieval_set, query_ids=ids, queries=[retrieval_set.queries[int(i)] for i in chosen],
        qrels={query: retrieval_set.qrels[query] for query in ids},
    )  # fmt: skip


def _write(retrieval_set: RetrievalSet, parts: dict[str, RetrievalSet], folder: Path) -> None:
    def lines(ids, texts):
        return "".join(json.dumps({"_id": i, "text": t}, ensure_ascii=False) + "\n" for i, t in zip(ids, texts, strict=True))

    write_text(folder / "corpus.jsonl", lines(retrieval_set.passage_ids, retrieval_set.passages))
    write_text(folder / "queries.jsonl", lines(retrieval_set.query_ids, retrieval_set.queries))
    for split, part in parts.items():
        judgements = "".join(f"{q}\t{d}\t{score}\n" for q, judged in part.qrels.items() for d, score in judged.items())
        write_text(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + judgements)


def _lines(path: Path, count: int) -> list[str]:
    """A seeded choice of rows; a smaller one is part of a larger one."""
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    return [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:count]]


def _run(study: Study, script: str, *overrides: str) -> None:
    log = study.output / "log.txt"
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n$ python {script} {' '.join(overrides)}\n")
        file.flush()
        threads = str(max(1, (os.cpu_count() or 1) // study.jobs)) if "name=teacher" not in overrides else str(os.cpu_count())
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(PROJECT)}
        command = [
            sys.executable,
            str(PROJECT / script),
            *overrides,
            *([] if script == "export.py" else [f"cache_dir={study.output / 'cache'}"]),
        ]
        done = subprocess.run(command, cwd=study.output / "runs", env=environment, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{script} failed with {done.returncode}; see {log}")


# -- the table ---------------------------------------------------------------------------------------------------------------


def _scores(study: Study, recipe: str, seed: int, name: str, merged: bool = False, which: str = "final") -> Path:
    """Where a run's scores of a set stand; `which` is final or base, as train.py names them."""
    run = study.model(recipe, seed).parent
    folder = run / "eval-merged" / f"{name}-test" / "model" if merged else run / "eval" / f"{name}-test" / which
    return folder / "per_query.jsonl"


def _per_query(path: Path) -> dict[str, float]:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["query"]: row[METRIC] for row in rows}


def _table(study: Study) -> tuple[str, dict]:
    rows, record, sets = [], {}, ("target", "keep")
    first = study.recipes[0], study.seeds[0]
    base = {name: _stack([_per_query(_scores(study, *first, name, which="base"))]) for name in sets}
    rows.append(["base, not trained", f"{base['target'].mean():.3f}", "", "", f"{base['keep'].mean():.3f}", ""])
    record["base"] = {name: float(values.mean()) for name, values in base.items()}
    reference = {}
    for merged, recipe in itertools.product((False, True) if study.merge else (False,), study.recipes):
        scores = {name: _stack([_per_query(_scores(study, recipe, seed, name, merged)) for seed in study.seeds]) for name in sets}
        label = recipe + (f", merged {study.merge:g}" if merged else "")
        reference[label] = scores
        against = {
            "none": _difference(scores["target"], reference["none"]["target"]),
            "naive": _difference(scores["target"], reference["naive"]["target"]) if "naive" in reference else None,
            "keep": _difference(scores["keep"], base["keep"]),
        }
        spread = scores["target"].mean(axis=1)
        record[label] = {
            "target": float(scores["target"].mean()), "target by seed": spread.tolist(), "keep": float(scores["keep"].mean()),
            "differences": against,
        }  # fmt: skip
        rows.append([
            label, f"{scores['target'].mean():.3f} ({spread.min():.3f}-{spread.max():.3f})", _shown(against["none"]),
            _shown(against["naive"]), f"{scores['keep'].mean():.3f}", _shown(against["keep"]),
        ])  # fmt: skip
    head = ["recipe", f"target {METRIC} (seeds)", "against none", "against naive", f"keep {METRIC}", "against base"]
    lines = [head, ["---", *["---:"] * 5], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", record


def _stack(per_query: list[dict[str, float]]) -> np.ndarray:
    """(seeds, queries), queries in one order."""
    ids = sorted(per_query[0])
    return np.array([[scores[i] for i in ids] for scores in per_query])


def _difference(scores: np.ndarray, other: np.ndarray) -> list[float]:
    """[mean, low, high] of the paired difference: queries and seeds are drawn anew, each pair of runs keeping its seed."""
    difference = scores - other  # (seeds, queries); other may be (1, queries)
    generator, means = np.random.default_rng(0), []
    for _ in range(SAMPLES):
        seeds = generator.integers(0, len(difference), len(difference))
        queries = generator.integers(0, difference.shape[1], difference.shape[1])
        means.append(difference[seeds][:, queries].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(difference.mean()), float(low), float(high)]


def _shown(difference: list[float] | None) -> str:
    return "" if difference is None else f"{difference[0]:+.3f} [{difference[1]:+.3f}, {difference[2]:+.3f}]"


def _slug(recipe: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in recipe).replace("---", "-")


def _arguments() -> Study:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a model folder that is good on KEEP")
    parser.add_argument("--target", required=True, type=Path)
    parser.add_argument("--keep", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1500, help="training rows of every recipe")
    parser.add_argument("--teacher-rows", type=int, default=6000, help="training rows of the teacher, none of them among --rows")
    parser.add_argument("--corpus", type=int, default=6000, help="documents that negatives are mined from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--settings", nargs="*", default=[], help="overrides of every train.py run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument(
        "--merge", type=float, default=0.5, help="share of the fine-tuned weights when merging back; 0: no merging"
    )
    given = vars(parser.parse_args())
    for name in ("seeds", "recipes", "settings"):
        given[name] = tuple(given[name])
    for name in ("target", "keep", "output"):
        given[name] = given[name].resolve()
    return Study(**{**given, "base": str(Path(given["base"]).resolve())})


if __name__ == "__main__":
    main()
