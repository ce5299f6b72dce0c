"""e5ft beside sentence-transformers, faiss and torch, on this machine.

python -m benchmarks.bench [--quick] [--only training encoding] [--output outputs/bench]
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.bench.cases import CASES, DEFAULT
from benchmarks.bench.lines import Line, Void, markdown
from benchmarks.bench.processes import measure
from benchmarks.bench.texts import ROOT
from e5ft.files import write_json, write_text

_PACKAGES = ("torch", "transformers", "sentence-transformers", "faiss-cpu")


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    rates = [
        f"{measure('training:rate', tokens=2048, hidden=384, bf16=bf16, turns=1)['rates'][0] / 1e9:.0f} GFLOP/s {name}"
        for bf16, name in ((False, "fp32"), (True, "bf16"))
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{model or platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {torch.get_num_threads()} threads",
        "matrix product (2,048 x 384 x 1,536)": ", ".join(rates),
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
        "commit": commit.stdout.strip() or "unknown",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def run(names: list[str], quick: bool, output: Path) -> int:
    """Run the cases; what was measured is on disk after every case.

    Returns:
        0, or 1 where a case failed or was void.
    """
    lines: list[Line] = []
    failures: list[str] = []
    head, start = machine(), time.perf_counter()
    if quick:
        head["mode"] = "quick: small sizes and two repetitions, to see that it works; no figures to quote"
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            for line in CASES[name](quick):
                lines.append(line)
                print(f"[{time.perf_counter() - start:5.0f} s] {line.summary()}", flush=True)
                _write(output, lines, head, failures)
        except (Void, RuntimeError) as error:
            failures.append(f"{name}: {error}")
            print(f"FAILED {name}: {error}", file=sys.stderr, flush=True)
        _write(output, lines, head, failures)
    print(f"\n{output}/bench.md and bench.json, after {time.perf_counter() - start:.0f} s")
    return 1 if failures else 0


def _write(output: Path, lines: list[Line], head: dict, failures: list[str]) -> None:
    write_json(output / "bench.json", {"machine": head, "lines": [line.record() for line in lines], "failures": failures})
    write_text(output / "bench.md", markdown(lines, head, failures))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Speed and memory beside what else there is.")
    parser.add_argument("--quick", action="store_true", help="small sizes, two repetitions, about three minutes")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(DEFAULT), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    given = parser.parse_args()
    return run(given.only, given.quick, given.output)


if __name__ == "__main__":
    sys.exit(main())
