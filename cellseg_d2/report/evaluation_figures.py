"""The figures of the page on the quality of results."""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib import patheffects
from matplotlib.figure import Figure

from cellseg_d2.evaluation.coco_matching import RECALLS
from cellseg_d2.evaluation.error_breakdown import KINDS
from cellseg_d2.evaluation.judgement import CellJudgement
from cellseg_d2.evaluation.report_tables import number_text
from cellseg_d2.evaluation.thresholds import precision_curves
from cellseg_d2.export.overlay import PALETTE, class_color, class_hex
from cellseg_d2.report.page import INK, PAGE_STYLE, figure_svg

FIGURE_STYLE = {**PAGE_STYLE, "font.size": 11.5}
"""Larger letters, since a figure is as narrow as the window of a telephone."""

WIDTH = 5.0
"""Of a figure in inches."""


@dataclass(frozen=True)
class CurveKey:
    """An entry of the legend of precision by recall, which is outside of the plot.

    Attributes:
        color: the class's colour, ``#rrggbb``.
        dashed: whether the line is dashed, since its colour is also another class's.
        text: the class, and its numbers or that it has no curve.
    """

    color: str
    dashed: bool
    text: str


def curve_keys(cells: CellJudgement) -> list[CurveKey]:
    """The legend of :func:`pr_figure`: every class, also those without a curve, which it says."""
    curves = precision_curves(cells.detections, cells.class_names)
    keys = []
    for number, name in enumerate(cells.class_names):
        text = f"{name}: no curve, the ground truth has no cell of this class"
        if name in curves:
            best = cells.thresholds.get(name)
            found = f"F1 {number_text(best.f1)} at {best.score:.3f}" if best else "no cell was found"
            text = f"{name}: AP50 {number_text(100 * curves[name].mean())}, {found}"
        keys.append(CurveKey(class_hex(number), _is_dashed(number), text))
    return keys


@matplotlib.rc_context(FIGURE_STYLE)
def pr_figure(cells: CellJudgement) -> Markup | None:
    """Precision by recall per class, and the thresholds of the best F1; None where there are no cells."""
    curves = precision_curves(cells.detections, cells.class_names)
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axes = figure.subplots()
    edge = [patheffects.Stroke(linewidth=2.8, foreground=INK), patheffects.Normal()]  # for pale colours on white
    for number, name in enumerate(cells.class_names):
        if name not in curves:
            continue
        best, color = cells.thresholds.get(name), class_color(number) / 255
        if best is not None:
            axes.plot(best.recall, best.precision, "o", color=color, markersize=8, markeredgecolor=INK, zorder=3)
        line = "--" if _is_dashed(number) else "-"
        axes.plot(100 * RECALLS, 100 * curves[name], line, color=color, linewidth=2, path_effects=edge)
    axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 101), ylim=(0, 103))
    return figure_svg(figure)


@matplotlib.rc_context(FIGURE_STYLE)
def error_figure(cells: CellJudgement) -> Markup | None:
    """Bars with the AP50 that each kind of error costs; None where there are no cells."""
    costs = [cells.errors.costs[kind] for kind in KINDS]
    if math.isnan(cells.errors.ap50):
        return None
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(KINDS), costs, height=0.65, color="#d55e00")
    axes.bar_label(bars, [number_text(cost) for cost in costs], padding=4, color=INK)
    axes.set(xlabel="AP50 that fixing it would add", xlim=(0, 1.18 * max(*costs, 1.0)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure_svg(figure)


def _is_dashed(number: int) -> bool:
    """Whether a class's line is dashed: colours repeat after those of the palette."""
    return number // len(PALETTE) % 2 == 1
