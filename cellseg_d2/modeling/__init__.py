"""Backbones and heads that Detectron2 lacks; importing this package registers them."""

from cellseg_d2.modeling.efficientnet_lite import build_efficientnet_lite0_fpn_backbone

__all__ = ["build_efficientnet_lite0_fpn_backbone"]
