"""Tokens a second, share of the card's own matrix rate, and memory of a training step, beside sentence-transformers."""

import statistics
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
    section, ours = f"Training, {shape}, {short(setting.half)}", None
    for name, kernel in _KERNELS.items():
        if kernel == FLASH and (find_spec("flash_attn") is None or setting.device == "cpu"):
            yield f"{section}: {name}: not run: pip install flash-attn"
            continue
        try:
            found = _largest(setting, place, name, kernel, steps, made["rows"])
        except Exception as error:  # one contender's failure is a row; the others go on
            yield f"FAILED {section}: {name}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
            continue
        ours = ours or found
        case, beside = f"{name}, {found['rows']} rows a step", name != OURS and ours["name"] == OURS
        against = {"against": OURS, "theirs": tuple(ours["tokens"])} if beside else {}
        yield Line(
            section, f"{case}: tokens", "tokens/s", tuple(found["tokens"]), kind="cost" if beside else "at_least", **against
        )
        yield Line(section, f"{case}: share of the card's rate", "", tuple(f / rate for f in found["flops"]), kind="at_least")
        peaks = {"against": OURS, "theirs": (ours["peak"],)} if beside and found["rows"] == ours["rows"] else {}
        yield Line(section, f"{case}: peak memory", "GiB", (found["peak"],), kind="cost" if peaks else "at_most", **peaks)


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
    seconds = clock["wall"]
    tokens = [cost["tokens"] / s for cost, s in zip(costs, seconds, strict=True)]
    flops = [cost["flops"] / s for cost, s in zip(costs, seconds, strict=True)]
    middle = statistics.median(clock["losses"])
    if not middle < float("inf"):
        raise RuntimeError(f"its loss is {middle}")
    return {"name": name, "rows": rows, "tokens": tokens, "flops": flops, "peak": setting.peak_bytes() / 2**30}
