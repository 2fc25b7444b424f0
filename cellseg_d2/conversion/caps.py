"""The limits of detections and proposals per tile, from the number of cells in the dataset's densest tile.

Training applies these numbers (:mod:`cellseg_d2.data.caps`); ``convert --check`` and the suggested settings report
them.
"""

from __future__ import annotations

import math

DETECTIONS_KEY = "TEST.DETECTIONS_PER_IMAGE"

FROM_DATA = -1
"""The value of :data:`DETECTIONS_KEY` that asks for these numbers. Detectron2 itself reads it as "no limit"."""

ROOM = 2
"""Detections kept per cell of the densest tile; more than one, because AP also counts detections with low scores."""

DETECTIONS, PROPOSALS = 500, 2000
"""The lowest limits, used where a tile has few cells."""


def caps_for(most_cells: int) -> dict[str, int]:
    """The config keys that limit detections and proposals per tile, with their values.

    Twice as many detections as cells, and two proposals per detection, since several proposals fall on one cell. The
    RPN passes half as many proposals on in training, where only a sample of them is used.

    Args:
        most_cells: the number of cells in the densest tile.

    >>> caps_for(700)["TEST.DETECTIONS_PER_IMAGE"], caps_for(700)["MODEL.RPN.POST_NMS_TOPK_TRAIN"]
    (1400, 1500)
    """
    detections = max(DETECTIONS, _up(most_cells * ROOM, 50))
    proposals = max(PROPOSALS, _up(2 * detections, 500))
    return {
        DETECTIONS_KEY: detections,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": proposals,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": proposals // 2,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": proposals,
        "MODEL.RPN.POST_NMS_TOPK_TEST": proposals,
    }


def _up(value: float, step: int) -> int:
    return math.ceil(value / step) * step
