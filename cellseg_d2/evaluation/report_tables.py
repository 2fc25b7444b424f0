"""The numbers of an evaluation as printed tables, as JSON and as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cellseg_d2.cells.selection import Selection
from cellseg_d2.evaluation.error_breakdown import KINDS
from cellseg_d2.evaluation.judgement import CellJudgement, Judgement
from cellseg_d2.evaluation.thresholds import write_thresholds
from cellseg_d2.files import without_nan, write_csv, write_json

MISSED, SPURIOUS = "(missed)", "(spurious)"
"""Names of the confusion's last column and last row."""

COUNTS = ("cells", "predictions", "hit", "spurious", "missed")
SHOWN = ("PQ", "DQ", "SQ", "F1@0.50", "F1@0.75", "F1")

CONFUSION_TITLE = "Classes of cells (rows) and of the predictions that found them (columns), at an IoU of at least 0.5"
THRESHOLDS_TITLE = "Score thresholds of the best F1 at an IoU of at least 0.5"

Table = tuple[list[str], list[list[str]]]
"""A header and rows; the first column has the names."""


def text_of(judgement: Judgement) -> str:
    """The evaluation as it is printed."""
    tasks = judgement.ap
    lines = [f"{'':24}" + "".join(f"{task:>8}" for task in tasks)]
    for name in next(iter(tasks.values())):
        lines.append(f"{name:24}" + "".join(f"{number_text(values[name]):>8}" for values in tasks.values()))
    if judgement.cells is None:
        lines += ["", "Without masks of cells and of results there are no metrics of cells."]
    else:
        lines += _cell_lines(judgement.cells)
    return "\n".join(lines)


def _cell_lines(cells: CellJudgement) -> list[str]:
    lines = [
        "",
        f"Metrics of cells in percent: predictions that score {least_text(cells.selection)} or more, but for those",
        "that better ones hide: what predict counts and exports. Where several lie on a pixel, it belongs to the best.",
    ]
    lines += [f"{name:24}{value:>8}" for name, value in summary_rows(cells)]
    lines += ["", *_aligned(*class_table(cells)), "", CONFUSION_TITLE, *_aligned(*confusion_table(cells))]
    lines += ["", f"Errors of all detections, and the AP50 that each kind costs of {number_text(cells.errors.ap50)}"]
    lines += [*_aligned(*error_table(cells)), "", THRESHOLDS_TITLE, *_aligned(*threshold_table(cells))]
    return lines


def least_text(selection: Selection) -> str:
    """The least scores: one number, or one per class.

    >>> least_text(Selection(["round", "long"], 0.5, {"long": 0.31}))
    '0.5 (round), 0.31 (long)'
    """
    least = selection.least
    if len(set(least.values())) == 1:
        return f"{next(iter(least.values())):g}"
    return ", ".join(f"{score:g} ({name})" for name, score in least.items())


def summary_rows(cells: CellJudgement) -> list[tuple[str, str]]:
    """Name and value of the metrics over all classes."""
    return [(name, number_text(value, name in (*COUNTS, "hidden"))) for name, value in cells.metrics.summary.items()]


def class_table(cells: CellJudgement) -> Table:
    """The metrics per class."""
    rows = [
        [name, *(number_text(values[key]) for key in SHOWN), *(f"{values[key]:.0f}" for key in COUNTS)]
        for name, values in cells.metrics.classes.items()
    ]
    return ["class", *SHOWN, *COUNTS], rows


def confusion_table(cells: CellJudgement) -> Table:
    """The table under :data:`CONFUSION_TITLE`."""
    names = cells.class_names
    rows = [[name, *map(str, row)] for name, row in zip([*names, SPURIOUS], cells.metrics.confusion.tolist())]
    return ["", *names, MISSED], rows


def error_table(cells: CellJudgement) -> Table:
    """Errors by kind: how many there are, and the AP50 that they cost."""
    errors = cells.errors
    rows = [[kind, str(int(errors.counts[kind].sum())), number_text(errors.costs[kind])] for kind in KINDS]
    return ["error", "number", "AP50"], rows


