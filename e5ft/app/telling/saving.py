"""How rows are read, as it was given on a command line, as a YAML to paste: the other scripts need no retyping then."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e5ft.app.settings.build import shipped
from e5ft.data.shards import stem

_WORTH = ("columns", "format", "encoding", "on_bad_row")


def saved_choices(overrides: Sequence[str], data: Mapping[str, Any]) -> str | None:
    """The lines that keep the `data` group of a command line in conf/data/NAME.yaml; None where there is little to keep.

    Args:
        overrides: of the command line, as Hydra composed it.
        data: the group's values.
    """
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    fields = [field.split(".")[1:] for field in given if field.startswith("data.")]
    if data.get("mix") is not None or not any(field[0] in _WORTH for field in fields):
        return None
    base = next((o.removeprefix("data=").strip("'\"") for o in overrides if o.startswith("data=")), "default")
    kept: dict = {"defaults": [base, "_self_"]}
    for *groups, field in fields:
        values, place = data, kept
        for group in groups:
            values, place = values[group], place.setdefault(group, {})
        place[field] = values[field]
    name = re.sub(r"\W+", "_", stem(data["train_file"] or ""), flags=re.ASCII).strip("_")
    name = name if name[:1].isalpha() else "rows"  # Hydra would read 2024 as a number
    while any((conf / f"data/{name}.yaml").exists() for conf in (Path("conf"), shipped("conf"))):
        name += "_2"
    flag = "" if Path("conf").resolve() == shipped("conf").resolve() else " --config-dir=conf"
    text = "\n".join(f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in kept.items())  # JSON is YAML
    return (
        f"\nkeep how the rows are read: then data={name}{flag} says it to train, mine and eval"
        f"\nmkdir -p conf/data && cat > conf/data/{name}.yaml <<'END'\n{text}\nEND"
    )
