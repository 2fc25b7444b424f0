"""Backbones and heads that Detectron2 lacks; importing this package registers them."""

import warnings

from cellseg_d2.modeling.box_predictor import CellOutputLayers
from cellseg_d2.modeling.deformable import build_cell_resnet_fpn_backbone
from cellseg_d2.modeling.efficientnet_lite import build_efficientnet_lite0_fpn_backbone
from cellseg_d2.modeling.mask_head import CellMaskHead
from cellseg_d2.modeling.point_rend import CellPointRendMaskHead
from cellseg_d2.modeling.roi_heads import CellCascadeROIHeads, CellROIHeads
from cellseg_d2.modeling.rpn import CellRPN

__all__ = [
    "CellCascadeROIHeads",
    "CellMaskHead",
    "CellOutputLayers",
    "CellPointRendMaskHead",
    "CellROIHeads",
    "CellRPN",
    "build_cell_resnet_fpn_backbone",
    "build_efficientnet_lite0_fpn_backbone",
]

# Detectron2's anchors call it in a way that torch will change one day; nobody who predicts can do anything about it.
warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
