"""F1 per image, and which images went worst and best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellseg_d2.evaluation.error_breakdown import HIT, Judged
from cellseg_d2.evaluation.judgement import CellJudgement


@dataclass(frozen=True)
class ImageScore:
    """What COCO's matching at an IoU of 0.5, class by class, says of one image's cells and predictions.

    Attributes:
        name: the image's name.
        cells: cells without crowds.
        missed: cells without a prediction.
        spurious: predictions without a cell that no crowd absorbs.
    """

    name: str
    cells: int
    missed: int
    spurious: int

    @property
    def hit(self) -> int:
        """Cells with a prediction."""
        return self.cells - self.missed

    @property
    def f1(self) -> float:
        """F1 in percent; NaN where there are neither cells nor predictions."""
        total = 2 * self.hit + self.missed + self.spurious
        return 200 * self.hit / total if total else math.nan


def image_scores(cells: CellJudgement) -> list[ImageScore]:
    """The score of each image by the selected predictions, in order."""
    return [_score(name, shown) for name, shown in zip(cells.images, cells.shown)]


def _score(name: str, judged: Judged) -> ImageScore:
    hits = judged.kinds == HIT
    cells, hit = len(judged.truth_classes), int(np.count_nonzero(hits))
    return ImageScore(name, cells, missed=cells - hit, spurious=len(hits) - hit)


def worst_first(scores: Sequence[ImageScore]) -> list[int]:
    """Places of the images by F1; of equal F1, those with more errors come first, and then those with fewer cells.

    Images with neither cells nor predictions, which show nothing, are left out.
    """
    places = [place for place, score in enumerate(scores) if not math.isnan(score.f1)]
    return sorted(places, key=lambda place: _rank(scores[place]))


def _rank(score: ImageScore) -> tuple[float, int, int]:
    return score.f1, -(score.missed + score.spurious), score.cells
