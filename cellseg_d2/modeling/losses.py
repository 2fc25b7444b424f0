"""The losses that CELLSEG.LOSS sets: the weights of the five losses, and the Dice loss of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Instances
from torch import Tensor

from cellseg_d2.errors import CellSegError

MASK_LOSSES = ("bce", "dice_bce")
"""The values of CELLSEG.LOSS.MASK."""

SMOOTHING = 1.0
"""Added above and below in the Dice coefficient's fraction, so that two empty masks have the coefficient 1."""


def loss_weight(cfg: CfgNode, key: str) -> float:
    """The weight CELLSEG.LOSS.``key``.

    Raises:
        CellSegError: it is negative or not finite.
    """
    value = float(cfg.CELLSEG.LOSS[key])
    if not (math.isfinite(value) and value >= 0):
        raise CellSegError(f"CELLSEG.LOSS.{key} is {value:g}; give a finite number of at least 0")
    return value


def checked_class_weights(weights: Sequence[float], num_classes: int) -> Tensor | None:
    """CELLSEG.LOSS.CLASS_WEIGHTS as (K + 1,) float32, or None for no weights.

    Raises:
        CellSegError: they do not fit the classes, or cannot be used.
    """
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
    computed in float32 under AMP too, because a sum in float16 loses every term below about a thousandth of it.

    Args:
        logits: (N, ...) float.
        targets: (N, ...), bool or float in [0, 1].

    Returns:
        () float32 in [0, 1]; 0 with a gradient where there are no masks.
    """
    found = logits.float().flatten(1).sigmoid()
    wanted = targets.float().flatten(1)
    overlap = 2 * (found * wanted).sum(dim=1) + SMOOTHING
    total = (found.square() + wanted.square()).sum(dim=1) + SMOOTHING
    return (1 - overlap / total).sum() / max(len(found), 1)


def own_class_logits(logits: Tensor, instances: list[Instances]) -> Tensor:
    """The logits of each cell's true class: (N, K, ...), or (N, 1, ...) where classes share them -> (N, ...).

    Args:
        logits: for the instances of all images, in order.
        instances: per image, with ``gt_classes``.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    classes = torch.cat([of_image.gt_classes for of_image in instances]).to(logits.device, torch.int64)
    return logits[torch.arange(len(logits), device=logits.device), classes]


class _CroppedMasks:
    """Ground-truth masks cropped to their boxes, (N, M, M) bool; Detectron2's loss uses them unchanged."""

    def __init__(self, crops: Tensor) -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        return self.crops


def mask_losses(logits: Tensor, instances: list[Instances], dice: bool, vis_period: int = 0) -> dict[str, Tensor]:
    """Mask R-CNN's ``loss_mask`` and, if asked for, ``loss_mask_dice``.

    The Dice loss has a separate name, so that ``loss_mask`` is comparable between runs with and without it.

    Args:
        logits: (N, K or 1, M, M).
        instances: per image, with ``gt_classes``, ``gt_masks`` and ``proposal_boxes``, N in all.
        dice: whether to add the Dice loss.
        vis_period: iterations between two pictures of the masks in the event storage; 0 for none.
    """
    if not dice:
        return {"loss_mask": mask_rcnn_loss(logits, instances, vis_period)}
    # Both losses need the cropped masks. Cropping hundreds of cells is slow, so it is done once.
    cropped = []
    for cells in instances:
        if len(cells):  # an image without cells has no gt_masks
            crops = cells.gt_masks.crop_and_resize(cells.proposal_boxes.tensor, logits.shape[-1]).to(logits.device)
            fields = {"gt_classes": cells.gt_classes, "proposal_boxes": cells.proposal_boxes}
            cropped.append(Instances(cells.image_size, gt_masks=_CroppedMasks(crops), **fields))
    targets = [cells.gt_masks.crops for cells in cropped]
    return {
        "loss_mask": mask_rcnn_loss(logits, cropped, vis_period),
        "loss_mask_dice": dice_loss(
            own_class_logits(logits, instances),
            torch.cat(targets) if targets else logits.new_zeros(0, *logits.shape[2:]),
        ),
    }
