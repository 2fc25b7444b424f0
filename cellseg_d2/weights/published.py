"""Makes the files of :data:`cellseg_d2.weights.locations.PUBLISHED`, the weights that come with this package.

``python -m cellseg_d2.weights.published CHECKPOINT FILE [THRESHOLD]`` makes one; docs/models.md describes its training.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import whole_file
from cellseg_d2.weights.checkpoint import WeightsFile
from cellseg_d2.weights.pretrained import CONFIG_KEY

CLASS_BIAS = "roi_heads.box_predictor.cls_score.bias"
"""The bias of the classifier; the background's is last."""


def publish(checkpoint: str | os.PathLike[str], target: Path, threshold: float | None = None) -> None:
    """Writes the weights and the config of a checkpoint at half the size.

    Matrices and kernels become float16. Biases and statistics of normalisation stay float32, because they are few and
    small values among them would be lost.

    Args:
        checkpoint: a checkpoint of this package.
        target: the file to write.
        threshold: the score that becomes 0.5, such as the one with the best F1 on validation images; None for the
            checkpoint's, where it has one class. The bias of the background and MODEL.ROI_HEADS.SCORE_THRESH_TEST
            change with it, so that the same detections come in the same order.

    Raises:
        CellSegError: the checkpoint cannot be read, or the file cannot be written.
    """
    opened = WeightsFile.read(checkpoint)
    cfg = opened.cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.CELLSEG.DATASET = "", get_cfg().MODEL.DEVICE, ""
    weights: dict[str, torch.Tensor] = opened.content["model"]
    halved: dict[str, Any] = {
        name: tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor.clone()
        for name, tensor in weights.items()
    }
    known = cfg.CELLSEG.INFERENCE.MIN_SCORES
    if threshold is None and len(known) == 1:
        threshold = known[0]
    if threshold is not None:
        cfg.CELLSEG.INFERENCE.MIN_SCORES = []
        shift = math.log(threshold / (1 - threshold))
        halved[CLASS_BIAS][-1] += shift
        least = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1 / (1 + (1 - least) / least * math.exp(shift))
    with whole_file(target) as partial:
        torch.save({"model": halved, CONFIG_KEY: cfg.dump()}, partial)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise CellSegError("usage: python -m cellseg_d2.weights.published CHECKPOINT FILE [THRESHOLD]")
    publish(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:]))
