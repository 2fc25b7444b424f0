"""Detectron2's COCO evaluator for cells: whole images, masks kept inside their boxes, and scoring of dense images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table

from cellseg_d2.cells.coco import Result, to_results, to_xywh
from cellseg_d2.cells.coco_input import read_truth
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.evaluation.coco_ap import average_precision, densest


class CellCOCOEvaluator(COCOEvaluator):
    """Mask and box AP of :class:`cellseg_d2.cells.instances.CellInstances`; Detectron2 gathers them over processes.

    Args:
        dataset_name: a registered COCO dataset.
        max_dets_per_image: detections scored per image and class; raised to twice the most cells that an image has,
            as untiled images may have more than any tile, and to the most results that an image has of a class.

    Attributes:
        truth: the COCO dataset.
        image_root: the folder that its file names are relative to.
        results: COCO results of the last evaluation; only in the first of several processes.

    Raises:
        CellSegError: the dataset's file cannot be read, or has a damaged record.
    """

    def __init__(self, dataset_name: str, *, max_dets_per_image: int) -> None:
        json_file = Path(MetadataCatalog.get(dataset_name).json_file)
        self.truth: dict[str, Any] = read_truth(json_file)
        try:
            super().__init__(dataset_name, ("segm", "bbox"), max_dets_per_image=max_dets_per_image)
        except ValueError as error:  # pycocotools reads plain UTF-8 alone
            raise CellSegError(f"{json_file}: pycocotools cannot read it ({one_line(error, 100)})") from error
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
            cells = output["cells"]
            # box AP is that of the boxes the model predicted
            results = to_results(cells, sample["image_id"], to_xywh(cells.boxes.astype(np.float64)))
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
        cap = max(self.max_detections, densest(results))
        for task in self._tasks:
            metrics = average_precision(self.truth, results, task, cap)
            self._results[task] = metrics
            table = create_small_table(metrics)
            self._logger.info(
                "%s of %s, %d detections an image and class:\n%s",
                *(task, self._metadata.name, cap, table),
            )
