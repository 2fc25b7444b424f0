"""How many detections and proposals a tile gets: set together, from the cells of the data's densest tile."""

from __future__ import annotations

import logging
from collections import Counter

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cellseg_d2.conversion.suggestions import detections_for, proposals_for

logger = logging.getLogger(__name__)

FROM_DATA = -1
"""TEST.DETECTIONS_PER_IMAGE: take it from the data. Detectron2 itself reads it as no limit."""


def set_caps(cfg: CfgNode) -> None:
    """Settles, in place, how many detections a tile keeps and how many proposals lead to them.

    Where TEST.DETECTIONS_PER_IMAGE is -1 it becomes what
    :func:`~cellseg_d2.conversion.suggestions.detections_for` gives for the densest tile, and the RPN's top-k are raised
    to what that needs. Where it is a number, all stay as they are, with a warning for each that is below the cells of a
    tile. Evaluation scores as many detections as are kept.
    """
    most = max(_most_cells(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    rpn = cfg.MODEL.RPN
    if cfg.TEST.DETECTIONS_PER_IMAGE == FROM_DATA:
        cfg.TEST.DETECTIONS_PER_IMAGE = detections_for(most)
        proposals = proposals_for(cfg.TEST.DETECTIONS_PER_IMAGE)
        rpn.PRE_NMS_TOPK_TRAIN = max(rpn.PRE_NMS_TOPK_TRAIN, proposals)
        rpn.PRE_NMS_TOPK_TEST = max(rpn.PRE_NMS_TOPK_TEST, proposals)
        rpn.POST_NMS_TOPK_TRAIN = max(rpn.POST_NMS_TOPK_TRAIN, proposals // 2)
        rpn.POST_NMS_TOPK_TEST = max(rpn.POST_NMS_TOPK_TEST, proposals)
    caps = {
        "TEST.DETECTIONS_PER_IMAGE": cfg.TEST.DETECTIONS_PER_IMAGE,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": rpn.PRE_NMS_TOPK_TRAIN,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": rpn.POST_NMS_TOPK_TRAIN,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn.PRE_NMS_TOPK_TEST,
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn.POST_NMS_TOPK_TEST,
    }
    logger.info(
        "the densest tile has %d cells; caps a tile: %s", most, ", ".join(f"{key} {cap}" for key, cap in caps.items())
    )
    for key, cap in caps.items():
        if cap < most:
            logger.warning("%s is %d, but a tile has %d cells: the rest cannot be found", key, cap, most)


def _most_cells(dataset: str) -> int:
    """Cells of the tile of a dataset that has most; counted where conversion did not write it down."""
    most = MetadataCatalog.get(dataset).get("most_cells")
    if most is not None:
        return int(most)
    counts = Counter(
        number
        for number, sample in enumerate(DatasetCatalog.get(dataset))
        for cell in sample.get("annotations", ())
        if not cell.get("iscrowd", 0)
    )
    return max(counts.values(), default=0)
