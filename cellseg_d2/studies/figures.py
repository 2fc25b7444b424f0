"""One figure per study: training loss, validation AP50 during training, and the AP50 of each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cellseg_d2.report.curves import UNMEASURED, Curve, legend_below, say_if_empty, smooth
from cellseg_d2.studies.arms import Study
from cellseg_d2.studies.results import Finished


def draw(study: Study, finished: Mapping[str, Sequence[Finished]], output: Path) -> None:
    """Writes :func:`figure_of` as PNG."""
    output.parent.mkdir(parents=True, exist_ok=True)
    figure_of(study, finished).savefig(output, dpi=110)


def figure_of(study: Study, finished: Mapping[str, Sequence[Finished]]) -> Figure:
    """Draws a study: lines are means over seeds, bands and points are the seeds; an empty plot says why it is.

    Args:
        study: what was compared.
        finished: name of an arm -> its runs.
    """
    figure = Figure(figsize=(15, 5), layout="constrained")
    figure.suptitle(study.title)
    loss_axes, ap_axes, end_axes = figure.subplots(1, 3)
    for number, arm in enumerate(study.arms):
        runs, colour = finished[arm.name], f"C{number}"
        _band(loss_axes, [smooth(run.losses) for run in runs], colour, arm.label, marker=".")
        _band(ap_axes, [run.validation for run in runs], colour, arm.label, marker="o")
        for offset, marker, name in ((-0.12, "o", "validation_ap50"), (0.12, "s", "test_ap50")):
            scores = [getattr(run.result, name) for run in runs]
            end_axes.plot([number + offset] * len(scores), scores, marker, color=colour)
            end_axes.hlines(np.mean(scores), number + offset - 0.08, number + offset + 0.08, color=colour)
    loss_axes.set(title="Training loss, smoothed", xlabel="iteration", ylabel="loss", ylim=(0, None))
    ap_axes.set(title="Validation", xlabel="iteration", ylabel="mask AP50 (%)", ylim=(0, None))
    end_axes.set(title="Best checkpoint, each seed", ylabel="mask AP50 (%)")
    end_axes.set_ylim(0, 1.1 * max(end_axes.dataLim.y1, 1.0))  # room for the markers of what may be close together
    end_axes.set_xlim(-0.5, len(study.arms) - 0.5)
    end_axes.set_xticks(range(len(study.arms)), [arm.label.replace(", ", ",\n") for arm in study.arms])
    for marker, name in (("o", "validation"), ("s", "test")):
        scores = [getattr(run.result, f"{name}_ap50") for runs in finished.values() for run in runs]
        known = np.isfinite(scores).any()
        end_axes.plot([], [], marker, color="grey", label=name if known else f"{name}: {UNMEASURED}")
    for axes in (loss_axes, ap_axes, end_axes):
        axes.grid(alpha=0.3)
        say_if_empty(axes, "no common evaluation")
        legend_below(axes)
    return figure


def on_common_iterations(curves: Sequence[Curve]) -> tuple[list[int], NDArray[np.float64]]:
    """The iterations that all curves have, and the values there, (curves, iterations)."""
    by_iteration = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*(set(values) for values in by_iteration)))
    return common, np.array([[values[iteration] for iteration in common] for values in by_iteration], np.float64)


def _band(axes: Axes, curves: Sequence[Curve], colour: str, label: str, marker: str) -> None:
    """Draws the mean of several curves, and a band from their smallest to their largest value."""
    iterations, values = on_common_iterations(curves)
    axes.plot(iterations, values.mean(axis=0), color=colour, label=label, marker=marker, linewidth=2)
    if len(curves) > 1:
        axes.fill_between(iterations, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
