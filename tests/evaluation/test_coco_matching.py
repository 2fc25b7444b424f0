"""Missed and spurious cells, against pycocotools' own matching and on cases worked by hand."""

import contextlib
import io

import numpy as np
import pytest
from coco_cases import draw_case
from drawing import pycocotools_rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellseg_d2.evaluation.coco_cells import image_cells
from cellseg_d2.evaluation.coco_matching import unmatched
from cellseg_d2.evaluation.overlap_table import Cells

SIZE = (40, 40)


def cells_of(*cells, crowd=None):
    """Of (mask, class) or (mask, class, score)."""
    scores = [cell[2] if len(cell) > 2 else 1 for cell in cells]
    return Cells.from_rles([pycocotools_rle(cell[0]) for cell in cells], SIZE, [c[1] for c in cells], scores, crowd)


def square(x, y=10, side=8):
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def with_pycocotools(truth, results):
    """Ids of missed annotations and of spurious results, as COCOeval matches at an IoU of 0.5."""
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = truth
        dataset.createIndex()
        evaluation = COCOeval(dataset, dataset.loadRes(results), "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [10_000]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.evaluate()
    missed, spurious = set(), set()
    for image in filter(None, evaluation.evalImgs):
        found = image["gtMatches"][0] > 0
        missed |= {own for own, hit, ignored in zip(image["gtIds"], found, image["gtIgnore"]) if not (hit or ignored)}
        free = (image["dtMatches"][0] == 0) & ~image["dtIgnore"][0].astype(bool)
        spurious |= {own for own, is_free in zip(image["dtIds"], free) if is_free}
    return missed, spurious


@pytest.mark.parametrize("seed", range(12))
def test_they_are_what_pycocotools_leaves_over(seed):
    truth, results = draw_case(seed, crowds=seed % 3 > 0, ties=seed % 2 > 0)
    images = [image["id"] for image in truth["images"]]
    own = [[cell["id"] for cell in truth["annotations"] if cell["image_id"] == image] for image in images]
    found = [[place for place, result in enumerate(results) if result["image_id"] == image] for image in images]
    missed, spurious = set(), set()
    for image, cells, places in zip(image_cells(truth, results), own, found, strict=True):
        left = unmatched(image.truth, image.predictions)
        missed |= {cells[number] for number in left[0]}
        spurious |= {places[number] + 1 for number in left[1]}  # pycocotools numbers results from 1
    assert (missed, spurious) == with_pycocotools(truth, results)
    assert len(missed) > 5
    assert len(spurious) > 5


@pytest.mark.parametrize(
    ("found", "missed", "spurious"),
    [
        ([(square(2), 0), (square(20), 1)], [], []),
        ([], [0, 1], []),
        ([(square(20), 0), (square(2), 0)], [1], [0]),
        ([(square(2), 0, 0.6), (square(2), 0, 0.9), (square(20), 1)], [], [0]),
        ([(square(2 + 3), 0), (square(20), 1)], [0], [0]),
        ([(square(2, side=4), 0), (square(20, 25), 0), (square(20), 1)], [0], [0, 1]),
    ],
    ids=["all", "none", "wrong class", "twice", "shifted", "poor and elsewhere"],
)
def test_of_two_cells(found, missed, spurious):
    left = unmatched(cells_of((square(2), 0), (square(20), 1)), cells_of(*found))
    assert [numbers.tolist() for numbers in left] == [missed, spurious]


def test_crowds_neither_reward_nor_punish():
    truth = cells_of((square(0, 0, 20), 0), (square(25, 25), 0), crowd=[True, False])
    found = cells_of((square(2, 2), 0), (square(10, 10), 0), (square(2, 2), 1), (square(16, 2), 0))
    missed, spurious = unmatched(truth, found)
    assert missed.tolist() == [1]
    assert spurious.tolist() == [2]  # of another class; that which lies on the crowd by just half is absorbed
