"""Detectron2's COCO evaluator for cells: whole images, masks kept inside their boxes, and scoring of dense images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table

from cellseg_d2.cells.coco import Result, to_results
from cellseg_d2.evaluation.coco_ap import average_precision


class CellCOCOEvaluator(COCOEvaluator):
    """Mask and box AP of :class:`cellseg_d2.cells.instances.CellInstances`; Detectron2 gathers them over processes.

    Args:
        dataset_name: a registered COCO dataset.
        max_dets_per_image: detections scored per image and class. It is raised to twice the cells of the densest image,
            because untiled images may have more cells than any tile.

    Attributes:
        truth: the COCO dataset.
        image_root: the folder that its file names are relative to.
        results: COCO results of the last evaluation; only in the first of several processes.
    """

    def __init__(self, dataset_name: str, *, max_dets_per_image: int) -> None:
        super().__init__(dataset_name, ("segm", "bbox"), max_dets_per_image=max_dets_per_image)
        self.truth: dict[str, Any] = self._coco_api.dataset
        self.image_root = Path(self._metadata.get("image_root", ""))
        self.results: list[Result] = []
        cells = Counter(cell["image_id"] for cell in self.truth.get("annotations", ()))
        self.max_detections = max(max_dets_per_image, 2 * max(cells.values(), default=0))

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Adds the cells of images to the results.

        Args:
            inputs: dataset dicts; ``image_id`` is used.
            outputs: for each input a dict with ``cells``, a :class:`cellseg_d2.cells.instances.CellInstances`.
        """
        for sample, output in zip(inputs, outputs):
            results = to_results(output["cells"], sample["image_id"])
            for result, (x0, y0, x1, y1) in zip(results, output["cells"].boxes.tolist()):
                result["bbox"] = [x0, y0, x1 - x0, y1 - y0]  # box AP scores the boxes that the model predicted
            self._predictions.append({"image_id": sample["image_id"], "instances": results})

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Any = None) -> None:
        """Fills ``self._results`` with the metrics of each task."""
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        category_of = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        for result in results:
            result["category_id"] = category_of[result["category_id"] - 1]
        self.results = results
        if not self._do_evaluation:
            self._logger.info("%s has no annotations, so nothing is scored", self._metadata.name)
            return
        for task in self._tasks:
            metrics = average_precision(self.truth, results, task, self.max_detections)
            self._results[task] = metrics
            table = create_small_table(metrics)
            self._logger.info(
                "%s of %s, %d detections per image and class:\n%s",
                *(task, self._metadata.name, self.max_detections, table),
            )
