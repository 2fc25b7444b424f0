"""Data structures that Detectron2 lacks."""

from cellseg_d2.structures.label_masks import LabelMasks

CROWD_CLASS = -1
"""``gt_classes`` of a crowd: ground truth that the model should neither find nor learn as background."""

__all__ = ["CROWD_CLASS", "LabelMasks"]
