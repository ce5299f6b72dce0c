"""Choose on dev queries, one factor at a time; tune the contenders there too; then all with three seeds on the test, once.

python -m benchmarks.study --base MODEL --target KO_PREC --keep KO_WIKI/eval XQUAD/en ... --pairs STS.jsonl --output DIR

TARGET has train.jsonl and eval/ (BEIR's layout with dev and test), the keep sets are folders of that layout. Everything is
kept under the output folder and skipped when it is there: an interrupted study goes on where it stopped.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.study import contenders
from benchmarks.study.contenders import DOCUMENTED, TUNED, Contender
from benchmarks.study.factors import ALPHAS, CHOSEN, FACTORS, FINAL_SEEDS, SIZES, Recipe
from benchmarks.study.measuring import METRIC, choosing_sets, difference, lexical, measure, reporting_sets
from e5ft.files import write_json, write_text
from e5ft.retrieval.sets import load_beir

PROJECT = Path(__file__).resolve().parents[2]
MINED = {"bm25": ["sources=[bm25]"], "dense": []}
MINING_ROWS = 4096  # whose documents the negatives come from


class Study:
    """The folders of one study, and what was done so far."""

    def __init__(self, arguments: argparse.Namespace):
        self.base, self.target, self.bf16 = arguments.base.resolve(), arguments.target.resolve(), arguments.bf16
        self.keep, self.pairs = [folder.resolve() for folder in arguments.keep], arguments.pairs
        self.output = arguments.output.resolve()
        for name in ("rows", "runs", "choosing", "reporting"):
            (self.output / name).mkdir(parents=True, exist_ok=True)
        self.sets = choosing_sets(self.target / "eval", self.keep)
        self.report_pairs = arguments.report_pairs
        self._write_tiny_set()

    def rows(self, size: int, mined: str) -> Path:
        """The first rows of one seeded order, with one of the lists of hard negatives."""
        path = self.output / "rows" / f"{mined}-{size}.jsonl"
        if not path.is_file():
            if mined == "none":
                lines = (self.target / "train.jsonl").read_text(encoding="utf-8").splitlines()
                chosen = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:size]]
            else:
                chosen = self._mined(mined).read_text(encoding="utf-8").splitlines()[:size]
            write_text(path, "\n".join(chosen) + "\n")
        return path

    def _mined(self, mined: str) -> Path:
        folder = self.output / "rows" / f"mined-{mined}"
        if not folder.is_dir():
            rows, held_out = self.rows(MINING_ROWS, "none"), f"data.eval_dir={self.target / 'eval'}"
            self._run(
                "mine.py", f"model.path={self.base}", f"data.train_file={rows}", held_out, f"output_dir={folder}", *MINED[mined]
            )
        return folder / "rows.jsonl"

    def _write_tiny_set(self) -> None:
        """An evaluation set of four queries for train.py, which wants one: everything is measured here."""
        folder, target = self.output / "tiny", self.sets[0]
        if folder.is_dir():
            return
        ids = list(target.query_ids)[:4]
        passages = dict(zip(target.passage_ids, target.passages, strict=True))
        judged = [(q, p) for q in ids for p in target.qrels[q]]
        queries = dict(zip(target.query_ids, target.queries, strict=True))
        (folder / "qrels").mkdir(parents=True)
        for name, texts in (("corpus", {p: passages[p] for _, p in judged}), ("queries", {q: queries[q] for q in ids})):
            lines = (json.dumps({"_id": key, "text": text}, ensure_ascii=False) for key, text in texts.items())
            write_text(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
        for split in ("dev", "test"):
            write_text(
                folder / "qrels" / f"{split}.tsv",
                "\n".join(["query-id\tcorpus-id\tscore", *(f"{q}\t{p}\t1" for q, p in judged)]) + "\n",
            )

    def _run(self, script: str, *settings: str) -> None:
        command = [sys.executable, str(PROJECT / script), *settings, f"cache_dir={self.output / 'cache'}"]
        with open(self.output / "runs" / "log.txt", "a", encoding="utf-8") as log:
            subprocess.run(command, cwd=self.output / "runs", check=True, stdout=log, stderr=log)

    def train(self, recipe: Recipe) -> Path:
        """The model of a recipe, trained unless it is there."""
        run = self.output / "runs" / "outputs" / recipe.run
        if not (run / "model").is_dir():
            shutil.rmtree(run, ignore_errors=True)
            self._run(
                "train.py", "model=e5_small", f"model.path={self.base}", f"data.train_file={self.rows(recipe.rows, recipe.mined)}",
                f"data.eval_dir={self.output / 'tiny'}", "data.keep_dir=[]", f"name={run.name}", "tracking=off", "evaluation.bm25=null",
                "training.eval_strategy=no", "training.save_strategy=no", "training.load_best_model_at_end=false",
                f"training.bf16={str(self.bf16).lower()}", *recipe.settings(),
            )  # fmt: skip
        return run / "model"

    def contender(self, contender: Contender, recipe: Recipe) -> Path:
        """A contender's model on the same rows."""
        model = self.output / "runs" / "contenders" / f"{contender.name},seed={recipe.seed}"
        if not model.is_dir():
            rows = [json.loads(line) for line in self.rows(recipe.rows, recipe.mined).read_text(encoding="utf-8").splitlines()]
            for row in rows:
                if isinstance(row.get("hard_negative"), list):
                    row["hard_negative"] = row["hard_negative"][0]
            contenders.train(contender, self.base, rows, recipe, model, self.bf16)
        return model

    def merged(self, models: list[Path], alpha: float, name: str) -> Path:
        """Base and the mean of some models, mixed."""
        folder = self.output / "runs" / "merged" / name
        if not folder.is_dir():
            more = [f"merge.models=[{','.join(map(str, models[1:]))}]"] if len(models) > 1 else []
            base = [f"merge.base={self.base}", f"merge.alpha={alpha}"] if alpha < 1 else []
            self._run("export.py", f"model.path={models[0]}", *more, *base, f"output_dir={folder}")
        return folder

    def choose(self, name: str, model: Path) -> dict:
        """A model's scores on what chooses; a line is printed."""
        record = self.output / "choosing" / f"{name}.json"
        known, start = record.is_file(), time.monotonic()
        found = measure(model, self.sets, self.pairs, record, self.bf16)
        if name != "base":
            print(f"{'' if known else f'[{time.monotonic() - start:4.0f} s] '}{name}: {self.line(found)}", flush=True)
        return found

    @property
    def before(self) -> dict:
        """The base's scores."""
        return self.choose("base", self.base)

    def line(self, found: dict, before: dict | None = None) -> str:
        """Target and keep sets against the base."""
        before = before or self.before
        target, keep = self.gains(found, before)
        mean = np.mean(found["sets"]["target"])
        pairs = ", ".join(f"{name} {value - before['pairs'][name]:+.3f}" for name, value in found["pairs"].items())
        return f"target {mean:.4f} {target}, keep {keep}, {pairs}"

    def gains(self, found: dict, before: dict):
        """Differences on the target, and on the keep sets' mean."""
        names = [name for name in before["sets"] if name != "target"]
        sides = [[side["sets"][name] for name in names] for side in (found, before)]
        return difference([found["sets"]["target"]], [before["sets"]["target"]]), difference(*sides)


