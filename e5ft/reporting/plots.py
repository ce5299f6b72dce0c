"""Plots as SVG text for a page: letters stay letters, lines and letters take the page's colour, in the light and in the dark."""

import hashlib
import logging
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from e5ft.reporting.html import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3f7fd6", "#d9722b", "#2f9e62", "#a368d0", "#c9a227", "#d6537f")  # each reads on white and on near black
SIZE = (4.2, 2.6)  # inches
FONTS = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "DejaVu Sans")
_INK = "#010203"  # stands for the page's colour of letters until the SVG is written
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_KEPT = {
    *("fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-dashoffset"),
    *("stroke-linejoin", "stroke-linecap", "opacity", "text-anchor", "font-size", "font-weight"),
}


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    *,
    references: Mapping[str, float] | None = None,
    mark: tuple[float, str] | None = None,
    log: bool = False,
    bottom: float | None = None,
    top: float | None = None,
) -> str:
    """Curves.

    Args:
        series: label -> (x, y), each of at least one point; one curve alone needs no legend.
        x, y: names of the axes.
        references: label -> a level, drawn across as a broken line.
        mark: (x, label) of one place, drawn as an upright line.
        log: whether y is on a logarithmic scale.
        bottom, top: where the upright axis ends; None: where the values do.
    """
    figure, axes = canvas()
    for (label, (places, values)), colour in zip(series.items(), _colours(len(series)), strict=True):
        axes.plot(
            places, values, color=colour, label=label, linewidth=1.6, marker="o" if len(places) < 30 else None, markersize=3
        )
    styles = ("--", ":", "-.")
    for number, (label, level) in enumerate((references or {}).items()):
        axes.axhline(level, color=_INK, linestyle=styles[number % len(styles)], linewidth=1.2, label=f"{label} {_short(level)}")
    if mark is not None:
        axes.axvline(mark[0], color=_INK, linewidth=0.8, alpha=0.6, label=mark[1])
    if all(float(place).is_integer() for places, _ in series.values() for place in places):
        axes.xaxis.get_major_locator().set_params(integer=True)  # half a step is none
    if log:
        axes.set_yscale("log")
    if (bottom, top) != (None, None):
        axes.set_ylim(bottom, top)
    return _finished(figure, axes, x, y, legend=len(series) + len(references or {}) + (mark is not None) > 1)


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], x: str, y: str, *, top: float | None = None) -> str:
    """Groups of upright bars with their values above them.

    Args:
        labels: of the groups.
        series: label -> a value for each group.
        x, y: names of the axes.
        top: where the upright axis ends; None: where the values do.
    """
    figure, axes = canvas()
    width = 0.8 / max(len(series), 1)
    for number, ((label, values), colour) in enumerate(zip(series.items(), _colours(len(series)), strict=True)):
        places = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * width
        drawn = axes.bar(places, values, width * 0.94, color=colour, label=label)
        if len(labels) * len(series) <= 16:
            axes.bar_label(drawn, [f"{value:.2f}".removeprefix("0") for value in values], fontsize=7, color=_INK)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(0, top)
    return _finished(figure, axes, x, y, legend=len(series) > 1)


def histogram(
    values: Mapping[str, Sequence[float]],
    x: str,
    y: str,
    *,
    bins: int | Sequence[float] = 40,
    mark: tuple[float, str] | None = None,
    shares: bool = True,
) -> str:
    """Histograms over the same bins, one behind the other.

    Args:
        values: label -> its values, of any number; without any there are empty axes.
        x, y: names of the axes.
        bins: how many, from the least value to the largest, or their edges.
        mark: (x, label) of one place within the bins, drawn as an upright line.
        shares: whether each label's bars sum to 1; else they are counts.
    """
    figure, axes = canvas()
    joined = np.concatenate([np.asarray(list(each), float) for each in values.values()] or [np.zeros(0)])
    edges = np.histogram_bin_edges(joined, bins) if len(joined) else np.linspace(0, 1, 2)
    for (label, each), colour in zip(values.items(), _colours(len(values)), strict=True):
        counts = np.histogram(np.asarray(list(each), float), edges)[0]
        heights = counts / max(counts.sum(), 1) if shares else counts
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(heights, edges, color=colour, linewidth=1.4, label=f"{label} ({len(each):,})" if len(values) > 1 else label)
    axes.set_xlim(edges[0], edges[-1])
    if mark is not None:
        axes.axvline(mark[0], color=_INK, linewidth=1.2, linestyle="--", label=mark[1])
    return _finished(figure, axes, x, y, legend=len(values) + (mark is not None) > 1)


