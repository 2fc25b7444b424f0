"""The class of a cell from its shape as well: Mask R-CNN classifies boxes, and its classifier never sees the masks."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor, nn
from torch.nn import functional as F

from cellseg_d2.modeling.shape_descriptors import NUMBER, shape_descriptors

HIDDEN = 64

CLOSE = 0.8
"""The least IoU of a proposal with its cell for the classifier to learn from it: others cut the mask."""


class ShapeClassifier(nn.Module):
    """Adds what the shape says to what the box head says of the class. It begins with nothing to add.

    Args:
        num_classes: K.
        class_weights: (K,) weights in the loss; None for none.
    """

    def __init__(self, num_classes: int, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(NUMBER, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
            nn.Linear(HIDDEN, num_classes),
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, masks: Tensor, boxes: Tensor, class_logits: Tensor) -> Tensor:
        """(N, h, w) probabilities, (N, 4) boxes in pixels, (N, K) logits of the box head -> (N, K) logits, float32."""
        with torch.autocast(masks.device.type, enabled=False):  # areas of thousands of pixels, ratios to a hundredth
            return class_logits.float() + self.layers(shape_descriptors(masks, boxes))

    def loss(self, masks: Tensor, instances: list[Instances]) -> Tensor:
        """The mean cross-entropy of the proposals that fit whole cells; 0 with a gradient where none does.

        Args:
            masks: (N, h, w) probabilities, without a gradient.
            instances: per image, with ``proposal_boxes``, ``gt_boxes``, ``gt_classes`` and ``class_logits``, N in all.
        """
        found = [of_image for of_image in instances if len(of_image)]  # one without cells has no gt_boxes
        if not found:
            return self(masks, masks.new_zeros(0, 4), masks.new_zeros(0, self.layers[-1].out_features)).sum()
        boxes = Boxes.cat([of_image.proposal_boxes for of_image in found])
        fits = matched_pairwise_iou(boxes, Boxes.cat([of_image.gt_boxes for of_image in found])) >= CLOSE
        fits &= torch.cat([_is_inside(of_image.gt_boxes.tensor, of_image.image_size) for of_image in found])
        logits = torch.cat([of_image.class_logits for of_image in found])[fits]
        classes = torch.cat([of_image.gt_classes for of_image in found])[fits]
        combined = self(masks[fits], boxes.tensor[fits], logits)
        total = F.cross_entropy(combined, classes, weight=self.class_weights, reduction="sum")
        weight = len(classes) if self.class_weights is None else self.class_weights[classes].sum()
        return total / max(float(weight), torch.finfo(torch.float32).eps) if len(classes) else total

    def classified(self, cells: Instances, score_threshold: float, limit: int) -> Instances:
        """One detection per cell and class that scores enough, from one per cell.

        Args:
            cells: the N cells of one image, with ``pred_boxes``, ``scores`` of being a cell, ``class_logits`` (N, K)
                and ``pred_masks`` (N, 1, h, w).
            score_threshold: detections must score more.
            limit: the most detections to keep, the best first; negative for no limit.

        Returns:
            ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_masks``, by falling score.
        """
        logits = self(cells.pred_masks[:, 0], cells.pred_boxes.tensor, cells.class_logits)
        scores = cells.scores[:, None] * logits.softmax(dim=1)
        cell, number = (scores > score_threshold).nonzero(as_tuple=True)
        order = scores[cell, number].argsort(descending=True)
        order = order[:limit] if limit >= 0 else order
        cell, number = cell[order], number[order]
        kept = {"scores": scores[cell, number], "pred_classes": number, "pred_masks": cells.pred_masks[cell]}
        return Instances(cells.image_size, pred_boxes=cells.pred_boxes[cell], **kept)


def _is_inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) boxes -> (N,) whether they touch no edge of their image of (height, width); cells there are cut."""
    most = boxes.new_tensor([size[1], size[0]]) - 1
    return (boxes[:, :2] >= 1).all(dim=1) & (boxes[:, 2:] <= most).all(dim=1)
