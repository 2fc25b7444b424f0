"""Training curves from the ``metrics.json`` that Detectron2 writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cellseg_d2.errors import CellSegError

VALIDATION_LOSS = "validation/total_loss"

METRICS = {
    "segm/AP50": "mask AP50",
    "bbox/AP50": "box AP50",
    "segm/AP": "mask AP",
    "ema/segm/AP50": "mask AP50, averaged weights",
}
"""What is drawn of a validation, and how it is called."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.json`` by iteration; of a resumed run the later record of an iteration wins.

    Raises:
        CellSegError: no such file, or a line in it is no JSON object with an iteration.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CellSegError(f"{path}: cannot be read ({error.strerror}); give the OUTPUT_DIR of a training") from error
    except ValueError as error:
        raise CellSegError(f"{path}: is not the metrics.json of a training ({error})") from error
    if not all(isinstance(record, dict) and "iteration" in record for record in records):
        raise CellSegError(f"{path}: is not the metrics.json of a training (a line of it has no iteration)")
    merged: dict[int, dict[str, Any]] = {}
    for record in records:
        merged.setdefault(record["iteration"], {}).update(record)
    return [merged[iteration] for iteration in sorted(merged)]


def plot_curves(metrics: Path, output: Path) -> None:
    """Draws all losses and validation AP50 against the iteration, as PNG.

    Raises:
        CellSegError: see :func:`read_metrics`.
    """
    records = read_metrics(metrics)
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, ap_axes = figure.subplots(1, 2)
    # "loss_*": a cascade has those of its stages, PointRend those of its points
    losses = sorted({name for record in records for name in record if name.startswith("loss_")})
    for name in ("total_loss", *losses):
        points = [(record["iteration"], record[name]) for record in records if name in record]
        if points:
            loss_axes.plot(*zip(*points), label=name, linewidth=2.5 if name == "total_loss" else 1.2)
    points = [(record["iteration"], record[VALIDATION_LOSS]) for record in records if VALIDATION_LOSS in record]
    if points:
        loss_axes.plot(*zip(*points), marker="o", color="black", label="total_loss, validation")
    loss_axes.set(title="Losses", xlabel="iteration", ylabel="loss", ylim=(0, None))
    if loss_axes.lines:
        loss_axes.legend(fontsize="small")
    for name, label in METRICS.items():
        points = [(record["iteration"], record[name]) for record in records if name in record]
        if points:
            ap_axes.plot(*zip(*points), marker="o", label=label)
    ap_axes.set(title="Validation", xlabel="iteration", ylabel="average precision (%)", ylim=(0, None))
    if ap_axes.lines:
        ap_axes.legend(fontsize="small")
    for axes in (loss_axes, ap_axes):
        axes.grid(alpha=0.3)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
