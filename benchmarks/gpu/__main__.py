"""What no CPU can show, on this machine's GPU: correctness of its kernels, memory, speed. Not one figure needs the network.

python -m benchmarks.gpu [--quick] [--only attention small] [--output outputs/gpu]
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bench.lines import Line, markdown
from benchmarks.bench.texts import ROOT
from e5ft.files import write_json, write_text

# Each has a process of its own: after some errors CUDA is of no use to a process. Seconds at most, full and quick.
BUDGETS = {
    "attention": (150, 90), "scaler": (120, 90), "accumulation": (120, 90), "fit": (180, 90), "memory": (180, 90),
    "small": (210, 90), "base": (240, 0), "large": (300, 0),
}  # fmt: skip
_PACKAGES = ("torch", "transformers", "sentence-transformers", "flash-attn", "flash_attn")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}


def section(name: str):
    """The function of a section: setting -> lines, and notes as plain strings."""
    from benchmarks.gpu import checks, speed

    return getattr(checks, name, None) or functools.partial(speed.speed, shape=f"e5_{name}")


def no_gpu() -> str | None:
    """Why there is nothing to measure, and what to do; None where there is a GPU."""
    if torch.version.cuda is None and torch.version.hip is None:
        plain = torch.__version__.partition("+")[0]
        return f"torch {torch.__version__}: a build without CUDA: pip install --force-reinstall torch=={plain} (PyPI's, on Linux)"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU: look at nvidia-smi (driver) and CUDA_VISIBLE_DEVICES"
    return None


def machine(device: str) -> dict[str, str]:
    """What the figures depend on."""
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        device = f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB"
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in _PACKAGES}
    versions = ", ".join(f"{name} {version}" for name, version in {"CUDA": torch.version.cuda, **installed}.items())
    today = datetime.date.today().isoformat()
    return {"date": today, "commit": commit.stdout.strip() or "unknown", "device": device, "versions": versions}


def write_lines(name: str, device: str, size: str, folder: str) -> None:
    """In a section's process: write every line as soon as it is known, one JSON value each."""
    from benchmarks.gpu.setting import Setting

    with open(Path(folder) / "lines.jsonl", "a", encoding="utf-8", buffering=1) as lines:
        for line in section(name)(Setting(device, size, Path(folder))):
            lines.write(json.dumps(line if isinstance(line, str) else dataclasses.asdict(line)) + "\n")


def measured(name: str, device: str, size: str, seconds: float) -> tuple[list[Line], list[str], list[str]]:
    """Run a section in a process of its own, at most so long: its lines, its notes, and what failed."""
    first_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # training takes one GPU a process
    environment = {**os.environ, **_OFFLINE, "CUDA_VISIBLE_DEVICES": first_gpu}
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        file, errors = Path(folder) / "lines.jsonl", Path(folder) / "errors.txt"
        command = [sys.executable, "-m", "benchmarks.gpu", "--section", json.dumps([name, device, size, folder])]
        options = {"cwd": ROOT, "env": environment, "timeout": seconds, "check": False}
        with open(errors, "w", encoding="utf-8") as log:
            try:
                status = subprocess.run(command, stdout=log, stderr=log, **options).returncode
                reason = f"exit status {status}" if status else None
            except subprocess.TimeoutExpired:
                reason = f"ended after {seconds:.0f} s, its budget"
        if reason is not None:
            said = [line.strip() for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            reason = f"{name}: {reason}: {said[-1][:300] if said else 'it said nothing'}"
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    lines, notes = [Line(**f) for f in found if isinstance(f, dict)], [f for f in found if isinstance(f, str)]
    failed = [note.removeprefix("FAILED ") for note in notes if note.startswith("FAILED ")] + ([reason] if reason else [])
    failed += [f"{line.section}: {line.case}: {line.ours[0]:.3g}, goal {line.goal:.3g}" for line in lines if line.met is False]
    return lines, [note for note in notes if not note.startswith("FAILED ")], failed


def run(names: list[str], device: str, size: str, output: Path) -> int:
    """Run the sections; what was measured is on disk after each.

    Returns:
        0, or 1 where something failed or a figure is not within its bounds.
    """
    head, start, lines, failures = machine(device), time.perf_counter(), [], []
    if size != "full":
        head["mode"] = f"{size}: to see that it works; no figures to quote"
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        new, notes, failed = measured(name, device, size, BUDGETS[name][size != "full"] or 120)
        for text in (*(line.summary() for line in new), *notes, *(f"FAILED {failure}" for failure in failed)):
            print(f"[{time.perf_counter() - start:5.0f} s] {text}", file=sys.stderr, flush=True)
        lines, failures = [*lines, *new], [*failures, *failed]
        if notes:
            head["not run"] = "; ".join(filter(None, [head.get("not run"), *notes]))
        write_json(output / "gpu.json", {"machine": head, "lines": [line.record() for line in lines], "failures": failures})
        write_text(output / "gpu.md", markdown(lines, head, failures))
    print((output / "gpu.md").read_text(encoding="utf-8"))
    print(f"{output}/gpu.md and gpu.json, after {time.perf_counter() - start:.0f} s")
    return 1 if failures else 0


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What no CPU can show, on this machine's GPU.")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, about three minutes")
    parser.add_argument("--only", nargs="+", choices=list(BUDGETS), metavar="NAME", help=", ".join(BUDGETS))
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to test the benchmark, with --tiny")
    parser.add_argument("--tiny", action="store_true", help="the mini model, a few rows")
    parser.add_argument("--section", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.section:
        write_lines(*given.section)
        return 0
    if given.device == "cuda" and no_gpu():
        print(f"error: {no_gpu()}", file=sys.stderr)
        return 2
    size = "tiny" if given.tiny else "quick" if given.quick else "full"
    names = given.only or [name for name, (_, quick) in BUDGETS.items() if quick or size == "full"]
    return run(names, given.device, size, given.output)


if __name__ == "__main__":
    sys.exit(main())
