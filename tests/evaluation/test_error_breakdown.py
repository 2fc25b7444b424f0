"""Errors by kind: AP50 against faster-coco-eval, and each kind and what fixing it adds on cases worked by hand."""

import math

import numpy as np
import pytest
from coco_cases import CASES, NAMES, draw_case
from drawing import pycocotools_rle

from cellseg_d2.evaluation.coco_ap import average_precision
from cellseg_d2.evaluation.coco_cells import image_cells
from cellseg_d2.evaluation.error_breakdown import KINDS, Judged, break_down, judge
from cellseg_d2.evaluation.overlap_table import Cells

SIZE = (40, 40)


@pytest.mark.parametrize(("case", "cap"), CASES)
def test_ap50_is_cocos_and_no_fix_lowers_it(case, cap):
    truth, results = draw_case(**case)
    images = list(image_cells(truth, results))
    judged = Judged.concatenate([judge(image.truth, image.predictions, cap) for image in images])
    errors = break_down(judged, len(NAMES))
    assert errors.ap50 == pytest.approx(average_precision(truth, results, "segm", cap)["AP50"], abs=1e-6)
    assert list(errors.costs) == list(KINDS)
    assert all(0 <= cost <= 100 - errors.ap50 + 1e-9 for cost in errors.costs.values())
    false = sum(int(errors.counts[kind].sum()) for kind in KINDS if kind != "missed")
    assert false == len(judged.kinds) - int((judged.kinds == 0).sum())


def disc(x, y=20, radius=5):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def errors_of(truth, found, crowd=None, cap=100):
    """Of lists of (mask, class) and (mask, class, score)."""
    cells = Cells.from_rles([pycocotools_rle(m) for m, _ in truth], SIZE, [kind for _, kind in truth], crowd=crowd)
    predictions = Cells.from_rles(
        [pycocotools_rle(m) for m, *_ in found], SIZE, [own[1] for own in found], [own[2] for own in found]
    )
    return break_down(judge(cells, predictions, cap), 2)


def numbers(errors):
    return {kind: int(count.sum()) for kind, count in errors.counts.items() if count.any()}


@pytest.mark.parametrize(
    ("found", "expected", "cost"),
    [
        pytest.param([], {"missed": 2}, {"missed": 100}, id="nothing found"),
        pytest.param([(disc(8), 0, 0.9)], {"missed": 1}, {"missed": 100 - 100 * 51 / 101}, id="one of two"),
        pytest.param(
            [(disc(30, 5, 3), 0, 0.95), (disc(8), 0, 0.9), (disc(28), 0, 0.8)],
            {"spurious": 1},
            {"spurious": 100 - 100 * 2 / 3},
            id="one that is none",
        ),
        pytest.param(
            [(disc(8), 0, 0.95), (disc(8, 21), 0, 0.9), (disc(28), 0, 0.8)],
            {"doubled": 1},
            {"doubled": 100 - 100 * (51 + 50 * 2 / 3) / 101},
            id="one twice",
        ),
        pytest.param(
            [(disc(8), 0, 0.95), (disc(28), 1, 0.9)],
            {"wrong class": 1},
            {"wrong class": 100 - 100 * 51 / 101},
            id="a wrong class",
        ),
        pytest.param(
            [(disc(8), 0, 0.95), (disc(28, 20, 3), 0, 0.9)],
            {"poor outline": 1},
            {"poor outline": 100 - 100 * 51 / 101},
            id="too small",
        ),
        pytest.param(
            [(disc(8), 0, 0.95), (disc(28, 20, 3), 0, 0.9), (disc(28, 21, 3), 0, 0.8)],
            {"poor outline": 2},
            {"poor outline": 100 - 100 * 51 / 101},
            id="too small twice: the best is fixed, the other left out",
        ),
        pytest.param(
            [(disc(8), 0, 0.95), (disc(28, 20, 3), 1, 0.9)],
            {"missed": 1, "spurious": 1},
            {"missed": 100 - 100 * 51 / 101},
            id="wrong in both",
        ),
        pytest.param(
            [(disc(8), 0, 0.95), (disc(28), 0, 0.9), (disc(28), 1, 0.8)],
            {"wrong class": 1},
            {},
            id="a second class for what is found, which no class with cells pays for",
        ),
    ],
)
def test_each_kind_and_its_cost(found, expected, cost):
    errors = errors_of([(disc(8), 0), (disc(28), 0)], found)
    assert numbers(errors) == expected
    assert errors.costs == pytest.approx({**dict.fromkeys(KINDS, 0), **cost}, abs=1e-9)


def test_a_cell_that_touches_one_of_its_class_has_a_wrong_class_not_a_poor_outline():
    left, right = disc(10), disc(18) & ~disc(10)
    grown = right | (disc(10) & (np.arange(40) > 12))
    assert numbers(errors_of([(left, 0), (right, 1)], [(left, 0, 0.9), (grown, 0, 0.8)])) == {"wrong class": 1}


def test_detections_on_a_crowd_are_no_errors():
    errors = errors_of([(disc(8), 0), (disc(28, 20, 10), 0)], [(disc(8), 0, 0.9), (disc(27), 0, 0.95)], [False, True])
    assert numbers(errors) == {}
    assert errors.ap50 == 100


def test_those_above_the_cap_are_not_judged():
    found = [(disc(8), 0, 0.9), (disc(28), 0, 0.8), (disc(28, 5), 1, 0.7)]
    assert numbers(errors_of([(disc(8), 0)], found, cap=1)) == {"spurious": 1}


def test_without_cells_there_is_no_cost():
    errors = errors_of([], [(disc(8), 0, 0.9)])
    assert math.isnan(errors.ap50) and all(math.isnan(cost) for cost in errors.costs.values())
    assert numbers(errors) == {"spurious": 1}
