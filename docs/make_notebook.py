"""Write docs/notebook.ipynb from examples/notebook.py: its cells, and what they print when they are run in an empty folder.

python docs/make_notebook.py
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from e5ft.app.runs.script import COMMANDS  # noqa: E402

SOURCE, PAGE = ROOT / "examples" / "notebook.py", ROOT / "docs" / "notebook.ipynb"
_CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
_SHELL = re.compile(r'^shell\(f?"(.*)"\)$', re.MULTILINE)
_HELPER = re.compile(r"\n*^def shell\(.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_FIRST = {"import subprocess\n": ""}  # of the helper, which a notebook's `!` makes needless


def cells_of(source: str) -> list[tuple[str, str]]:
    """The cells of a script in percent format.

    Args:
        source: the script; what stands before its first cell is no part of the notebook.

    Returns:
        (kind, text), "markdown" or "code", without cells of commands that are not there.
    """
    _, *parts = _CELL.split(source)
    found = []
    for marker, text in zip(parts[::2], parts[1::2], strict=True):
        verb = re.search(r"verb=(\w+)", marker)
        if verb is not None and verb[1] not in COMMANDS:
            continue
        if "[markdown]" in marker:
            found.append(("markdown", re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE)))
        else:
            found.append(("code", text.strip()))
    return found


def shown(code: str) -> str:
    """A cell's code as the notebook has it: shell lines begin with an exclamation mark."""
    code = _HELPER.sub("", code)
    for part, instead in _FIRST.items():
        code = code.replace(part, instead)
    return re.sub(r"^# !", "!", _SHELL.sub(r"!\1", code), flags=re.MULTILINE).strip()


def outputs_of(source: str, folder: Path) -> list[str]:
    """What each code cell prints, when all are run one after another in a folder, in this process."""
    names, printed, before = {"__name__": "__notebook__"}, [], Path.cwd()
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT) if path is None else f"{ROOT}{os.pathsep}{path}"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.chdir(folder)
    try:
        for kind, text in cells_of(source):
            if kind == "code":
                with contextlib.redirect_stdout(io.StringIO()) as stream:
                    exec(compile(text, str(SOURCE), "exec"), names)
                printed.append(stream.getvalue())
    finally:
        os.chdir(before)
    return printed


def notebook(source: str, outputs: list[str] | None = None) -> dict:
    """The notebook, in format 4.5.

    Args:
        source: the script.
        outputs: of the code cells, in their order; None: cells without outputs.
    """
    cells, left = [], list(outputs or [])
    for number, (kind, text) in enumerate(cells_of(source)):
        cell = {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": _lines(shown(text) if kind == "code" else text),
        }
        if kind == "code":
            text = left.pop(0) if left else ""
            stream = [{"name": "stdout", "output_type": "stream", "text": _lines(text)}] if text else []
            cell |= {"execution_count": None, "outputs": stream}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def without_outputs(page: Mapping) -> dict:
    """The notebook without what its cells printed."""
    return {**page, "cells": [{**cell, "outputs": []} if "outputs" in cell else cell for cell in page["cells"]]}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    SCRIPT = SOURCE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        made = notebook(SCRIPT, outputs_of(SCRIPT, Path(temporary)))
    PAGE.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
