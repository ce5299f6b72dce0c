"""How rows are read, as it was given on a command line, as a YAML to paste: the other scripts need no retyping then."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e5ft.app.settings.build import shipped
from e5ft.app.telling.report import relative

_WORTH = ("columns", "format", "encoding", "on_bad_row")


def saved_choices(overrides: Sequence[str], data: Mapping[str, Any]) -> str | None:
    """The lines that keep the `data` group of a command line in conf/data/NAME.yaml; None where there is little to keep.

    Args:
        overrides: of the command line, as Hydra composed it.
        data: the group's values.
    """
    fields = [override.lstrip("+").partition("=")[0].split(".") for override in overrides]
    fields = [field[1:] for field in fields if field[0] == "data" and field[1:]]
    if data.get("mix") is not None or not any(field[0] in _WORTH for field in fields):
        return None
    base = next((o.removeprefix("data=").strip("'\"") for o in overrides if o.startswith("data=")), "default")
    kept: dict = {"defaults": [base, "_self_"]}
    for *groups, name in fields:
        values, place = data, kept
        for group in groups:
            values, place = values[group], place.setdefault(group, {})
        place[name] = values[name]
    conf, file = shipped("conf"), data["train_file"]
    in_clone = (conf.parent / "train.py").is_file()
    folder = conf / "data" if in_clone else Path("conf/data")
    stem = Path(file).name.partition(".")[0] if isinstance(file, str) else ""
    stem = re.sub(r"\W+", "_", re.sub(r" \(\d+\)$", "", stem), flags=re.ASCII).strip("_")
    stem = stem if stem[:1].isalpha() else "rows"  # Hydra would read 2024 as a number
    taken = {path.stem for path in (*folder.glob("*.yaml"), *(conf / "data").glob("*.yaml"))}
    name = next(each for each in (stem, *(f"{stem}_{number}" for number in range(2, len(taken) + 3))) if each not in taken)
    make = "" if in_clone else "mkdir -p conf/data && "
    text = "\n".join(f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in kept.items())  # JSON is YAML
    return (
        f"\nkeep how the rows are read: then data={name}{'' if in_clone else ' --config-dir=conf'} says it to train, mine and eval"
        f"\n{make}cat > {shlex.quote(relative(folder / f'{name}.yaml'))} <<'END'\n{text}\nEND"
    )
