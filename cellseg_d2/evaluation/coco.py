"""Detectron2's COCO evaluator with scoring that holds at cell density."""

from __future__ import annotations

import itertools
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table

from cellseg_d2.evaluation.coco_ap import average_precision


class CellCOCOEvaluator(COCOEvaluator):
    """Overrides the scoring only: gathering over processes and the protocol are Detectron2's."""

    def __init__(self, dataset_name: str, *, max_dets_per_image: int, output_dir: str | None = None) -> None:
        """
        Args:
            dataset_name: a registered COCO dataset.
            max_dets_per_image: detections scored per image and class.
            output_dir: where the results are dumped; None for nowhere.
        """
        super().__init__(
            dataset_name, ("segm", "bbox"), output_dir=output_dir, max_dets_per_image=max_dets_per_image
        )

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Any = None) -> None:
        """Fills ``self._results`` with the metrics of each task."""
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        category_of = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        for result in results:
            result["category_id"] = category_of[result["category_id"]]
        if not self._do_evaluation:
            self._logger.info("%s has no annotations, so nothing is scored", self._metadata.name)
            return
        cap = self._max_dets_per_image[-1]
        for task in self._tasks:
            metrics = average_precision(self._coco_api.dataset, results, task, cap)
            self._results[task] = metrics
            self._logger.info("%s, %d detections an image:\n%s", task, cap, create_small_table(metrics))
