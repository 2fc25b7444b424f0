"""What CELLSEG.LOSS chooses: the weights of the five losses, and the Dice loss of masks."""

from __future__ import annotations

import math

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Instances
from torch import Tensor

from cellseg_d2.errors import CellSegError

MASK_LOSSES = ("bce", "dice_bce")
"""The values of CELLSEG.LOSS.MASK."""

SMOOTHING = 1.0
"""Added to both sides of the Dice coefficient's fraction, so that it is defined, and 1, for two empty masks."""


def loss_weight(cfg: CfgNode, key: str) -> float:
    """The weight CELLSEG.LOSS.``key``.

    Raises:
        CellSegError: it is negative or no finite number.
    """
    value = float(cfg.CELLSEG.LOSS[key])
    if not (math.isfinite(value) and value >= 0):
        raise CellSegError(f"CELLSEG.LOSS.{key} is {value:g}; give a finite number of at least 0")
    return value


def with_dice(cfg: CfgNode) -> bool:
    """Whether CELLSEG.LOSS.MASK asks for the Dice loss.

    Raises:
        CellSegError: it is none of :data:`MASK_LOSSES`.
    """
    name = cfg.CELLSEG.LOSS.MASK
    if name not in MASK_LOSSES:
        raise CellSegError(f"CELLSEG.LOSS.MASK is {name}; give one of {', '.join(MASK_LOSSES)}")
    return name == "dice_bce"


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus each mask's soft Dice coefficient, averaged over the masks.

    The coefficient is V-Net's (Milletari et al., V-Net, 3DV 2016), with squares in the denominator, smoothed. It is
    computed in float32 under AMP too: a sum over a mask in float16 drops what is under a thousandth of it.

    Args:
        logits: (N, ...) float.
        targets: (N, ...), bool or float in [0, 1].

    Returns:
        () float32 in [0, 1]; without masks a zero that has a gradient.
    """
    found = logits.float().flatten(1).sigmoid()
    wanted = targets.float().flatten(1)
    overlap = 2 * (found * wanted).sum(dim=1) + SMOOTHING
    total = (found.square() + wanted.square()).sum(dim=1) + SMOOTHING
    return (1 - overlap / total).sum() / max(len(found), 1)


def own_class_logits(logits: Tensor, instances: list[Instances]) -> Tensor:
    """(N, K, ...) logits, or (N, 1, ...) class-agnostic ones -> (N, ...), those of each cell's true class.

    Args:
        logits: for the instances of all images, in order.
        instances: per image, with ``gt_classes``.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    classes = torch.cat([own.gt_classes for own in instances]).to(logits.device, torch.int64)
    return logits[torch.arange(len(logits), device=logits.device), classes]


class _CroppedMasks:
    """Ground-truth masks inside their boxes, (N, M, M) bool, which Detectron2's loss is to take as they are."""

    def __init__(self, crops: Tensor) -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        return self.crops


def mask_losses(logits: Tensor, instances: list[Instances], dice: bool, vis_period: int = 0) -> dict[str, Tensor]:
    """Mask R-CNN's ``loss_mask`` and, where asked for, ``loss_mask_dice``.

    The Dice loss has a name of its own, so that ``loss_mask`` stays comparable between runs with and without it.

    Args:
        logits: (N, K or 1, M, M).
        instances: per image, with ``gt_classes``, ``gt_masks`` and ``proposal_boxes``, N in all.
        dice: whether to add the Dice loss.
        vis_period: iterations between pictures of the masks in the event storage; 0 for none.
    """
    if not dice:
        return {"loss_mask": mask_rcnn_loss(logits, instances, vis_period)}
    # Both losses need the masks inside their boxes, and cropping hundreds of cells is not cheap: it is done once.
    cropped = []
    for own in instances:
        if len(own):  # an image without cells has no gt_masks
            crops = own.gt_masks.crop_and_resize(own.proposal_boxes.tensor, logits.shape[-1]).to(logits.device)
            fields = {"gt_classes": own.gt_classes, "proposal_boxes": own.proposal_boxes}
            cropped.append(Instances(own.image_size, gt_masks=_CroppedMasks(crops), **fields))
    targets = [own.gt_masks.crops for own in cropped]
    return {
        "loss_mask": mask_rcnn_loss(logits, cropped, vis_period),
        "loss_mask_dice": dice_loss(
            own_class_logits(logits, instances),
            torch.cat(targets) if targets else logits.new_zeros(0, *logits.shape[2:]),
        ),
    }
