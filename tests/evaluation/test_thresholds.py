"""Thresholds against trying all of them, their file, and precision by recall against faster-coco-eval's AP50."""

import json

import numpy as np
import pytest
from coco_cases import CASES, NAMES, draw_case

from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_cells import image_cells
from cellseg_d2.evaluation.error_breakdown import HIT, Judged, judge
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.evaluation.thresholds import (
    ENOUGH_CELLS,
    best_thresholds,
    judge_unhidden,
    least_scores,
    precision_curves,
    read_thresholds,
    write_thresholds,
)

ABOVE_HALF = Selection(NAMES)


def judge_above(truth, results, score):
    images = image_cells(truth, [result for result in results if result["score"] >= score])
    return Judged.concatenate([judge(image.truth, image.predictions, 1000) for image in images])


@pytest.mark.parametrize("case", [{"seed": 0}, {"seed": 1, "ties": True}, {"seed": 3, "cells": 40, "side": 100}])
def test_no_other_threshold_has_a_better_f1(case):
    truth, results = draw_case(**case)
    best = best_thresholds(judge_above(truth, results, 0), NAMES)
    assert list(best) == ["A", "B"]
    for number, name in enumerate(best):
        scores = {}
        for score in [best[name].score, *(result["score"] for result in results)]:
            judged = judge_above(truth, results, score)
            own = judged.classes == number
            hit = np.count_nonzero(judged.kinds[own] == HIT)
            scores[score] = 200 * hit / (own.sum() + np.count_nonzero(judged.truth_classes == number))
        assert scores[best[name].score] == pytest.approx(best[name].f1) == pytest.approx(max(scores.values()))
        precision, recall = best[name].precision, best[name].recall
        assert best[name].f1 == pytest.approx(2 * precision * recall / (precision + recall))


def judged_of(scores, hits, cells):
    count = len(scores)
    kinds = np.where(hits, HIT, 4)
    return Judged(np.zeros(count, int), np.array(scores), kinds, np.full(count, -1), np.zeros(cells, int))


@pytest.mark.parametrize(
    ("scores", "hits", "threshold"),
    [
        pytest.param([0.9, 0.8, 0.4], [True, True, False], 0.6, id="half way to the next"),
        pytest.param([0.9, 0.8, 0.8, 0.4], [True, True, False, False], 0.6, id="equal scores are kept together"),
        pytest.param([0.9, 0.3], [True, True], 0.3, id="all are kept"),
        pytest.param([0.9, 0.5, 0.4], [True, False, True], 0.4, id="a later hit outweighs a miss"),
    ],
)
def test_the_threshold_lies_between_what_is_kept_and_what_is_not(scores, hits, threshold):
    best = best_thresholds(judged_of(scores, hits, 2), ["A"])
    assert best["A"].score == pytest.approx(threshold)


@pytest.mark.parametrize("case", [{"seed": 0}, {"seed": 1, "ties": True}, {"seed": 3, "cells": 40, "side": 100}])
def test_no_other_threshold_has_a_better_f1_for_what_people_see(case):
    truth, results = draw_case(**case)
    for record in (*truth["annotations"], *results):
        record["category_id"] = 1
    images = list(image_cells(truth, results))
    unhidden = [judge_unhidden(image.truth, image.predictions, 1000, Selection(NAMES)) for image in images]
    best = best_thresholds(Judged.concatenate(unhidden), NAMES)["A"]
    f1 = {}
    for score in [best.score, *(result["score"] for result in results)]:
        seen = Selection(NAMES, score)
        judged = Judged.concatenate([judge(one.truth, one.predictions.selected(seen), 1000) for one in images])
        f1[score] = 200 * np.count_nonzero(judged.kinds == HIT) / (len(judged.kinds) + len(judged.truth_classes))
    assert f1[best.score] == pytest.approx(best.f1) == pytest.approx(max(f1.values()))
    every = Judged.concatenate([judge(image.truth, image.predictions, 1000) for image in images])
    assert best.f1 > best_thresholds(every, NAMES)["A"].f1


