"""Precision by recall against faster-coco-eval's AP50, and the best F1 against the curve."""

import numpy as np
import pytest
from coco_cases import CASES, NAMES, draw_case

from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.evaluation.pr_curves import precision_curves


@pytest.mark.parametrize(("case", "cap"), CASES)
def test_the_mean_of_a_curve_is_cocos_ap50_of_its_class(case, cap):
    judgement = judge_results(*draw_case(**case), cap, 0.5)
    curves = precision_curves(judgement.cells.detections, NAMES)
    assert list(curves) == ["A", "B"]  # of the third class there are no cells
    for name, curve in curves.items():
        assert (np.diff(curve) <= 0).all()
        assert 100 * curve.mean() == pytest.approx(judgement.ap["segm"][f"AP50-{name}"], abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_best_f1_lies_on_the_curve(seed):
    cells = judge_results(*draw_case(seed), 100, 0.5).cells
    curves = precision_curves(cells.detections, NAMES)
    for name, best in cells.thresholds.items():
        below, above = int(np.floor(best.recall + 1e-9)), int(np.ceil(best.recall - 1e-9))
        assert 100 * curves[name][above] - 1e-9 <= best.precision <= 100 * curves[name][below] + 1e-9


def test_a_class_that_nothing_finds_has_a_curve_of_zeros():
    truth, _ = draw_case(0)
    curves = precision_curves(judge_results(truth, [], 100, 0.5).cells.detections, NAMES)
    assert [curve.tolist() for curve in curves.values()] == [[0] * 101] * 2
