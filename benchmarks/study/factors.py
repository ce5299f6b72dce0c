"""What is tried, in order: each factor's values as settings of train.py, and the recipe that the study begins with."""

import dataclasses

from e5ft.files import digest_of

MICRO_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        rows: how many of the target's training rows.
        mined: which list of hard negatives the rows come with: none, bm25 or dense.
        queries: of a step.
        epochs, lr, temperature: as their names say.
        more: further settings of train.py.
        seed: of order and dropout.
    """

    rows: int = 1024
    mined: str = "none"
    queries: int = 32
    epochs: int = 1
    lr: float = 3e-5
    temperature: float = 0.01
    more: tuple[str, ...] = ()
    seed: int = 1

    @property
    def name(self) -> str:
        """Every field, so that equal recipes are trained once."""
        more = "".join(f",{setting.replace('/', '_')}" for setting in self.more)
        return (
            f"rows={self.rows},{self.mined},step={self.queries},epochs={self.epochs},lr={self.lr:g},"
            f"t={self.temperature:g}{more},seed={self.seed}"
        )

    @property
    def run(self) -> str:
        """The name as a run's: no more than 100 letters, digits, - and _."""
        name = self.name.replace("=", "-").replace(",", "_")
        return name if len(name) <= 100 else f"{name[:80]}_{digest_of(name)[:16]}"

    def settings(self) -> list[str]:
        """The overrides of train.py, but for files and the model."""
        size = min(MICRO_BATCH, self.queries)
        return [
            f"training.per_device_train_batch_size={size}",
            f"training.gradient_accumulation_steps={self.queries // size}",
            f"training.num_train_epochs={self.epochs}",
            f"optimizer.lr={self.lr}",
            "data.negatives_per_query=1",
            f"seed={self.seed}",
            "keep.weight=0",
            *self.more,
            f"loss.temperature={self.temperature}",
        ]


# factor -> values; the first is the present one. What the dev queries like best is kept for the factors after it.
FACTORS: dict[str, list[dict]] = {
    "queries": [{"queries": n} for n in (32, 64, 128, 256)],
    "lr": [{"lr": rate} for rate in (3e-5, 1e-5, 6e-5, 1e-4)],
    "temperature": [{"temperature": t} for t in (0.01, 0.02, 0.05)],
    "epochs": [{"epochs": n} for n in (1, 2)],
    "negatives": [{"mined": kind} for kind in ("none", "bm25", "dense")],
    "base": [{"more": more} for more in ((), ("loss.false_negatives=guide",), ("keep.weight=1",), ("keep.weight=2",))],
}
CHOSEN = Recipe(lr=6e-5, more=("keep.weight=2",))  # by the factors above: conf/recipe/e5_small.yaml
SIZES = (256, 4096)
ALPHAS = (0.75, 0.5)
FINAL_SEEDS = (1, 2, 3)
