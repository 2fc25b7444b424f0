"""Sets the limits of detections and proposals per tile in a config, from the cells of the data's densest tile."""

from __future__ import annotations

import logging
from collections import Counter

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cellseg_d2.config_checks import config_value
from cellseg_d2.conversion.caps import DETECTIONS_KEY, FROM_DATA, caps_for

logger = logging.getLogger(__name__)


def set_caps(cfg: CfgNode) -> None:
    """Sets, in place, how many detections a tile keeps and how many proposals lead to them.

    Where TEST.DETECTIONS_PER_IMAGE is -1, it follows from the densest tile, and the RPN's limits are raised to match
    it, see :func:`cellseg_d2.conversion.caps.caps_for`. Where it is a number, all limits stay as they are, and a
    warning names each that is below the number of cells in a tile. Evaluation scores as many detections as are kept.
    """
    most = max(_most_cells(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    caps = caps_for(most)
    from_data = config_value(cfg, DETECTIONS_KEY) == FROM_DATA
    for key, cap in caps.items():
        before = config_value(cfg, key)
        caps[key] = max(before, cap) if from_data else before
    cfg.merge_from_list([value for pair in caps.items() for value in pair])
    logger.info(
        "the densest tile has %d cells; limits per tile: %s",
        most,
        ", ".join(f"{key} {cap}" for key, cap in caps.items()),
    )
    for key, cap in caps.items():
        if cap < most:
            logger.warning("%s is %d, but a tile has %d cells: the rest cannot be found", key, cap, most)


def _most_cells(dataset: str) -> int:
    """The number of cells in a dataset's densest tile; counted here where conversion did not record it."""
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
