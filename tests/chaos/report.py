"""What a run of hostile inputs found: counts by kind, and the first offenders, kept so that each can be tried again."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

_KEPT = 60  # offenders of one kind
FIELDS = ("tried", "accepted", "refused", "rows_read", "rows_accepted", "rows_rejected", "lost_rows", "tracebacks", "hangs")


@dataclasses.dataclass
class Counts:
    """Of one kind of input. `lost_rows` are records that were neither accepted nor rejected; `tracebacks` count every
    ending that is neither acceptance nor a refusal in words."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    rows_read: int = 0
    rows_accepted: int = 0
    rows_rejected: int = 0
    lost_rows: int = 0
    tracebacks: int = 0
    hangs: int = 0

    def __iadd__(self, other: "Counts") -> "Counts":
        for field in FIELDS:
            setattr(self, field, getattr(self, field) + getattr(other, field))
        return self


@dataclasses.dataclass
class Report:
    """Counts by kind, and a line for each offender kept."""

    folder: Path
    kinds: dict[str, Counts] = dataclasses.field(default_factory=dict)
    offences: list[str] = dataclasses.field(default_factory=list)

    def kind(self, name: str) -> Counts:
        """The counts of a kind."""
        return self.kinds.setdefault(name, Counts())

    def keep(self, kind: str, what: str, detail: str, files: Sequence[Path] = ()) -> None:
        """Save an offender: what went wrong, the message, and the files that did it."""
        number = sum(line.startswith(f"{kind}: ") for line in self.offences)
        if number >= _KEPT:
            return
        place = self.folder / f"{kind.replace('/', '-').replace(' ', '-')}-{number}"
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.is_dir():
                shutil.copytree(file, place / file.name, symlinks=True, dirs_exist_ok=True)
            elif file.exists():
                shutil.copy(file, place / file.name)
        (place / "what.txt").write_text(f"{what}\n{detail}\n", encoding="utf-8", errors="backslashreplace")
        self.offences.append(f"{kind}: {what} ({place})")

    @property
    def total(self) -> Counts:
        """Over all kinds."""
        total = Counts()
        for counts in self.kinds.values():
            total += counts
        return total

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        total = self.total
        return bool(self.offences or total.lost_rows or total.tracebacks or total.hangs)

    def merge(self, other: "Report") -> None:
        """Take in what another run found."""
        for name, counts in other.kinds.items():
            mine = self.kind(name)
            mine += counts
        self.offences += other.offences

    def to_json(self) -> str:
        """For a pipe."""
        kinds = {name: dataclasses.asdict(counts) for name, counts in self.kinds.items()}
        return json.dumps({"kinds": kinds, "offences": self.offences})

    @classmethod
    def from_json(cls, folder: Path, text: str) -> "Report":
        """The inverse of `to_json`."""
        value = json.loads(text)
        return cls(folder, {name: Counts(**counts) for name, counts in value["kinds"].items()}, value["offences"])

    def table(self) -> str:
        """For people: a line a kind, and all together."""
        rows = [["", *(field.replace("_", " ") for field in FIELDS)]]
        for name, counts in [*self.kinds.items(), ("all", self.total)]:
            rows.append([name, *(f"{getattr(counts, field):,}" for field in FIELDS)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for name, *cells in rows:
            lines.append("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]))
        return "\n".join([*lines, *self.offences])
