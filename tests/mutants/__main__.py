"""`make mutants`: do the core's tests notice when the core is changed?

python -m tests.mutants [--only FILE ...] [--survivors] [--jobs 2] [--draw SEED]

`list.jsonl` holds 200 mutants, drawn by seed from all that `operators.py` makes of `TESTS`'s files; they are changed by nobody who
writes a test. Those whose lines are gone from today's code are told; `--draw SEED` replaces them by others.
"""

import argparse
import dataclasses
import json
import random
import sys
from pathlib import Path

from tests.mutants.operators import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("list.jsonl")
COUNT = 200

# Module of e5ft -> its tests, under tests/.
TESTS = {
    "data/collator.py": ["data/test_collator.py"],
    "data/sampler.py": ["data/test_sampler.py"],
    "data/step.py": ["data/test_step.py", "data/test_collator.py"],
    "retrieval/comparison.py": ["retrieval/test_comparison.py"],
    "retrieval/filters.py": ["retrieval/test_filters.py", "retrieval/test_mining.py"],
    "retrieval/metrics.py": ["retrieval/test_metrics.py"],
    "retrieval/search.py": ["retrieval/test_search.py"],
    "retrieval/significance.py": ["retrieval/test_significance.py"],
    "training/accumulation.py": ["training/test_accumulation.py"],
    "training/checkpoint.py": ["training/test_checkpoint.py"],
    "training/log_sums.py": ["training/test_log_sums.py"],
    "training/losses.py": ["training/test_losses.py"],
    "training/tiles.py": ["training/test_tiles.py", "training/test_losses.py"],
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description="Change the core, and look whether a test fails."
    )
    parser.add_argument("--draw", type=int, metavar="SEED", help="fill the list: mutants whose lines are gone are replaced")
    options = parser.parse_args()
    if options.draw is not None:
        draw(options.draw)
    return 0


def listed() -> list[Mutant]:
    """The mutants of the list."""
    return [Mutant(**json.loads(line)) for line in LIST.read_text(encoding="utf-8").splitlines()] if LIST.exists() else []


def draw(seed: int) -> None:
    """Fill the list to `COUNT` with mutants of today's code; those that still apply stay."""
    sources = {f"e5ft/{module}": (ROOT / "e5ft" / module).read_text(encoding="utf-8") for module in TESTS}
    kept = [mutant for mutant in listed() if mutant.apply(sources[mutant.file])]
    known = {dataclasses.replace(mutant, equivalent="") for mutant in kept}
    others = [mutant for file, source in sources.items() for mutant in mutants_of(file, source) if mutant not in known]
    order = {file: list(map(str, mutants_of(file, source))) for file, source in sources.items()}
    chosen = [*kept, *random.Random(seed).sample(others, COUNT - len(kept))]
    chosen.sort(key=lambda mutant: (mutant.file, order[mutant.file].index(str(mutant))))
    lines = (json.dumps(dataclasses.asdict(mutant), ensure_ascii=False) for mutant in chosen)
    LIST.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(chosen)} of {len(others) + len(kept)} mutants, {len(chosen) - len(kept)} of them new: {LIST}")


if __name__ == "__main__":
    sys.exit(main())
