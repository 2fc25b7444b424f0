"""PointRend's mask head on label maps (Kirillov et al., PointRend, CVPR 2020; Detectron2's projects/PointRend)."""

from __future__ import annotations

import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.projects.point_rend import PointRendMaskHead
from detectron2.projects.point_rend.mask_head import calculate_uncertainty
from detectron2.projects.point_rend.point_features import (
    get_point_coords_wrt_image,
    get_uncertain_point_coords_with_randomness,
)
from detectron2.structures import Boxes, Instances


@ROI_MASK_HEAD_REGISTRY.register()
class CellPointRendMaskHead(PointRendMaskHead):
    """Detectron2's head, which takes bitmasks only, with point labels from label maps."""

    @torch.no_grad()
    def _sample_train_points(
        self, coarse_mask: torch.Tensor, instances: list[Instances]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, P, 2) points in [0, 1] of the boxes, most where the coarse mask is unsure, and their (R, P) labels."""
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
            proposals.gt_masks.sample_points(own).to(points.device)
            for proposals, own in zip(instances, in_image)
            if len(proposals)
        ]
        return points, torch.cat(labels) if labels else points.new_zeros(points.shape[:2])
