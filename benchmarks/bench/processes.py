"""A measurement in a process of its own: fresh peaks of memory, and one precision a process (accelerate knows one)."""

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench.texts import ROOT


def measure(function: str, timeout: float = 1800, **options) -> dict:
    """Call `module:function(folder, **options)` of this package in a new process.

    Args:
        function: for example "encoding:compare"; it gets an empty folder and returns what JSON can hold.
        timeout: seconds.
        options: passed on.

    Returns:
        What it returned, with "peak_mb" (the process's largest resident memory) and "process_s" added.

    Raises:
        RuntimeError: it failed; the message ends with its last lines.
    """
    start = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.bench.processes", function, json.dumps(options), folder]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode or not result.is_file():
            tail = "\n".join(done.stderr.strip().splitlines()[-12:])
            raise RuntimeError(f"{function} {options}: exit status {done.returncode}\n{tail}")
        found = json.loads(result.read_text(encoding="utf-8"))
    return {**found, "process_s": time.perf_counter() - start}


def _serve(function: str, options: dict, folder: Path) -> None:
    module, _, name = function.partition(":")
    work = folder / "work"
    work.mkdir()
    found = getattr(importlib.import_module(f"benchmarks.bench.{module}"), name)(work, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    (folder / "result.json").write_text(json.dumps({"peak_mb": peak, **found}), encoding="utf-8")


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
