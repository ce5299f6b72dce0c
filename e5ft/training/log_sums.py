"""What log lines add up over steps: kept with a checkpoint, so that a resumed run logs what the uninterrupted one would have."""

import dataclasses
from pathlib import Path

import torch

from e5ft import distributed
from e5ft.files import read_json, write_json


@dataclasses.dataclass
class LogSums:
    """Sums of one process.

    Attributes:
        logged: the step of the last log line.
        loss: sum of the losses since then.
        noted: further sums since then, by name: (sum, number of steps).
        skipped: steps that the fp16 scaler skipped, in all.
        skipped_in_a_row: of them, those without a good step since.
    """

    logged: int = 0
    loss: float = 0.0
    noted: dict[str, tuple[torch.Tensor | float, int]] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0

    def note(self, name: str, value: torch.Tensor | float) -> None:
        """Add a step's value."""
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = total + value, count + 1

    def means(self) -> dict[str, float]:
        """The mean of every sum since the last log line; they begin anew."""
        found = {name: float(total) / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return found

    def step_done(self, skipped: bool) -> int:
        """Count a step that fp16's scaler took or skipped; returns how many were skipped in a row."""
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        return self.skipped_in_a_row

    def save(self, folder: Path, rank: int) -> None:
        """Write this process's part into a checkpoint."""
        noted = {name: [float(total), count] for name, (total, count) in self.sums.items()}
        write_json(folder / f"progress_{rank}.json", {**dataclasses.asdict(self), "noted": noted})

    @classmethod
    def load(cls, folder: Path, rank: int) -> "LogSums":
        """What `save` wrote for this process.

        With another number of processes than then, each takes the mean of all, for log lines are means over processes.
        """
        parts = [read_json(path) for path in sorted(folder.glob("progress_*.json"))]
        if len(parts) == distributed.world_size():
            parts = [read_json(folder / f"progress_{rank}.json")]
        first = parts[0]
        noted = {
            name: (sum(part["noted"][name][0] for part in parts) / len(parts), count)
            for name, (_, count) in first["noted"].items()
        }
        return cls(**{**first, "loss": sum(part["loss"] for part in parts) / len(parts), "noted": noted})
