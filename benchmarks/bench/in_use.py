"""The quickstart as a user starts it: its steps on an idle machine and beside a busy process, and its memory."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bench.texts import ROOT

_WARMUP = 2
_OVERRIDES = (
    *("tracking=off", "training.logging_steps=1", "training.eval_strategy=no", "training.save_strategy=no"),
    *("training.load_best_model_at_end=false", "data.eval_corpus_size=10"),
)


def quickstart(folder: Path, name: str, steps: int, *, busy: int = 0, **environment: str) -> dict:
    """Run train.py and take the time between the lines that it prints.

    Args:
        folder: for caches and outputs.
        name: of the run.
        steps: of training; the first two are not timed.
        busy: processes that each keep a core busy meanwhile.
        environment: more variables.

    Returns:
        {"wall": seconds of each step, "peak": the process's largest resident memory in MB, "said": what the run says of it in MB}.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, str(ROOT / "train.py"), f"name={name}", f"training.max_steps={steps}", *_OVERRIDES]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        options = {"cwd": folder, "env": {**os.environ, "HF_HUB_OFFLINE": "1", **environment}, "text": True}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        printed, times = [], []
        for line in process.stdout:
            printed.append(line)
            if line.startswith("  step "):
                times.append(time.perf_counter())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        for other in others:
            other.kill()
            other.wait()
    said = re.search(r"^  memory +at most about ([\d.]+) (GB|MB)", "".join(printed), re.MULTILINE)
    if process.returncode or said is None:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{''.join(printed[-12:])}")
    wall = [end - start for start, end in zip(times, times[1:], strict=False)][_WARMUP - 1 :]
    return {"wall": wall, "peak": usage.ru_maxrss / 1000, "said": float(said[1]) * (1000 if said[2] == "GB" else 1)}
