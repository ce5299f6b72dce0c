"""The sums behind log lines. A checkpoint holds them, so that a resumed run logs what the uninterrupted one would have logged."""

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
        sums: further sums since then, by name: (sum, number of steps).
        skipped: number of all steps that the fp16 scaler skipped.
        skipped_in_a_row: number of them since the last step that was taken.
        without_negatives: number of all steps (micro-batches where each is alone) without a negative, on every process.
    """

    logged: int = 0
    loss: float = 0.0
    sums: dict[str, tuple[torch.Tensor | float, float]] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0
    without_negatives: int = 0

    def add(self, name: str, value: torch.Tensor | float) -> None:
        """Add a step's value."""
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = total + value, count + 1

    def means(self) -> dict[str, float]:
        """Return the mean of every sum since the last log line, and start the sums again."""
        sums, self.sums = self.sums, {}
        return {name: float(total) / count for name, (total, count) in sums.items()}

    def step_done(self, skipped: bool) -> int:
        """Count a step that fp16's scaler took or skipped; return how many were skipped in a row."""
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        return self.skipped_in_a_row

    def save(self, folder: Path, rank: int) -> None:
        """Write this process's sums into a checkpoint."""
        sums = {name: [float(total), count] for name, (total, count) in self.sums.items()}
        write_json(folder / f"progress_{rank}.json", {**dataclasses.asdict(self), "sums": sums})

    @classmethod
    def load(cls, folder: Path, rank: int) -> "LogSums":
        """Read what `save` wrote for this process.

        If the number of processes has changed, each process takes the mean of all: log lines are means over processes.
        """
        parts = [read_json(path) for path in sorted(folder.glob("progress_*.json"))]
        if len(parts) == distributed.world_size():
            parts = [read_json(folder / f"progress_{rank}.json")]
        for part in parts:
            part["sums"] = part.pop("noted", part.get("sums"))  # the former name of the key
        means = {}
        for name in dict.fromkeys(name for part in parts for name in part["sums"]):  # without hard negatives a process lacks some
            known = [part["sums"][name] for part in parts if name in part["sums"]]
            means[name] = tuple(sum(column) / len(known) for column in zip(*known, strict=True))
        return cls(**{**parts[0], "loss": sum(part["loss"] for part in parts) / len(parts), "sums": means})
