"""Average precision against pycocotools, which everybody quotes."""

import contextlib
import copy
import io
import math

import pytest
from coco_cases import CASES, NAMES, draw_case
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision, detection_cap, tasks_of


def pycocotools_precision(truth, results, task, cap):
    """Precision (IoU, recall, class, area) with a cap of any size, which pycocotools' own summary cannot show."""
    unwanted = "bbox" if task == "segm" else "segmentation"
    results = [{key: value for key, value in copy.deepcopy(result).items() if key != unwanted} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.dataset["info"] = {}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), task)
        evaluation.params.maxDets = [1, 10, cap]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def mean(precision):
    valid = precision[precision > -1]
    return 100 * valid.mean() if valid.size else math.nan


@pytest.mark.parametrize("task", ["segm", "bbox"])
@pytest.mark.parametrize(("case", "cap"), CASES)
def test_ap_equals_pycocotools(case, cap, task):
    truth, results = draw_case(**case)
    metrics = average_precision(truth, results, task, cap)
    precision = pycocotools_precision(truth, results, task, cap)
    everything = precision[..., 0]
    expected = {"AP": mean(everything), "AP50": mean(everything[0]), "AP75": mean(everything[5])}
    expected |= {name: mean(precision[..., number]) for number, name in enumerate(("APs", "APm", "APl"), start=1)}
    for number, name in enumerate(NAMES):
        expected |= {f"AP-{name}": mean(everything[..., number]), f"AP50-{name}": mean(everything[0, :, number])}
    assert metrics == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert 5 < metrics["AP50"] < 95
    assert math.isnan(metrics["AP-never"])


def test_a_larger_cap_finds_more_in_a_crowded_image():
    truth, results = draw_case(3, cells=90, side=160, detections=2.5)
    assert average_precision(truth, results, "segm", 100)["AP"] < average_precision(truth, results, "segm", 1000)["AP"]


def test_the_truth_scores_100():
    truth, _ = draw_case(0, crowds=False)
    keys = ("image_id", "category_id", "bbox", "segmentation")
    results = [{key: own[key] for key in keys} | {"score": 1.0} for own in truth["annotations"]]
    for task in ("segm", "bbox"):
        assert average_precision(truth, results, task, 100)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_neither_the_results_nor_the_truth_are_changed(task):
    truth, results = draw_case(1)
    before = copy.deepcopy((truth, results))
    average_precision(truth, results, task, 100)
    assert (truth, results) == before


def test_the_order_of_results_with_different_scores_is_of_no_account():
    truth, results = draw_case(5)
    results = [{**result, "score": number / len(results)} for number, result in enumerate(results)]
    expected = average_precision(truth, results, "segm", 100)
    assert average_precision(truth, results[::-1], "segm", 100) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_no_results_score_0_where_there_is_something_to_find(task):
    truth, _ = draw_case(0)
    metrics = average_precision(truth, [], task, 100)
    assert {name: metrics[name] for name in ("AP", "AP50", "AP75", "AP-A", "AP50-B")} == {
        "AP": 0.0,
        "AP50": 0.0,
        "AP75": 0.0,
        "AP-A": 0.0,
        "AP50-B": 0.0,
    }
    assert math.isnan(metrics["AP-never"])


def test_without_ground_truth_there_is_no_number():
    truth, results = draw_case(0)
    truth["annotations"] = []
    for detections in (results, []):
        assert all(math.isnan(value) for value in average_precision(truth, detections, "segm", 100).values())


def test_results_of_foreign_images_are_refused():
    truth, results = draw_case(0)
    with pytest.raises(CellSegError, match=r"results are of image 77 and 1 others unknown to the truth"):
        average_precision(
            truth, [*results, {**results[0], "image_id": 77}, {**results[0], "image_id": 99}], "segm", 100
        )


# Tasks


@pytest.mark.parametrize(
    ("left_out", "scored"), [("bbox", ["segm"]), ("segmentation", ["bbox"]), ("", ["segm", "bbox"])]
)
def test_results_of_other_tools_are_fit_for_what_they_have(left_out, scored):
    _, results = draw_case(3)
    boxed = [{"bbox": mask_util.toBbox(result["segmentation"]).tolist(), **result} for result in results]
    assert tasks_of([{k: v for k, v in result.items() if k != left_out} for result in boxed]) == scored


def test_results_with_neither_masks_nor_boxes_are_refused():
    with pytest.raises(CellSegError, match="not every result has a segmentation"):
        tasks_of([{"image_id": 4, "category_id": 1, "score": 0.5}])


def test_the_cap_follows_the_densest_image():
    truth, results = draw_case(0, cells=40, side=120, crowds=False)
    cells = [cell for cell in truth["annotations"] if (cell["image_id"], cell["category_id"]) == (4, 1)]
    assert detection_cap(truth, []) == detection_cap(truth, results) == 1000
    many = [{**cells[0], "id": number} for number in range(1, 1201)]
    assert detection_cap({**truth, "annotations": many}, []) == 1200
    assert detection_cap(truth, many * 2) == 2400


def test_a_cap_below_the_densest_image_is_told(caplog):
    truth, results = draw_case(0, crowds=False)
    cells = sum((cell["image_id"], cell["category_id"]) == (4, 1) for cell in truth["annotations"])
    assert detection_cap(truth, results, cells) == cells and not caplog.messages
    assert detection_cap(truth, results, cells - 1) == cells - 1
    assert caplog.messages == [
        f"an image has {cells} cells of one class, of which {cells - 1} detections cannot find all; "
        f"give --max-detections {cells}, or leave it out"
    ]
