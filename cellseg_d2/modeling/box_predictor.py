"""The last layers of the box heads, with weights for their losses and for the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.losses import loss_weight


class CellOutputLayers(FastRCNNOutputLayers):
    """Detectron2's layers with optional class weights in the classification loss. Parameters keep their names.

    Args:
        input_shape: the shape of the box head's output.
        class_weights: weights of the K classes and, last, the background; empty for none.
        kwargs: arguments of Detectron2's layers.

    Raises:
        CellSegError: the weights do not fit the classes, or cannot be used.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, class_weights: Sequence[float] = (), **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        if len(class_weights) and self.use_sigmoid_ce:
            raise CellSegError(
                "CELLSEG.LOSS.CLASS_WEIGHTS weighs the softmax loss; set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE False"
            )
        # Not persistent: a checkpoint then has Detectron2's names only, and loads whatever the weights are.
        self.register_buffer("class_weights", _checked(class_weights, self.num_classes), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        arguments = super().from_config(cfg, input_shape)
        arguments["loss_weight"] = {**arguments["loss_weight"], "loss_cls": loss_weight(cfg, "BOX_CLS_WEIGHT")}
        arguments["class_weights"] = cfg.CELLSEG.LOSS.CLASS_WEIGHTS
        return arguments

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """See :meth:`detectron2.modeling.roi_heads.FastRCNNOutputLayers.losses`.

        With class weights, ``loss_cls`` is the mean over the proposals, weighted by class, as in torch's
        ``cross_entropy(weight=...)``. It is 0 where all proposals have the weight 0; torch's is NaN there.
        """
        losses = super().losses(predictions, proposals)
        if self.class_weights is not None and len(proposals):
            classes = torch.cat([of_image.gt_classes for of_image in proposals])
            total = F.cross_entropy(predictions[0].float(), classes, weight=self.class_weights, reduction="sum")
            weight = self.class_weights[classes].sum().clamp(min=torch.finfo(torch.float32).eps)
            losses["loss_cls"] = total / weight * self.loss_weight.get("loss_cls", 1.0)
        return losses


def _checked(weights: Sequence[float], num_classes: int) -> Tensor | None:
    """(K + 1,) float32, or None for no weights."""
    if not len(weights):
        return None
    if len(weights) != num_classes + 1:
        raise CellSegError(
            f"CELLSEG.LOSS.CLASS_WEIGHTS has {len(weights)} weights; give {num_classes + 1}: one for each of the "
            f"{num_classes} classes, and the background's last"
        )
    numbers = [weight for weight in weights if isinstance(weight, (int, float)) and math.isfinite(weight)]
    if len(numbers) < len(weights) or min(numbers) < 0 or max(numbers) == 0:
        raise CellSegError(
            f"CELLSEG.LOSS.CLASS_WEIGHTS is {list(weights)}; give finite numbers of at least 0, not all of them 0"
        )
    return torch.tensor(numbers, dtype=torch.float32)
