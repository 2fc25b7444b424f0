"""RoI heads that leave crowds out of their losses."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from detectron2.structures import ImageList, Instances, pairwise_iou
from torch import Tensor

from cellseg_d2.modeling.rpn import CellRPN, lies_on_crowd
from cellseg_d2.structures import CROWD_CLASS


class IgnoreCrowd:
    """Takes crowds, and the proposals that lie on them, away before the heads sample what they train on.

    Mixed into any of Detectron2's RoI heads. A proposal that shows a cell stays, wherever it lies.
    """

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """See :meth:`detectron2.modeling.ROIHeads.forward`."""
        if self.training and targets is not None:  # type: ignore[attr-defined]
            pairs = [without_crowds(*pair) for pair in zip(proposals, targets)]
            proposals, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return super().forward(images, features, proposals, targets)  # type: ignore[misc]


def ignores_crowd(cfg: CfgNode) -> bool:
    """Whether a config's RPN and RoI heads know what ``gt_classes`` of -1 mean."""
    rpn = PROPOSAL_GENERATOR_REGISTRY.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    return issubclass(rpn, CellRPN) and issubclass(heads, IgnoreCrowd)


def without_crowds(proposals: Instances, targets: Instances) -> tuple[Instances, Instances]:
    """One image's proposals off crowds or on cells (IoU of at least 0.5), and its targets that are cells."""
    crowd = targets.gt_classes == CROWD_CLASS
    if not crowd.any():
        return proposals, targets
    cells = targets[~crowd]
    away = ~lies_on_crowd(targets.gt_boxes[crowd], proposals.proposal_boxes)
    if len(cells):
        away |= (pairwise_iou(cells.gt_boxes, proposals.proposal_boxes) >= 0.5).any(dim=0)
    return proposals[away], cells


@ROI_HEADS_REGISTRY.register()
class CellCascadeROIHeads(IgnoreCrowd, CascadeROIHeads):
    """Detectron2's Cascade R-CNN heads (Cai and Vasconcelos, CVPR 2018), with crowds left out.

    They are left out once, before the first stage: a box that a stage moves onto a crowd is background to the next one.
    """


@ROI_HEADS_REGISTRY.register()
class CellROIHeads(IgnoreCrowd, StandardROIHeads):
    """Detectron2's box and mask heads, with crowds left out."""
