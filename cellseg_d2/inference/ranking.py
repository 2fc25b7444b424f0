"""How unsure a model is of an image: what its views and its thresholds do not agree on, in cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.selection import Selection
from cellseg_d2.evaluation.coco_matching import unmatched
from cellseg_d2.evaluation.overlap_table import Cells
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.views import View

VIEWS = (View(flip=True), View(quarter_turns=1))
"""What the image as it is gets compared with."""

FEW_CELLS = 5
"""An image with fewer cells counts as one of so many: what is said of one or two cells is chance."""


@dataclass(frozen=True)
class Expectation:
    """What a model says of an unlabelled image.

    Attributes:
        cells: number of cells that people would see.
        views: cells that only the image or only a view of it shows, as another cell would be missed and one spurious:
            half of them, averaged over the views.
        thresholds: cells that a high threshold leaves out and a low one shows, halfway between the usual one and 1, and
            between 0 and it.
        shown: the cells of the low threshold.
        doubted: (N,) bool, those of ``shown`` that the high threshold leaves out or a view does not show.
    """

    cells: int
    views: float
    thresholds: int
    shown: Cells
    doubted: Bools

    @property
    def gain(self) -> float:
        """The cells that the model is unsure of, the mean of those by views and by thresholds, per cell that it sees.

        By their number alone, images with the most cells would come first, which are of few kinds (docs/evaluation.md).
        """
        return (self.views + self.thresholds) / 2 / max(self.cells, FEW_CELLS)


def expect(predictor: WholeImagePredictor, image: NDArray[np.uint8]) -> Expectation:
    """Predicts an image, as it is and in the other views, and compares.

    Args:
        predictor: the model, with its thresholds.
        image: (H, W, 3) uint8 RGB, or (H, W, C) of the model's channels.
    """
    usual = predictor.selection()
    everything = predictor.predict(image)
    seen = Cells.of(usual.of(everything))
    lower, higher = halfway(usual, 0.0), halfway(usual, 1.0)
    low, high = Cells.of(lower.of(everything)), Cells.of(higher.of(everything))
    differing, doubted = [], low.scores < np.array(list(higher.least.values()))[low.classes]
    for view in VIEWS:
        turned = np.ascontiguousarray(view.image(image))
        other = Cells.of(usual.of(cells_back(predictor.predict(turned), view, everything.image_size)))
        missed, spurious = unmatched(seen, other)
        differing.append((len(missed) + len(spurious)) / 2)
        doubted |= np.isin(np.arange(len(low)), unmatched(low, other)[0])
    return Expectation(len(seen), float(np.mean(differing)), len(low) - len(high), low, doubted)


def halfway(selection: Selection, end: float) -> Selection:
    """A selection whose least scores lie halfway between those of another one and ``end``, 0 or 1."""
    least = {name: (score + end) / 2 for name, score in selection.least.items()}
    return replace(selection, min_score_of_class=least)


def cells_back(cells: CellInstances, view: View, size: tuple[int, int]) -> CellInstances:
    """Cells of a view of an image in the frame of the image; the view has the image's scale.

    Args:
        cells: the cells found in the view.
        view: how the image was turned.
        size: (height, width) of the image.
    """
    boxes = view.boxes_back(torch.from_numpy(cells.mask_boxes.astype(np.float64)), size).round().long().numpy()
    stated = view.boxes_back(torch.from_numpy(cells.boxes), size).numpy()
    masks = [
        np.ascontiguousarray(np.rot90(mask[:, ::-1] if view.flip else mask, -view.quarter_turns))
        for mask in cells.masks
    ]
    return replace(cells, image_size=size, boxes=stated, masks=masks, origins=boxes[:, :2])