def best_of(study: Study, tried: list, train: Callable) -> Recipe | Contender:
    """What has the best target score, of what lost nothing on the keep sets (paired 95 %), or of all if each lost."""
    scored = []
    for each in tried:
        target, keep = study.gains(study.choose(each.name, train(each)), study.before)
        scored.append((keep.high >= 0, target.mean, each))
    allowed = [entry for entry in scored if entry[0]] or scored
    return max(allowed, key=lambda entry: entry[1])[2]


def choose(study: Study) -> Recipe:
    """Every factor in its order."""
    recipe = Recipe()
    for factor, values in FACTORS.items():
        print(f"\n{factor}", flush=True)
        recipe = best_of(study, [replace(recipe, **value) for value in values], study.train)
        print(f"chosen: {recipe.name}", flush=True)
    write_json(study.output / "chosen.json", {"recipe": recipe.name})
    return recipe


def explore(study: Study, recipe: Recipe) -> None:
    """Sizes, merging and soup of the chosen recipe."""
    print("\nsizes, merging, soup", flush=True)
    for size in (recipe.rows, *SIZES):
        sized = replace(recipe, rows=size)
        study.choose(sized.name, study.train(sized))
    for alpha in ALPHAS:
        study.choose(f"{recipe.name},alpha={alpha}", study.merged([study.train(recipe)], alpha, f"alpha-{alpha}"))
    seeds = [study.train(replace(recipe, seed=seed)) for seed in FINAL_SEEDS]
    study.choose(f"{recipe.name},soup", study.merged(seeds, 1.0, "soup"))


