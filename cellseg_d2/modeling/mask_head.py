"""Mask R-CNN's mask head with the plugin's losses."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor

from cellseg_d2.modeling.losses import loss_weight, mask_losses, with_dice


@ROI_MASK_HEAD_REGISTRY.register()
class CellMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with a weight for its loss and, if asked for, the Dice loss. Parameters keep their names.

    Args:
        input_shape: the shape of the pooled features.
        dice: whether to add the Dice loss.
        kwargs: arguments of Detectron2's head, such as ``loss_weight``.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, dice: bool = False, **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        self.dice = dice

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "loss_weight": loss_weight(cfg, "MASK_WEIGHT"), "dice": with_dice(cfg)}

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """(N, C, S, S) features of the instances -> losses in training, else the instances with ``pred_masks``."""
        if not self.training:
            return super().forward(x, instances)
        losses = mask_losses(self.layers(x), instances, self.dice, self.vis_period)
        return {name: loss * self.loss_weight for name, loss in losses.items()}
