"""`make mutants`: do the core's tests notice when the core is changed?

python -m tests.mutants [--only FILE ...] [--survivors] [--jobs 2] [--draw SEED]

`list.jsonl` holds 200 mutants, drawn by seed from all that `operators.py` makes of the files of `TESTS`. It was drawn before tests
were written against it. Lines that are gone from today's code are told; `--draw SEED` replaces them by others. A line gets
`equivalent`, a reason, where no test could tell it from the original.

Exit code 0 where at least `ENOUGH` of the others are killed.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos.forking import ROOT
from tests.chaos.report import table
from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.runner import Run, digest, run, warm_up

LIST = Path(__file__).with_name("list.jsonl")
RECORD = ROOT / "outputs" / "mutants.jsonl"
COUNT = 200
ENOUGH = 0.95
EQUIVALENT = 0.03  # of all, at most
OUTCOMES = ("killed", "SURVIVED", "equivalent", "gone")

# Module of e5ft -> its tests, under tests/.
TESTS = {
    "data/collator.py": ["data/test_collator.py"],
    "data/sampler.py": ["data/test_sampler.py"],
    "data/step.py": ["data/test_step.py", "data/test_collator.py"],
    "retrieval/comparison.py": ["retrieval/test_comparison.py"],
    "retrieval/filters.py": ["retrieval/test_filters.py", "retrieval/test_mining.py"],
    "retrieval/metrics.py": ["retrieval/test_metrics.py"],
    "retrieval/search.py": ["retrieval/test_search.py", "retrieval/test_shards.py"],
    "retrieval/significance.py": ["retrieval/test_significance.py"],
    "training/accumulation.py": ["training/test_accumulation.py"],
    "training/checkpoint.py": ["training/test_checkpoint.py"],
    "training/log_sums.py": ["training/test_log_sums.py"],
    "training/losses.py": ["training/test_losses.py", "training/test_loss_setup.py"],
    "training/tiles.py": ["training/test_tiles.py", "training/test_losses.py", "training/test_distillation.py"],
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description="Change the core, and look whether a test fails."
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FILE", default=[""], help="files whose mutants are run, by the end of their names"
    )
    parser.add_argument("--survivors", action="store_true", help="run only those that survived the last time")
    parser.add_argument("--jobs", type=int, default=2, help="processes that run tests at the same time")
    parser.add_argument("--draw", type=int, metavar="SEED", help="only fill the list: mutants whose lines are gone are replaced")
    options = parser.parse_args()
    if options.draw is not None:
        return draw(options.draw)
    last = {entry["mutant"]: entry["outcome"] for entry in recorded().values()}
    mutants = [mutant for mutant in listed() if mutant.file.endswith(tuple(options.only))]
    mutants = [mutant for mutant in mutants if not options.survivors or last.get(str(mutant)) == "SURVIVED"]
    counts, start = collections.defaultdict(collections.Counter), time.monotonic()
    for mutant, outcome, detail in outcomes(mutants, options.jobs):
        counts[mutant.file][outcome] += 1
        print(f"{outcome:10} {mutant} {detail}".rstrip(), flush=True)
    total = sum(counts.values(), collections.Counter())
    rows = ([file, *(counted[outcome] for outcome in OUTCOMES)] for file, counted in [*sorted(counts.items()), ("all", total)])
    print("", *table(["mutants of", *OUTCOMES], rows), "", sep="\n")
    share = total["killed"] / max(total["killed"] + total["SURVIVED"], 1)
    print(f"{share:.1%} killed, in {time.monotonic() - start:.0f} s; what is recorded in {RECORD} is not run again")
    return int(share < ENOUGH or total["equivalent"] > EQUIVALENT * COUNT)


def listed() -> list[Mutant]:
    """The mutants of the list."""
    return [Mutant(**json.loads(line)) for line in LIST.read_text(encoding="utf-8").splitlines()] if LIST.exists() else []


def recorded() -> dict[str, dict]:
    """Digest -> what came of it, in the order of the runs."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else []
    return {entry["digest"]: entry for entry in map(json.loads, lines)}


def outcomes(mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, str, str]]:
    """Yield each mutant, what came of it (of `OUTCOMES`), and why; what is recorded is not run again.

    Raises:
        RuntimeError: tests fail on the tree as it is.
    """
    known, waiting = recorded(), {}
    for mutant in mutants:
        tests = tuple(f"tests/{name}" for name in TESTS[mutant.file.removeprefix("e5ft/")])
        key = digest(ROOT, mutant, tests)
        if mutant.equivalent or not mutant.apply((ROOT / mutant.file).read_text(encoding="utf-8")):
            yield mutant, "equivalent" if mutant.equivalent else "gone", mutant.equivalent
        elif key in known:
            yield mutant, known[key]["outcome"], known[key]["by"]
        else:
            waiting[key] = mutant, tests
    RECORD.parent.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=warm_up) as pool,
        open(RECORD, "a", encoding="utf-8") as record,
    ):
        kinds = dict.fromkeys(tests for _, tests in waiting.values())
        whole = {tests: pool.submit(run, Run(ROOT, Path(folder), tests)) for tests in kinds}
        seconds = {tests: _passed(tests, *future.result()) for tests, future in whole.items()}
        runs = {}
        for key, (mutant, tests) in waiting.items():
            runs[pool.submit(run, Run(ROOT, Path(folder), tests, mutant, 3 * seconds[tests] + 30))] = key, mutant
        for future in concurrent.futures.as_completed(runs):
            key, mutant = runs[future]
            code, took, by = future.result()
            outcome = "SURVIVED" if code == 0 else "killed"
            entry = {"digest": key, "mutant": str(mutant), "outcome": outcome, "seconds": round(took, 1), "by": by}
            print(json.dumps(entry, ensure_ascii=False), file=record, flush=True)
            yield mutant, outcome, f"{by} ({took:.1f} s)"


def _passed(tests: tuple[str, ...], code: int | None, seconds: float, by: str) -> float:
    """Return the seconds of tests that passed on the tree as it is."""
    if code != 0:
        raise RuntimeError(f"{' '.join(tests)}: ended with {code} without any mutant: {by}")
    print(f"{seconds:5.1f} s  {' '.join(tests)}", flush=True)
    return seconds


def draw(seed: int) -> int:
    """Fill the list to `COUNT` with mutants of today's code; those that still apply stay."""
    sources = {f"e5ft/{module}": (ROOT / "e5ft" / module).read_text(encoding="utf-8") for module in TESTS}
    made = [mutant for file, source in sources.items() for mutant in mutants_of(file, source)]
    kept = {dataclasses.replace(mutant, equivalent=""): mutant for mutant in listed()}
    kept = {bare: mutant for bare, mutant in kept.items() if bare in made}
    others = [mutant for mutant in made if mutant not in kept]
    chosen = [*kept.values(), *random.Random(seed).sample(others, COUNT - len(kept))]
    chosen.sort(key=lambda mutant: made.index(dataclasses.replace(mutant, equivalent="")))
    lines = (json.dumps(dataclasses.asdict(mutant), ensure_ascii=False) for mutant in chosen)
    LIST.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{COUNT} of {len(made)} mutants, {COUNT - len(kept)} of them new: {LIST}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
