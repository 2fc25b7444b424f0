"""Detectron2's COCO evaluator for cells: whole images, masks kept inside their boxes, and scoring of dense images."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.utils.logger import create_small_table

from cellseg_d2.cells.coco import Result, to_results, to_xywh
from cellseg_d2.cells.coco_input import read_truth
from cellseg_d2.evaluation.coco_ap import average_precision, densest
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.evaluation.thresholds import least_scores
from cellseg_d2.inference.predictor import selection_of

logger = logging.getLogger(__name__)


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
        # What COCOEvaluator sets, without pycocotools, which would read the file once more and takes less.
        self._metadata = MetadataCatalog.get(dataset_name)
        self.truth: dict[str, Any] = read_truth(Path(self._metadata.json_file))
        self._logger = logging.getLogger("detectron2.evaluation.coco_evaluation")
        self._tasks = ("segm", "bbox")
        self._distributed, self._output_dir = True, None
        self._do_evaluation = "annotations" in self.truth
        self.reset()
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


def with_least_scores(cfg: CfgNode, evaluators: Sequence[DatasetEvaluator]) -> CfgNode:
    """A config with the least scores of the best F1 on the first dataset that was evaluated, and a line in the log.

    The config stays as it is where that tells nothing: a subclass evaluates otherwise, or a dataset has no annotations.
    """
    evaluator = evaluators[0] if evaluators else None
    if not isinstance(evaluator, CellCOCOEvaluator) or "annotations" not in evaluator.truth:
        return cfg
    names = class_names(evaluator.truth)
    selection = selection_of(cfg, names)
    scores = least_scores(evaluator.truth, evaluator.results, evaluator.max_detections, selection)
    named = ", ".join(f"{name} {score:.2f}" for name, score in zip(names, scores))
    logger.info("least scores of the best F1, from which prediction shows cells: %s", named)
    found = cfg.clone()
    found.defrost()
    found.CELLSEG.INFERENCE.MIN_SCORES = scores
    return found
