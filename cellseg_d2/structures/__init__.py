"""Data structures that Detectron2 lacks."""

from cellseg_d2.structures.label_masks import LabelMasks

CROWD_CLASS = -1
"""``gt_classes`` of ground truth that is neither to be found nor to be learnt as background."""

__all__ = ["CROWD_CLASS", "LabelMasks"]