def intervals(rows: Sequence[tuple[str, float, float, float]], x: str, *, zero: float | None = 0.0) -> str:
    """Means with their intervals, one a line from the top.

    Args:
        rows: (label, mean, low, high).
        x: name of the axis.
        zero: where an upright line shows that there is no difference; None: there is none.
    """
    figure, axes = canvas(SIZE[0], 0.9 + 0.27 * len(rows))
    places = np.arange(len(rows))[::-1]
    for place, (_, mean, low, high) in zip(places, rows, strict=True):
        colour = COLOURS[0] if zero is None or low <= zero <= high else COLOURS[2] if mean > zero else COLOURS[1]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([mean], [place], "o", color=colour, markersize=5)
    if zero is not None:
        axes.axvline(zero, color=_INK, linewidth=0.8, alpha=0.6)
    axes.set_yticks(places, [label for label, *_ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    return _finished(figure, axes, x, "", legend=False)


def canvas(width: float = SIZE[0], height: float = SIZE[1]) -> "tuple[Figure, Axes]":
    """An empty figure and its axes, for plots that are not here; `svg` writes it. Letters and axes are in `ink()`.

    Args:
        width, height: in inches; a page shows 4.2 inches as about 520 pixels.
    """
    # Without pyplot, which looks for a window system and keeps every figure in a global list.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(which="both", colors=_INK, labelsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_color(_INK)
    axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def ink() -> str:
    """The colour, for matplotlib, that becomes the page's colour of letters."""
    return _INK


def svg(figure: "Figure") -> str:
    """A figure as an `<svg>` element: without styles and scripts, ids that no other figure has, the page's colours and fonts."""
    import matplotlib

    written = BytesIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "e5ft", "font.family": list(FONTS), "axes.unicode_minus": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that this machine's fonts lack: the reader's have it
        logger = logging.getLogger("matplotlib.font_manager")
        level = logger.level
        logger.setLevel(logging.ERROR)  # of each font of the list that is not here
        try:
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        finally:
            logger.setLevel(level)
    return _plain(written.getvalue().decode())


def _finished(figure: "Figure", axes: "Axes", x: str, y: str, legend: bool) -> str:
    for name, put in ((x, axes.set_xlabel), (y, axes.set_ylabel)):
        put(name, color=_INK, fontsize=8, parse_math=False)
    texts = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    if legend:  # above the axes, a label a line: how wide letters are is only known where they are read
        drawn = axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, labelcolor=_INK, borderaxespad=0.1, labelspacing=0.2
        )  # fmt: skip
        drawn.set_in_layout(False)
        room = (0.18 * len(drawn.get_texts()) + 0.06) / figure.get_figheight()
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - room))
        texts += drawn.get_texts()
    for text in texts:
        text.set_parse_math(False)
        text.set_text(cut(text.get_text(), 60))
    return svg(figure)


def _plain(text: str) -> str:
    """The SVG's styles as attributes, which a page's policy lets through, and ids of its own."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(text)
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for name, value in _styles(element.attrib.pop("style", "")):
            element.set(name, value)
        if element.get("id") is not None:
            if element.get("id") in used:
                element.set("id", prefix + element.get("id"))
            else:
                del element.attrib["id"]
        if _LINK in element.attrib:
            element.set("href", "#" + prefix + element.attrib.pop(_LINK)[1:])
        for name, value in element.attrib.items():
            element.set(name, value.replace("url(#", f"url(#{prefix}").replace(_INK, "currentColor"))
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _styles(style: str) -> list[tuple[str, str]]:
    """A style's declarations that are attributes, too; of `font` the size."""
    found = []
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            found += [("font-size", size[1])] if size else []
        elif name in _KEPT:
            found.append((name, value))
    return found


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if abs(value) < 10 else f"{value:,.0f}"