def threshold_table(cells: CellJudgement) -> Table:
    """The table under :data:`THRESHOLDS_TITLE`."""
    rows = [
        [name, f"{best.score:.4f}", number_text(best.f1), number_text(best.precision), number_text(best.recall)]
        for name, best in cells.thresholds.items()
    ]
    return ["class", "threshold", "F1", "precision", "recall"], rows


def number_text(value: float, whole: bool = False) -> str:
    """A number as all tables show it; a dash for NaN, which cannot be measured."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if whole else f"{value:.2f}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    table = [header, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(header))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in table
    ]


def write_files(folder: Path, judgement: Judgement, ground_truth: Path, predictions: Path) -> None:
    """Writes an evaluation into a folder.

    - ``metrics.json``: everything; AP under the name of its task. What cannot be measured is null.
    - ``metrics.csv``: ``group, class, metric, value``, one number per row; the groups are ``segm``, ``bbox``, ``cells``
      and ``errors``. What cannot be measured is empty.
    - with masks also ``counts.csv``, cells per class and image, ``confusion.csv`` and ``thresholds.json``.

    Args:
        folder: the folder; it is made if it is not there.
        judgement: the evaluation.
        ground_truth: the ground-truth file; ``thresholds.json`` states its name.
        predictions: the results file; ``thresholds.json`` states its name.

    Raises:
        CellSegError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", without_nan(_content(judgement)), indent=1)
    write_csv(folder / "metrics.csv", ["group", "class", "metric", "value"], _rows(judgement))
    if judgement.cells is not None:
        cells = judgement.cells
        write_csv(folder / "counts.csv", ["image", "class", *COUNTS], _count_rows(cells))
        rows = [[name, *row] for name, row in zip([*cells.class_names, SPURIOUS], cells.metrics.confusion.tolist())]
        write_csv(folder / "confusion.csv", ["cell", *cells.class_names, MISSED], rows)
        write_thresholds(folder / "thresholds.json", cells.thresholds, ground_truth, predictions)


def _content(judgement: Judgement) -> dict[str, Any]:
    content: dict[str, Any] = dict(judgement.ap)
    if judgement.cells is not None:
        cells = judgement.cells
        rows, columns = [*cells.class_names, SPURIOUS], [*cells.class_names, MISSED]
        content["cells"] = {
            "least_scores": cells.selection.least,
            "flattened": "by score: a pixel of several predictions belongs to the best of them",
            "summary": cells.metrics.summary,
            "classes": cells.metrics.classes,
            "confusion": {"rows": rows, "columns": columns, "counts": cells.metrics.confusion.tolist()},
        }
        content["errors"] = {
            kind: {
                "number": int(cells.errors.counts[kind].sum()),
                "AP50_cost": cells.errors.costs[kind],
                "classes": dict(zip(cells.class_names, cells.errors.counts[kind].tolist())),
            }
            for kind in KINDS
        }
    return content


def _rows(judgement: Judgement) -> list[list[Any]]:
    """The rows of ``metrics.csv``; the class is empty in those over all classes."""
    rows: list[list[Any]] = [
        [task, "", name, value] for task, values in judgement.ap.items() for name, value in values.items()
    ]
    if judgement.cells is not None:
        metrics, errors = judgement.cells.metrics, judgement.cells.errors
        rows += [["cells", "", name, value] for name, value in metrics.summary.items()]
        rows += [
            ["cells", label, name, value] for label, values in metrics.classes.items() for name, value in values.items()
        ]
        for kind in KINDS:
            rows += [["errors", "", f"{kind} AP50 cost", errors.costs[kind]]]
            rows += [["errors", "", f"{kind} number", int(errors.counts[kind].sum())]]
            counts = zip(judgement.cells.class_names, errors.counts[kind].tolist())
            rows += [["errors", name, f"{kind} number", count] for name, count in counts]
    return [[*row, "" if math.isnan(value) else round(value, 6)] for *row, value in rows]


def _count_rows(cells: CellJudgement) -> Iterable[list[Any]]:
    for image, by_class in zip(cells.images, cells.metrics.counts.tolist()):
        for name, (hit, spurious, missed) in zip(cells.class_names, by_class):
            yield [image, name, hit + missed, hit + spurious, hit, spurious, missed]
