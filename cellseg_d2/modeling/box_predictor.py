"""The last layers of the box heads, with weights for their losses and for the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.losses import checked_class_weights, loss_weight


class CellOutputLayers(FastRCNNOutputLayers):
    """Detectron2's layers with optional class weights in the classification loss. Parameters keep their names.

    Args:
        input_shape: the shape of the box head's output.
        class_weights: weights of the K classes and, last, the background; empty for none.
        classes_later: find cells of any class, and leave their classes to CELLSEG.SHAPE_CLASSIFIER.
        kwargs: arguments of Detectron2's layers.

    Raises:
        CellSegError: the weights do not fit the classes, or cannot be used.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        class_weights: Sequence[float] = (),
        classes_later: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        self.classes_later = classes_later
        if len(class_weights) and self.use_sigmoid_ce:
            raise CellSegError(
                "CELLSEG.LOSS.CLASS_WEIGHTS weighs the softmax loss; set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE False"
            )
        # Not persistent: a checkpoint then has Detectron2's names only, and loads whatever the weights are.
        self.register_buffer("class_weights", checked_class_weights(class_weights, self.num_classes), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        arguments = super().from_config(cfg, input_shape)
        arguments["loss_weight"] = {**arguments["loss_weight"], "loss_cls": loss_weight(cfg, "BOX_CLS_WEIGHT")}
        arguments["class_weights"] = cfg.CELLSEG.LOSS.CLASS_WEIGHTS
        arguments["classes_later"] = cfg.CELLSEG.SHAPE_CLASSIFIER
        return arguments

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """See :meth:`detectron2.modeling.roi_heads.FastRCNNOutputLayers.losses`.

        With class weights, ``loss_cls`` is the mean over the proposals, weighted by class, as in torch's
        ``cross_entropy(weight=...)``. It is 0 where all proposals have the weight 0; torch's is NaN there.

        With ``classes_later`` the proposals get ``class_logits``, (N, K), without a gradient.
        """
        losses = super().losses(predictions, proposals)
        if self.class_weights is not None and len(proposals):
            classes = torch.cat([of_image.gt_classes for of_image in proposals])
            total = F.cross_entropy(predictions[0].float(), classes, weight=self.class_weights, reduction="sum")
            weight = self.class_weights[classes].sum().clamp(min=torch.finfo(torch.float32).eps)
            losses["loss_cls"] = total / weight * self.loss_weight.get("loss_cls", 1.0)
        if self.classes_later:
            counts = [len(of_image) for of_image in proposals]
            for of_image, logits in zip(proposals, predictions[0].detach()[:, :-1].split(counts)):
                of_image.class_logits = logits
        return losses

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """See :meth:`detectron2.modeling.roi_heads.FastRCNNOutputLayers.inference`.

        With ``classes_later`` each cell is found once, as class 0, with the score of not being background and with
        ``class_logits``, (N, K).
        """
        if not self.classes_later:
            return super().inference(predictions, proposals)
        boxes = self.predict_boxes(predictions, proposals)
        background = [of_image[:, -1] for of_image in self.predict_probs(predictions, proposals)]
        found, places = fast_rcnn_inference(
            *(boxes, [torch.stack([1 - of_image, of_image], dim=1) for of_image in background]),
            [of_image.image_size for of_image in proposals],
            *(self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image),
        )
        logits = predictions[0][:, :-1].split([len(of_image) for of_image in proposals])
        for instances, of_image, place in zip(found, logits, places):
            instances.class_logits = of_image[place]
        return found, places
