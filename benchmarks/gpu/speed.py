"""Tokens a second, share of the card's own matrix rate, and memory of a training step, beside sentence-transformers."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.bench.flops import matmul_rate
from benchmarks.bench.lines import Line
from benchmarks.bench.training import OURS, PLAIN, contender, costs_of_steps
from benchmarks.bench.turns import WARMUP
from benchmarks.gpu.setting import Setting, short
from e5ft.training.fitting import out_of_memory

FLASH = "flash_attention_2"
_ROWS = {"e5_small": 64, "e5_base": 32, "e5_large": 16}  # to begin with; halved until a contender's step fits
_KERNELS = {OURS: None, PLAIN: "sdpa", f"{PLAIN}, flash-attention": FLASH}


def speed(setting: Setting, shape: str) -> Iterator[Line | str]:
    """The same rows in both trainers, whole steps with data loading; each contender has as many rows a step as fit, at most `_ROWS`."""
    steps = WARMUP + setting.pick(20, 5, 2)
    shape, data = setting.pick(shape, shape, "mini"), setting.pick("ko-wiki", "ko-wiki", "short")
    place, made = setting.prepared(shape, data, steps, setting.pick(_ROWS.get(shape), _ROWS.get(shape), 4))
    # A product that is large enough for any card: its own best, without a table of names.
    rate = matmul_rate(*setting.pick((8192, 4096), (8192, 4096), (256, 64)), setting.half, 20, setting.device)
    yield Line("The card", f"{short(setting.half)} matrix product", "TFLOP/s", (rate / 1e12,), kind="at_least")
    section, found = f"Training, {shape}, {short(setting.half)}", {}
    for name, kernel in _KERNELS.items():
        if kernel == FLASH and (find_spec("flash_attn") is None or setting.device == "cpu"):
            yield f"{section}, {name}: not run, for want of a GPU and `pip install flash-attn`"
            continue
        try:
            found[name] = _largest(setting, place, name, kernel, steps, made["rows"])
        except Exception as error:  # one contender's failure is a row; the others go on
            yield f"FAILED {section}, {name}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        own, ours = found[name], found.get(OURS)
        case, peak = f"{name}, {own['rows']} rows a step", (own["peak"],)
        yield Line(section, f"{case}: share of the card's rate", "", tuple(f / rate for f in own["flops"]), kind="at_least")
        if name == OURS or ours is None:
            yield Line(section, f"{case}: tokens", "tokens/s", tuple(own["tokens"]), kind="at_least")
            yield Line(section, f"{case}: peak memory", "GiB", peak, kind="at_most")
        else:  # a quotient of ours by theirs, as everywhere
            yield Line(section, "tokens", "tokens/s", tuple(ours["tokens"]), case, tuple(own["tokens"]), kind="cost")
            yield Line(section, "peak memory", "GiB", (ours["peak"],), case, peak, kind="cost")


def _largest(setting: Setting, place: Path, name: str, kernel: str | None, steps: int, rows: int) -> dict:
    """Its figures at the most rows a step that fit."""
    precision = {"bf16": setting.half is torch.bfloat16, "fp16": setting.half is torch.float16}
    while True:
        setting.reset_peak()
        try:
            options = {"rows": rows, "device": setting.device, "kernel": kernel, **precision}
            trainer = OURS if name == OURS else PLAIN
            clock = contender(setting.folder / "speed", target=str(place), name=trainer, steps=steps, **options)
            break
        except Exception as error:  # not kept: its traceback holds the tensors
            if not out_of_memory(error) or rows == 2:
                raise
        rows //= 2
    costs = costs_of_steps(place, steps, rows)[WARMUP:]
    if not math.isfinite(sum(clock["losses"])):
        raise RuntimeError(f"its losses are {clock['losses']}")
    rates = {of: [cost[of] / s for cost, s in zip(costs, clock["wall"], strict=True)] for of in ("tokens", "flops")}
    return {"rows": rows, "peak": setting.peak_bytes() / 2**30, **rates}
