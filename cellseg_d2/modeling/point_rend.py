"""PointRend's mask head on label maps (Kirillov et al., PointRend, CVPR 2020; Detectron2's projects/PointRend)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.projects.point_rend import PointRendMaskHead
from detectron2.projects.point_rend.mask_head import calculate_uncertainty
from detectron2.projects.point_rend.point_features import (
    get_point_coords_wrt_image,
    get_uncertain_point_coords_with_randomness,
)
from detectron2.projects.point_rend.point_head import roi_mask_point_loss
from detectron2.structures import Boxes, Instances

from cellseg_d2.modeling.losses import dice_loss, loss_weight, mask_losses, own_class_logits, with_dice


@ROI_MASK_HEAD_REGISTRY.register()
class CellPointRendMaskHead(PointRendMaskHead):
    """Detectron2's head with point labels from label maps, where it takes bitmasks only, and the plugin's losses.

    The Dice loss is added for the coarse masks and for the points, because the points make the predicted outline.
    """

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__(cfg, input_shape)
        self.loss_weight = loss_weight(cfg, "MASK_WEIGHT")
        self.dice = with_dice(cfg)

    def forward(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Feature maps of the images -> losses in training, else the instances with ``pred_masks``."""
        if not self.training:
            return super().forward(features, instances)
        boxes = [proposals.proposal_boxes for proposals in instances]
        coarse = self.coarse_head(self._roi_pooler(features, boxes))
        losses = mask_losses(coarse, instances, self.dice)
        if self.mask_point_on:
            points, labels = self._sample_train_points(coarse, instances)
            logits = self._get_point_logits(self._point_pooler(features, boxes, points), points, coarse)
            losses["loss_mask_point"] = roi_mask_point_loss(logits, instances, labels)
            if self.dice:
                losses["loss_mask_point_dice"] = dice_loss(own_class_logits(logits, instances), labels)
        return {name: loss * self.loss_weight for name, loss in losses.items()}

    @torch.no_grad()
    def _sample_train_points(
        self, coarse_mask: torch.Tensor, instances: list[Instances]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Points of each box, most of them where the coarse mask is unsure: (R, P, 2) in [0, 1], and (R, P) labels."""
        classes = torch.cat([proposals.gt_classes for proposals in instances])
        points = get_uncertain_point_coords_with_randomness(
            coarse_mask,
            lambda logits: calculate_uncertainty(logits, classes),
            self.mask_point_train_num_points,
            self.mask_point_oversample_ratio,
            self.mask_point_importance_sample_ratio,
        )
        boxes = Boxes.cat([proposals.proposal_boxes for proposals in instances])
        in_image = get_point_coords_wrt_image(boxes.tensor, points).split([len(proposals) for proposals in instances])
        labels = [
            proposals.gt_masks.sample_points(places).to(points.device)
            for proposals, places in zip(instances, in_image)
            if len(proposals)
        ]
        return points, torch.cat(labels) if labels else points.new_zeros(points.shape[:2])
