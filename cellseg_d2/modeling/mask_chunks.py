"""Masks of an image's cells in small groups."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

CHUNK = {"cpu": 16, "cuda": 128}
"""Cells whose masks are computed at once. On a CPU the features of 16 stay in its caches, which makes them twice as
fast; a GPU needs more to be busy. Memory is that of one group, where 1,000 masks of PointRend took over 20 GB."""


class MasksInChunks:
    """Mixin for Detectron2's RoI heads that predicts masks in groups of cells; not in training, nor in traced graphs.

    Every cell is computed as before: no layer of the mask heads looks at two cells at once.
    """

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        # the number of groups would be a constant of a traced graph
        if self.training or not self.mask_on or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return super()._forward_mask(features, instances)  # type: ignore[misc]
        found = []
        for number, of_image in enumerate(instances):
            alone = {name: feature[number : number + 1] for name, feature in features.items()}
            step = CHUNK.get(of_image.pred_boxes.device.type, CHUNK["cuda"])
            groups = [of_image[first : first + step] for first in range(0, max(len(of_image), 1), step)]
            groups = [super(MasksInChunks, self)._forward_mask(alone, [group])[0] for group in groups]  # type: ignore[misc]
            found.append(Instances.cat(groups))
        return found