def test_a_class_that_is_never_found_has_none():
    assert best_thresholds(judged_of([0.9], [False], 2), ["A", "B"]) == {}


def test_least_scores_are_those_thresholds_in_the_order_of_the_classes_or_a_half():
    truth, results = draw_case(3, cells=40, side=100)
    images = image_cells(truth, results)
    unhidden = [judge_unhidden(image.truth, image.predictions, 1000, ABOVE_HALF) for image in images]
    best = best_thresholds(Judged.concatenate(unhidden), NAMES)
    assert min(best[name].cells for name in ("A", "B")) >= ENOUGH_CELLS
    assert least_scores(truth, results, 1000, ABOVE_HALF) == [best["A"].score, best["B"].score, 0.5]

    few = [cell for cell in truth["annotations"] if cell["category_id"] == 1][: ENOUGH_CELLS - 1]
    rare = {**truth, "annotations": few + [cell for cell in truth["annotations"] if cell["category_id"] != 1]}
    assert least_scores(rare, results, 1000, ABOVE_HALF) == [0.5, best["B"].score, 0.5]
    assert least_scores({**truth, "images": [], "annotations": []}, [], 1000, ABOVE_HALF) == [0.5, 0.5, 0.5]


def test_the_file_says_what_it_was_computed_from_and_is_read_back(tmp_path):
    best = best_thresholds(judged_of([0.9, 0.8, 0.4], [True, True, False], 2), ["A", "B"])
    write_thresholds(tmp_path / "t.json", best, tmp_path / "gt.json", tmp_path / "results.json")
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["computed_from"] == {
        "ground_truth": "gt.json",
        "predictions": "results.json",
        "iou": 0.5,
        "classes": {"A": {"F1": 100.0, "precision": 100.0, "recall": 100.0, "cells": 2}},
    }
    assert read_thresholds(tmp_path / "t.json", ["A", "B"]) == {"A": pytest.approx(0.6)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("[]", "holds no thresholds; expected", id="a list"),
        pytest.param('{"A": 0.5}', "holds no thresholds; expected", id="no key"),
        pytest.param('{"thresholds": {"D": 0.5}}', "has a threshold for D; the classes are A, B", id="unknown class"),
        pytest.param(
            '{"thresholds": {"A": 1.5}}', r"the threshold of A is 1.5; write a number in 0 \.\. 1", id="above 1"
        ),
        pytest.param('{"thresholds": {"A": "x"}}', "the threshold of A is x", id="text"),
        pytest.param('{"thresholds": {"A": true}}', "the threshold of A is True", id="a truth value"),
        pytest.param("{", "is not JSON", id="cut off"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(CellSegError, match=message):
        read_thresholds(tmp_path / "t.json", ["A", "B"])


@pytest.mark.parametrize(("case", "cap"), CASES)
def test_the_mean_of_a_curve_is_cocos_ap50_of_its_class(case, cap):
    judgement = judge_results(*draw_case(**case), cap, ABOVE_HALF)
    curves = precision_curves(judgement.cells.detections, NAMES)
    assert list(curves) == ["A", "B"]  # of the third class there are no cells
    for name, curve in curves.items():
        assert (np.diff(curve) <= 0).all()
        assert 100 * curve.mean() == pytest.approx(judgement.ap["segm"][f"AP50-{name}"], abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_best_f1_of_all_detections_lies_on_the_curve(seed):
    cells = judge_results(*draw_case(seed), 100, ABOVE_HALF).cells
    curves = precision_curves(cells.detections, NAMES)
    for name, best in best_thresholds(cells.detections, NAMES).items():
        below, above = int(np.floor(best.recall + 1e-9)), int(np.ceil(best.recall - 1e-9))
        assert 100 * curves[name][above] - 1e-9 <= best.precision <= 100 * curves[name][below] + 1e-9


def test_a_class_that_nothing_finds_has_a_curve_of_zeros():
    truth, _ = draw_case(0)
    curves = precision_curves(judge_results(truth, [], 100, ABOVE_HALF).cells.detections, NAMES)
    assert [curve.tolist() for curve in curves.values()] == [[0] * 101] * 2
