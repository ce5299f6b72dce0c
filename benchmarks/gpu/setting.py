"""What every section is given, and the helpers that several use."""

import dataclasses
import functools
import gc
import resource
from pathlib import Path

import torch
import yaml

from benchmarks.bench.models import LIMITS
from benchmarks.bench.texts import ROOT, TOKENIZER
from benchmarks.bench.training import COMMON, our_trainer, prepare
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how much.

    Attributes:
        device: "cuda", or "cpu", on which every section runs too, to be tested.
        size: "full", "quick" (minutes) or "tiny" (the mini model, seconds).
        folder: for weights and rows, which sections share.
    """

    device: str
    size: str
    folder: Path

    def pick(self, full, quick, tiny):
        """The value for this size."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.size]

    @property
    def half(self) -> torch.dtype:
        """The half precision to train in: bfloat16 where the device has it."""
        old = self.device == "cuda" and torch.cuda.get_device_capability()[0] < 8
        return torch.float16 if old else torch.bfloat16

    def encoder(self, shape: str, *, padded: bool) -> Encoder:
        """Random weights of a shape in conf/model, the same ones either way, on the device and without dropout."""
        values = yaml.safe_load((ROOT / f"conf/model/{shape}.yaml").read_text(encoding="utf-8"))["shape"]
        source = ModelSource(
            init="random", shape=values, tokenizer=str(TOKENIZER), text=LIMITS, seed=7, dropout=0.0, attention_dropout=0.0,
            attention="padded" if padded else "unpadded",
        )  # fmt: skip
        return load_encoder(source, self.device)

    @functools.cache  # noqa: B019 - a process has one
    def prepared(self, shape: str, data: str, steps: int, rows: int) -> tuple[Path, dict]:
        """Weights and rows on disk, made once, and what `prepare` says of them."""
        place = self.folder / f"{shape}-{data}-{steps}-{rows}"
        return place, prepare(place, target=str(place), shape=shape, data=data, steps=steps, rows=rows)

    def trainer(self, place: Path, folder: str, rows: int, k: int = 1, steps: int = 1, dropout: float = 0.1, **more):
        """Our trainer over what `prepared` wrote: k micro-batches of `rows` rows a step."""
        cut = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": k, "max_steps": steps}
        common = {**COMMON, **cut, "output_dir": str(self.folder / folder), "use_cpu": self.device == "cpu", **more}
        return our_trainer(place, common, [], dropouts=(dropout, dropout))

    def autocast(self, dtype: torch.dtype) -> torch.autocast:
        """The context in which a pass computes in this precision."""
        half = dtype is not torch.float32
        return torch.autocast(self.device, dtype=dtype if half else self.half, enabled=half)

    def peak_bytes(self) -> int:
        """The most bytes held: of tensors on a GPU since `reset_peak`, of the process on a CPU."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def held_bytes(self) -> int:
        """The bytes of a GPU's tensors; 0 on a CPU."""
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0

    def reset_peak(self) -> None:
        """Begin to count the peak anew, where that can be done."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def short(dtype: torch.dtype) -> str:
    """Its name in the tables."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Length of the difference over the length of the second; NaN and infinity stay what they are."""
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm())


def gradient_of(model: torch.nn.Module) -> torch.Tensor:
    """All gradients in one row, which are then removed."""
    flat = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return flat