def tune(study: Study, recipe: Recipe) -> dict[str, Contender]:
    """The settings of each contender that dev likes best, its documentation's among them."""
    print("\ncontenders", flush=True)
    return {
        f"{loss}, tuned": best_of(study, [DOCUMENTED[loss], *tried], lambda each: study.contender(each, recipe))
        for loss, tried in TUNED.items()
    }


def report(study: Study, recipe: Recipe, against: dict[str, Contender], seeds: list[int]) -> None:
    """The recipe and contenders on the test queries, with some seeds each, and the table."""
    sets = reporting_sets(study.target / "eval", study.keep)
    dev = load_beir(study.target / "eval", "dev", name="target")

    def take(name: str, model: Path) -> dict:
        return measure(model, sets, study.report_pairs, study.output / "reporting" / f"{name}.json", study.bf16, dev)

    before = take("base", study.base)
    systems = {"base": [before], "BM25": [lexical(sets)], "e5ft": []}
    for seed in seeds:
        tried = replace(recipe, seed=seed)
        systems["e5ft"].append(take(f"e5ft-{seed}", study.train(tried)))
        for name, contender in against.items():
            record = f"{contender.name},seed={seed}"
            systems.setdefault(name, []).append(take(record, study.contender(contender, tried)))
    for name in ("base", "e5ft"):
        systems[f"{name} + BM25"] = [{"sets": found["hybrid"], "pairs": {}} for found in systems[name]]
    mean = {name: _mean_of(found) for name, found in systems.items()}
    lines = ["| system | seeds | target | against base | against e5ft | keep, against base |", "|---|---:|---:|---|---|---|"]
    for name, found in mean.items():
        target, keep = study.gains(found, before)
        ours, _ = study.gains(found, mean["e5ft"])
        lines.append(f"| {name} | {len(systems[name])} | {np.mean(found['sets']['target']):.4f} | {target} | {ours} | {keep} |")
    lines += ["", "| set | " + " | ".join(mean) + " |", "|---|" + "---:|" * len(mean)]
    for each in sets:
        lines.append(
            f"| {each.name} | " + " | ".join(f"{np.mean(found['sets'][each.name]):.4f}" for found in mean.values()) + " |"
        )
    weights = {name: [found["weight"] for found in systems[name]] for name in ("base", "e5ft")}
    lines.append(f"\nweight of the dense scores in + BM25, chosen on dev: {weights}")
    for file in study.report_pairs:
        values = {name: np.mean([f["pairs"][file.stem] for f in found]) for name, found in systems.items() if found[0]["pairs"]}
        lines.append(f"\n{file.stem}, Spearman: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
    write_text(study.output / "table.md", "\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))


def _mean_of(found: list[dict]) -> dict:
    """Every query's mean over seeds."""
    return {"sets": {name: np.mean([each["sets"][name] for each in found], axis=0).tolist() for name in found[0]["sets"]}}


def main() -> None:
    """Read the command line, run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, count in (("base", Path, None), ("target", Path, None), ("keep", Path, "+"), ("output", Path, None)):
        parser.add_argument(f"--{name}", type=kind, nargs=count, required=True)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="sentence pairs that are looked at while choosing")
    parser.add_argument("--report-pairs", type=Path, nargs="*", default=[])
    parser.add_argument("--bf16", action="store_true", help="bfloat16, all sides alike")
    stages = ("choose", "explore", "tune", "report")
    parser.add_argument("--stage", choices=stages, nargs="*", default=stages, help="without choose: the shipped recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=FINAL_SEEDS, help="of what is reported")
    arguments = parser.parse_args()
    study = Study(arguments)
    print(f"base: {METRIC} " + ", ".join(f"{name} {np.mean(v):.3f}" for name, v in study.before["sets"].items()), flush=True)
    recipe = choose(study) if "choose" in arguments.stage else CHOSEN
    if "explore" in arguments.stage:
        explore(study, recipe)
    tuned = tune(study, recipe) if "tune" in arguments.stage else {}
    if "report" in arguments.stage:
        report(study, recipe, DOCUMENTED | tuned, arguments.seeds)


if __name__ == "__main__":
    main()
