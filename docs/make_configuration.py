"""Write the tables of docs/configuration.md from conf/ (defaults, meanings) and the settings' dataclasses (what a value must be).

python docs/make_configuration.py     (make docs)
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from e5ft.app.settings.build import SCRIPTS  # noqa: E402
from e5ft.app.settings.training import TrainingSettings  # noqa: E402
from e5ft.data.settings import DataSettings, Mix  # noqa: E402
from e5ft.modeling.settings import LoraSettings  # noqa: E402
from e5ft.retrieval.settings import MiningSettings  # noqa: E402
from e5ft.settings import hints, nested_settings, words  # noqa: E402
from e5ft.training.schedule import number_of_epochs, queries_per_step  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"
_BLOCK = re.compile(r"(<!-- table: (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)
_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w@]+):(?P<value>(?: +(?:\"[^\"]*\"|[^#\s\"][^#]*?))?)\s*(?:# (?P<comment>.*))?$")
_AUTO = re.compile(r"(<!-- auto: ([\d ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOT_FIELDS = ("defaults", "hydra", "_target_")


def fields_of(file: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield (field, default, meaning) of every leaf of a YAML file that has a comment or a value.

    Args:
        file: below conf/.
        prefix: the group in the configuration; empty for entry files.
    """
    stack: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        indent, name = len(match["indent"]), match["name"]
        stack = [entry for entry in stack if entry[0] < indent]
        path = ".".join([*([prefix] if prefix else []), *(entry[1] for entry in stack), name])
        skipped = [*(entry[1] for entry in stack), name]
        if any(part in _NOT_FIELDS for part in skipped):
            stack.append((indent, name))
            continue
        value, comment = match["value"].strip(), match["comment"] or ""
        if not value:
            stack.append((indent, name))
        if value or comment:
            yield path, value, comment


def must_be(field: str) -> str:
    """What a field's value must be, in words; empty where the class of a loss or optimizer decides."""
    parts = field.split(".")
    if parts[:2] == ["model", "lora"]:
        kind, parts = LoraSettings, parts[2:]
    elif parts[0] == "training":
        kind, parts = TrainingSettings, parts[1:]
    elif parts[:2] == ["data", "mix"]:
        kind, parts = Mix, parts[2:]
    elif parts[0] == "data":
        kind, parts = DataSettings, parts[1:]
    else:
        kind = next((kind for kind in (*SCRIPTS.values(), MiningSettings) if parts[0] in hints(kind)), None)
    for number, part in enumerate(parts):
        annotation = hints(kind).get(part) if kind is not None else None
        if annotation is None:
            return ""
        if number == len(parts) - 1:
            return "" if nested_settings(annotation) else words(annotation)
        kind = nested_settings(annotation)
    return ""


def table(file: Path, prefix: str) -> str:
    """The table of one YAML file."""
    rows = ["| field | default | must be | meaning |", "|---|---|---|---|"]
    for field, default, meaning in fields_of(file, prefix):
        shown = f"`{default}`" if default else ""
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{field}`", shown, must_be(field), meaning)) + " |")
    return "\n".join(rows) + "\n"


def auto_table(numbers: list[int]) -> str:
    """What `auto` makes of numbers of rows."""
    rows = ["| training rows | queries a step | epochs | steps |", "|---:|---:|---:|---:|"]
    for number in numbers:
        queries, epochs = queries_per_step(number), number_of_epochs(number)
        rows.append(f"| {number:,} | {queries} | {epochs} | {number // queries * epochs:,} |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with every table between its markers written again."""
    text = _AUTO.sub(lambda m: f"{m[1]}{auto_table(list(map(int, m[2].split())))}{m[3]}", text)
    return _BLOCK.sub(lambda m: f"{m[1]}{table(ROOT / 'conf' / m[2], m[3] or '')}{m[4]}", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
