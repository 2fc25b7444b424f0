"""Training curves from the ``metrics.json`` that Detectron2 writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellseg_d2.errors import CellSegError
from cellseg_d2.files import whole_file

Curve = tuple[tuple[int, float], ...]
"""Pairs of iteration, ascending, and a metric's value there."""

TOTAL_LOSS = "total_loss"

VALIDATION = "validation/"
"""The names of losses on validation tiles begin with this."""

METRICS = {
    "segm/AP50": "mask AP50",
    "bbox/AP50": "box AP50",
    "segm/AP": "mask AP",
    "ema/segm/AP50": "mask AP50, averaged weights",
}
"""The validation scores that are drawn -> their labels."""

AP_LABEL = "average precision (%)"

UNMEASURED = "nothing could be measured"
"""What a plot says of which all numbers are NaN, such as the AP of a validation part without cells."""

SMOOTHING = 0.15
"""The running mean of a loss covers this share of its records, each of which is a median of 20 iterations."""


@dataclass(frozen=True)
class Line:
    """A curve and how to draw it.

    Attributes:
        points: the curve; empty for a line that is left out.
        label: its text in the legend; empty for none.
        style: keyword arguments of ``Axes.plot``.
    """

    points: Curve
    label: str = ""
    style: Mapping[str, Any] = field(default_factory=dict)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.json`` by iteration; for an iteration that a resumed run repeats, the later one.

    An incomplete last line is left out: a training is writing it, or was killed while it did.

    Raises:
        CellSegError: no such file, or a line in it is no JSON object with an iteration.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise CellSegError(f"{path}: cannot be read ({error.strerror}); give the OUTPUT_DIR of a training") from error
    except ValueError as error:
        raise CellSegError(f"{path}: is not the metrics.json of a training ({error})") from error
    if len(lines) > 1 and not lines[-1].endswith("\n"):  # incomplete
        lines.pop()
    records = [_record(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not all(isinstance(record, dict) and "iteration" in record for record in records):
        raise CellSegError(f"{path}: is not the metrics.json of a training (a line of it has no iteration)")
    merged: dict[int, dict[str, Any]] = {}
    for record in records:
        merged.setdefault(record["iteration"], {}).update(record)
    return [merged[iteration] for iteration in sorted(merged)]


def _record(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise CellSegError(f"{path}: is not the metrics.json of a training (line {number}: {error})") from error


def curve(records: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """One metric of the records of :func:`read_metrics`."""
    return tuple((record["iteration"], float(record[name])) for record in records if name in record)


def smooth(curve: Curve) -> Curve:
    """The running mean of a curve over the share :data:`SMOOTHING` of its points; over fewer at its ends."""
    reach = math.floor(len(curve) * SMOOTHING / 2)
    values = [value for _, value in curve]
    means = [float(np.mean(values[max(0, place - reach) : place + reach + 1])) for place in range(len(values))]
    return tuple((iteration, mean) for (iteration, _), mean in zip(curve, means))


def training_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """The seconds that all iterations took, from Detectron2's medians over 20 iterations."""
    times = curve(records, "time")
    starts = [-1, *(iteration for iteration, _ in times)]
    seconds = sum(time * (iteration - start) for (iteration, time), start in zip(times, starts))
    return seconds if times else math.nan


def loss_parts(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the losses that add up to the total; a cascade has losses per stage, PointRend a loss of its points."""
    return sorted({name for record in records for name in record if name.startswith("loss_")})


def draw_lines(axes: Axes, lines: Iterable[Line], title: str, ylabel: str) -> None:
    """Draws those lines that have points against the iteration."""
    for line in lines:
        if line.points:
            # matplotlib leaves names that begin with "_" out of legends
            label = f" {line.label}" if line.label.startswith("_") else line.label
            axes.plot(*zip(*line.points), label=label, **line.style)
    axes.set(title=title, xlabel="iteration", ylabel=ylabel, ylim=(0, None))


def legend_below(axes: Axes, columns: int = 2) -> None:
    """A legend below a plot, where it covers no line; none where nothing is drawn.

    The figure's layout is to be ``constrained``, which makes room for it.
    """
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize="small", frameon=False)


def say_if_empty(axes: Axes, reason: str = "nothing was logged yet") -> None:
    """Adds to a plot's title why it is empty, where none of its lines has a number."""
    values = [value for line in axes.lines for value in np.ravel(line.get_ydata())]
    if not np.isfinite(np.array(values, float)).any():
        title = axes.get_title()
        axes.set_title(f"{title}: {UNMEASURED if values else reason}" if title else reason)


def plot_curves(metrics: Path, output: Path) -> None:
    """Draws all losses and validation AP50 against the iteration, as PNG.

    Raises:
        CellSegError: see :func:`read_metrics`.
    """
    records = read_metrics(metrics)
    figure = Figure(figsize=(10, 5), layout="constrained")
    loss_axes, ap_axes = figure.subplots(1, 2)
    losses = [Line(curve(records, TOTAL_LOSS), TOTAL_LOSS, {"linewidth": 2.5})]
    losses += [Line(curve(records, name), name, {"linewidth": 1.2}) for name in loss_parts(records)]
    on_validation = curve(records, VALIDATION + TOTAL_LOSS)
    losses.append(Line(on_validation, f"{TOTAL_LOSS}, validation", {"marker": "o", "color": "black"}))
    draw_lines(loss_axes, losses, "Losses", "loss")
    scores = [Line(curve(records, name), label, {"marker": "o"}) for name, label in METRICS.items()]
    draw_lines(ap_axes, scores, "Validation", AP_LABEL)
    for axes in (loss_axes, ap_axes):
        axes.grid(alpha=0.3)
        legend_below(axes)
        say_if_empty(axes)
    with whole_file(output) as partial:
        figure.savefig(partial, dpi=120, format="png")
