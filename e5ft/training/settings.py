"""Settings of a step and of what wraps a loss."""

import dataclasses
from typing import ClassVar, Literal

from e5ft.settings import FilePath, Settings, number, whole

# float32 can multiply a cosine by them and divide it.
Scale = number(least=1e-6, most=1e6)
Weight = number(least=0, most=1e6)


@dataclasses.dataclass(frozen=True)
class StepSettings(Settings):
    """What a query meets in a step.

    Attributes:
        negatives: "step": the passages of all micro-batches and processes; "micro_batch": of its own micro-batch alone.
        positives: of a row with several documents, "sample": one drawn by epoch; "all": every one, each against the
            negatives alone.
        guide: a model whose cosines tell false negatives or teach; None: the model before training.
    """

    PATH: ClassVar[str] = "step"
    negatives: Literal["step", "micro_batch"]
    positives: Literal["sample", "all"]
    guide: FilePath | None


@dataclasses.dataclass(frozen=True)
class MatryoshkaSettings(Settings):
    """The loss over leading dimensions of the vectors, summed.

    Attributes:
        dimensions: numbers of leading dimensions; None: whole vectors only.
        weights: a factor for each of them; None: 1 each.
    """

    PATH: ClassVar[str] = "matryoshka"
    dimensions: tuple[whole(1), ...] | None
    weights: tuple[Weight, ...] | None

    def check(self) -> None:
        """Refuse weights of nothing."""
        if self.weights is not None and self.dimensions is None:
            self.refuse("weights", "must be null without matryoshka.dimensions=[384,128,64]")


@dataclasses.dataclass(frozen=True)
class KeepSettings(Settings):
    """Holding on to what the model before training knew: a pull to how it saw the step, and a guard at the end.

    Attributes:
        weight: of the KL divergence beside the loss; 0: none.
        temperature: of both distributions; None: the loss's.
        guard: end on a merger with the base where a keep set refutes the trained weights.
    """

    PATH: ClassVar[str] = "keep"
    weight: Weight
    temperature: Scale | None
    guard: bool = True

    def check(self) -> None:
        """Refuse a temperature of nothing."""
        if self.temperature is not None and not self.weight:
            self.refuse("temperature", "must be null without keep.weight above 0")
