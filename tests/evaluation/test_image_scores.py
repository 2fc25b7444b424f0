"""F1 by image against counting what is left unmatched, and the order of images."""

import math

import numpy as np
import pytest
from coco_cases import NAMES, draw_case

from cellseg_d2.cells.selection import Selection
from cellseg_d2.evaluation.coco_cells import image_cells
from cellseg_d2.evaluation.coco_matching import unmatched
from cellseg_d2.evaluation.image_scores import ImageScore, image_scores, worst_first
from cellseg_d2.evaluation.judgement import judge_results


@pytest.mark.parametrize("threshold", [0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("case", [{"seed": 0, "crowds": False}, {"seed": 1}, {"seed": 2, "ties": True}])
def test_counts_are_of_what_matching_leaves_over(case, threshold):
    truth, results = draw_case(**case)
    selection = Selection(NAMES, threshold)
    scores = image_scores(judge_results(truth, results, 1000, selection).cells)
    for image, score in zip(image_cells(truth, results), scores, strict=True):
        missed, spurious = unmatched(image.truth, image.predictions.selected(selection))
        cells = int(np.count_nonzero(~image.truth.crowd))
        assert score == ImageScore(image.name, cells, len(missed), len(spurious))


def test_without_crowds_and_overlaps_counts_are_those_of_the_metrics():
    truth, _ = draw_case(0, crowds=False)
    truth["annotations"] = [cell for cell in truth["annotations"] if cell["category_id"] == 1]
    results = [{**cell, "score": 0.9} for cell in truth["annotations"][::2]]
    cells = judge_results(truth, results, 1000, Selection(NAMES)).cells
    hit, spurious, missed = cells.metrics.counts.sum(axis=1).T
    scores = image_scores(cells)
    assert [(score.hit, score.spurious, score.missed) for score in scores] == list(zip(hit, spurious, missed))
    assert sum(hit) and sum(missed)


def test_the_worst_come_first_and_images_without_anything_are_left_out():
    scores = [
        ImageScore("perfect", 5, 0, 0),
        ImageScore("empty", 0, 0, 0),
        ImageScore("only spurious", 0, 0, 2),
        ImageScore("all missed", 9, 9, 0),
        ImageScore("half", 4, 2, 2),
        ImageScore("more cells, perfect", 50, 0, 0),
    ]
    assert math.isnan(scores[1].f1) and scores[4].f1 == 50
    names = [scores[place].name for place in worst_first(scores)]
    assert names == ["all missed", "only spurious", "half", "perfect", "more cells, perfect"]
