"""Mask R-CNN's mask head with the plugin's losses."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from cellseg_d2.modeling.group_norm import use_fast_group_norm
from cellseg_d2.modeling.lite_training import in_channel_order
from cellseg_d2.modeling.losses import checked_class_weights, loss_weight, mask_losses, with_dice
from cellseg_d2.modeling.shape_classifier import ShapeClassifier


@ROI_MASK_HEAD_REGISTRY.register()
class CellMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with a weight for its loss and, if asked for, the Dice loss. Parameters keep their names.

    Args:
        input_shape: the shape of the pooled features.
        dice: whether to add the Dice loss.
        shape_classifier: classifies cells by their masks, see CELLSEG.SHAPE_CLASSIFIER; None for none.
        kwargs: arguments of Detectron2's head, such as ``loss_weight``.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        dice: bool = False,
        shape_classifier: ShapeClassifier | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        self.dice = dice
        self.shape_classifier = shape_classifier
        use_fast_group_norm(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        arguments = super().from_config(cfg, input_shape)
        classifier = None
        if cfg.CELLSEG.SHAPE_CLASSIFIER:
            weights = checked_class_weights(cfg.CELLSEG.LOSS.CLASS_WEIGHTS, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
            classifier = ShapeClassifier(cfg.MODEL.ROI_HEADS.NUM_CLASSES, None if weights is None else weights[:-1])
        weight = loss_weight(cfg, "MASK_WEIGHT")
        return {**arguments, "loss_weight": weight, "dice": with_dice(cfg), "shape_classifier": classifier}

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """(N, C, S, S) features of the instances -> losses in training, else the instances with ``pred_masks``."""
        if not self.training:
            return super().forward(x, instances)
        logits = self.own_class_layers(x, instances) if x.device.type == "cpu" else self.layers(x)
        losses = mask_losses(logits, instances, self.dice, self.vis_period)
        losses = {name: loss * self.loss_weight for name, loss in losses.items()}
        if self.shape_classifier is not None:
            losses["loss_shape"] = self.shape_classifier.loss(logits[:, 0].detach().sigmoid(), instances)
        return losses

    def layers(self, x: Tensor) -> Tensor:
        """(N, C, S, S) features -> (N, K or 1, 2 S, 2 S) logits; Detectron2's head would call all its children."""
        for child in self.children():
            if child is not self.shape_classifier:
                x = child(x)
        return x

    def own_class_layers(self, x: Tensor, instances: list[Instances]) -> Tensor:
        """(N, C, S, S) features -> (N, 1, 2 S, 2 S) logits of the true classes, which are all that the losses see.

        The upsampling is computed as the convolution of one pixel that it is, whose results are four pixels each. Only
        the logits are put into their places: to move one number per pixel is faster than to move all channels.
        """
        x = in_channel_order(x)
        for layer in self.conv_norm_relus:
            x = layer(x)
        deconv, predictor, (count, _, height, width) = self.deconv, self.predictor, x.shape
        kernels = deconv.weight.permute(2, 3, 1, 0).reshape(4 * deconv.out_channels, -1, 1, 1)
        four = F.relu(F.conv2d(x, kernels, deconv.bias.repeat(4)), inplace=True).permute(0, 2, 3, 1)
        classes = torch.zeros(count, dtype=torch.int64)
        if predictor.out_channels > 1:
            classes = torch.cat([of_image.gt_classes for of_image in instances])
        pixels = four.reshape(count, height * width * 4, deconv.out_channels)
        logits = torch.bmm(predictor.weight[classes, None, :, 0, 0], pixels.transpose(1, 2))
        logits = (logits[:, 0] + predictor.bias[classes, None]).view(count, height, width, 2, 2).transpose(2, 3)
        return logits.reshape(count, 1, 2 * height, 2 * width)
