"""A module's tests in a fork of a process that is warm (third-party imports done, none of e5ft), on a copy of the tree."""

import dataclasses
import gc
import hashlib
import importlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.forking import ENVIRONMENT, in_children
from tests.mutants.operators import Mutant

IMPORTED = (
    *("torch", "transformers", "datasets", "scipy.stats", "sklearn", "hydra", "hypothesis.strategies", "pytest", "evaluate"),
    *("transformers.trainer", "transformers.models.bert", "transformers.models.xlm_roberta", "sentence_transformers"),
)
OWN = ("e5ft", "tests")
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "outputs", "multirun", "cache", "wandb", "dist", "build")


@dataclasses.dataclass(frozen=True)
class Run:
    """What is to be run.

    Attributes:
        root: of the tree, which stays as it is.
        folder: takes a copy of it for each worker.
        tests: files, relative to the root.
        mutant: None: the tree as it is.
        seconds: after these the tests are ended.
    """

    root: Path
    folder: Path
    tests: tuple[str, ...]
    mutant: Mutant | None = None
    seconds: float = 600


def warm_up() -> None:
    """Import what every run needs. No thread may start here: a fork has only the one that forked."""
    os.environ |= {**ENVIRONMENT, "MKL_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a mutant of the same length and second would pass for what is cached
    for name in IMPORTED:
        importlib.import_module(name)


def run(what: Run) -> tuple[int | None, float, str]:
    """Run tests in a child of this process; returns its exit status (None: it hung), seconds, and the test that failed."""
    copy = what.folder / str(os.getpid())
    if not copy.exists():
        shutil.copytree(what.root, copy, ignore=NOT_COPIED)
    changed = what.mutant and copy / what.mutant.file
    source, start = changed and changed.read_text(encoding="utf-8"), time.monotonic()
    try:
        if changed:
            changed.write_text(what.mutant.apply(source), encoding="utf-8")
        output = what.folder / f"{copy.name}.txt"
        [ended] = in_children({output: lambda: _run_tests(copy, what.tests)}, what.seconds)
    finally:
        if changed:
            changed.write_text(source, encoding="utf-8")
    said = [line for line in ended.output.splitlines() if line.startswith(("FAILED ", "ERROR "))] or ended.output.splitlines()[
        -1:
    ]
    by = "hung" if ended.code is None else said[0].partition(" - ")[0] if said and ended.code else ""
    return ended.code, time.monotonic() - start, by


def _run_tests(copy: Path, tests: Sequence[str]) -> int:
    import hypothesis
    import pytest

    gc.freeze()  # pytest collects garbage, and there are millions of objects that are none
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("mutants")
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={copy}-tmp", f"--rootdir={copy}", *tests]))


def digest(root: Path, mutant: Mutant, tests: Sequence[str]) -> str:
    """Of all that decides what comes of a mutant: itself, its module and its tests."""
    texts = [str(dataclasses.replace(mutant, equivalent="")).encode(), str(mutant.occurrence).encode()]
    texts += [(root / file).read_bytes() for file in (mutant.file, *tests)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()
