"""Everything that can be said of a results file against a ground truth, of this or any other tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.cell_metrics import CellMetrics, flat_overlaps, summarise, tally
from cellseg_d2.evaluation.coco_ap import average_precision, tasks_of
from cellseg_d2.evaluation.coco_cells import class_names, image_cells
from cellseg_d2.evaluation.error_breakdown import ErrorBreakdown, Judged, break_down, judge
from cellseg_d2.evaluation.thresholds import Threshold, best_thresholds, judge_unhidden


@dataclass(frozen=True)
class CellJudgement:
    """What masks show and boxes do not.

    Attributes:
        selection: which predictions are in ``metrics``.
        images, class_names: names of the images and classes, in the order in which ``metrics`` counts them.
        metrics: metrics of the selected predictions, flattened.
        errors: from all detections, as for AP.
        thresholds: from all but those that better ones hide.
        judged: all detections, per image.
        shown: per image, the selected detections: what people see.
    """

    selection: Selection
    images: list[str]
    class_names: list[str]
    metrics: CellMetrics
    errors: ErrorBreakdown
    thresholds: dict[str, Threshold]
    judged: list[Judged]
    shown: list[Judged]

    @property
    def detections(self) -> Judged:
        """The detections of all images as if they were of one."""
        return Judged.concatenate(self.judged)


@dataclass(frozen=True)
class Judgement:
    """COCO's AP by task; and what masks show, where the ground truth and the results have them."""

    ap: dict[str, dict[str, float]]
    cells: CellJudgement | None


def judge_results(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int, selection: Selection
) -> Judgement:
    """Scores COCO results by their masks, their boxes or both, whichever all of them have.

    Args:
        truth: a COCO dataset.
        results: COCO results.
        max_detections: how many detections per image and class, best first, count for AP, errors and thresholds.
        selection: which predictions people see; the others are left out of the metrics of cells.

    Raises:
        CellSegError: a number is out of its range; a result or a cell is damaged, or of an image or class that the
            dataset does not list; both have neither masks nor boxes throughout.
    """
    if max_detections < 1:
        raise CellSegError(f"{max_detections} detections of an image cannot be judged; give at least 1")
    masked = all(cell.get("segmentation") for cell in truth["annotations"])
    tasks = [task for task in tasks_of(results) if masked or task != "segm"]
    if not tasks:
        raise CellSegError("results have masks alone, which not every cell of the ground truth has; add a bbox to each")
    ap = {task: average_precision(truth, results, task, max_detections) for task in tasks}
    return Judgement(ap, judge_cells(truth, results, max_detections, selection) if "segm" in tasks else None)


def judge_cells(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int, selection: Selection
) -> CellJudgement:
    """The metrics of cells, the errors and the best thresholds; arguments and errors as in :func:`judge_results`.

    Raises:
        CellSegError: also if the ground truth lists no image.
    """
    if not truth["images"]:
        raise CellSegError("the ground truth lists no images")
    names = class_names(truth)
    images, tissues, tallies, judged, unhidden, shown = [], [], [], [], [], []
    for image in image_cells(truth, results):
        images.append(image.name)
        tissues.append(image.tissue)
        found = image.predictions
        selected = found.selected(selection)
        under = int(selection.scored(found.scores, found.classes).sum()) - len(selected)
        tallies.append(replace(tally(flat_overlaps(image.truth, selected), len(names)), hidden=under))
        judged.append(judge(image.truth, found, max_detections))
        unhidden.append(judge_unhidden(image.truth, found, max_detections, selection))
        shown.append(judge(image.truth, selected, max_detections))
    detections = Judged.concatenate(judged)
    return CellJudgement(
        selection=selection,
        images=images,
        class_names=names,
        metrics=summarise(tallies, names, tissues),
        errors=break_down(detections, len(names)),
        thresholds=best_thresholds(Judged.concatenate(unhidden), names),
        judged=judged,
        shown=shown,
    )
