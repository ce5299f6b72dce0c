"""Parallel coordinates: an upright axis a setting, a line a run from value to value to its score."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from e5ft.reporting.effects import as_number
from e5ft.reporting.html import cut
from e5ft.reporting.plots import COLOURS, canvas, ink, svg

FEW = 8  # different values of a setting that stand at equal distances; of more the numbers say where


def parallel(settings: Mapping[str, Sequence[str]], score_name: str, scores: Sequence[float]) -> str:
    """The picture as SVG text.

    Args:
        settings: setting -> its value in each run.
        score_name: of the last axis.
        scores: of the runs, the best one's first; two at least.
    """
    axes_of = [(name, *_places(values)) for name, values in settings.items()]
    axes_of.append((score_name, *_scaled(scores)))
    figure, axes = canvas(max(4.8, 1.2 * len(axes_of)), 3.4)
    axes.set_axis_off()
    lines = np.array([places for _, places, _ in axes_of])  # (axes, runs)
    order = np.argsort(scores)
    for rank, run in enumerate(order):
        is_best = run == 0
        alpha = 1.0 if is_best else 0.25 + 0.6 * rank / max(len(order) - 1, 1)
        colour, width = (COLOURS[1], 2.6) if is_best else (COLOURS[0], 1.4)
        axes.plot(range(len(axes_of)), lines[:, run], color=colour, alpha=alpha, linewidth=width, zorder=3 if is_best else 2)
    for place, (name, _, ticks) in enumerate(axes_of):
        axes.vlines(place, -0.02, 1.02, color=ink(), linewidth=0.9, alpha=0.6)
        axes.text(
            place, 1.1, cut(name.rpartition(".")[2], 22), ha="center", va="bottom", fontsize=8, color=ink(), parse_math=False
        )
        last = place == len(axes_of) - 1
        for height, label in ticks:
            side = {"ha": "right", "x": place - 0.04} if not last else {"ha": "left", "x": place + 0.04}
            axes.text(s=cut(label, 18), y=height, va="center", fontsize=8, color=ink(), parse_math=False, **side)
    axes.set_xlim(-0.6, len(axes_of) - 0.5)
    axes.set_ylim(-0.06, 1.2)
    return svg(figure)


def _places(values: Sequence[str]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where on its axis, from 0 to 1, each run's value stands, and the axis's labels with their places."""
    numbers = [as_number(value) for value in values]
    different = list(dict.fromkeys(values))
    if None in numbers or len(different) <= FEW:
        ordered = different if None in numbers else sorted(different, key=float)
        step = 1 / max(len(ordered) - 1, 1)
        heights = {value: number * step for number, value in enumerate(ordered)}
        shown = ordered[:: max(1, math.ceil(len(ordered) / 20))]
        return [heights[value] for value in values], [(heights[value], value) for value in shown]
    return _scaled(numbers, log=min(numbers) > 0 and max(numbers) / min(numbers) > 20)


def _scaled(values: Sequence[float], log: bool = False) -> tuple[list[float], list[tuple[float, str]]]:
    """The same of numbers: least and largest stand at the ends."""
    scaled = np.log(values) if log else np.asarray(values, float)
    low, high = float(scaled.min()), float(scaled.max())
    heights = (scaled - low) / (high - low) if high > low else np.full(len(scaled), 0.5)
    ends = [(0.0, min(values)), (1.0, max(values))] if high > low else [(0.5, values[0])]
    return heights.tolist(), [(height, f"{value:.3g}") for height, value in ends]
