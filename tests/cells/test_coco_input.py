"""Ground truth and results as people bring them, against pycocotools on the same cells."""

import contextlib
import copy
import io

import cv2
import numpy as np
import pytest
from coco_cases import draw_case
from coco_files import POLYGON, SQUARE, pair, small, write
from drawing import pycocotools_rle
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellseg_d2.cells.coco_input import read_truth
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision


def scores(truth, results):
    """All metrics that have a value, by task."""
    metrics = {task: average_precision(truth, results, task, 1000) for task in ("segm", "bbox")}
    return {task: {name: own for name, own in found.items() if own == own} for task, found in metrics.items()}


def pycocotools_ap(truth, results, task):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **copy.deepcopy(truth)}
        coco.createIndex()
        unwanted = "bbox" if task == "segm" else "segmentation"
        found = [{key: value for key, value in own.items() if key != unwanted} for own in copy.deepcopy(results)]
        evaluation = COCOeval(coco, coco.loadRes(found), task)
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return 100 * precision[precision > -1].mean()


def as_polygons(rle):
    outlines, _ = cv2.findContours(mask_util.decode(rle), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [outline.reshape(-1).astype(float).tolist() for outline in outlines if len(outline) > 2]


def as_counts(rle):
    pixels = mask_util.decode(rle).T.ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": rle["size"], "counts": np.diff(edges, prepend=0, append=pixels.size).tolist()}


# What is accepted


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sound_files_stay_as_they_are_and_score_as_pycocotools_says(tmp_path, seed):
    truth, results = draw_case(seed)
    content, found = pair(tmp_path, truth, results)
    assert found == results
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
    assert content["annotations"] == [{key: own[key] for key in keys} for own in truth["annotations"]]
    assert (content["images"], content["categories"]) == (truth["images"], truth["categories"])
    for task, metrics in scores(content, found).items():
        assert metrics["AP"] == pytest.approx(pycocotools_ap(truth, results, task), abs=1e-6)


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(lambda place: place, id="from 0"),
        pytest.param(lambda place: place % 8 + 1, id="repeated"),
        pytest.param(lambda place: 1, id="all 1"),
        pytest.param(lambda place: -place - 1, id="negative"),
        pytest.param(lambda place: 2**70 + place, id="huge"),
        pytest.param(str, id="text"),
        pytest.param(float, id="float"),
        pytest.param(lambda place: None, id="null"),
        pytest.param(lambda place: [place], id="a list"),
    ],
)
def test_annotation_ids_are_of_no_account(tmp_path, new):
    truth, results = draw_case(1)
    expected = scores(truth, results)
    for place, own in enumerate(truth["annotations"]):
        own["id"] = new(place)
    for given in (
        truth,
        {**truth, "annotations": [{k: v for k, v in a.items() if k != "id"} for a in truth["annotations"]]},
    ):
        assert scores(*pair(tmp_path, given, results)) == expected


@pytest.mark.parametrize("keys", [("images", "image_id"), ("categories", "category_id")], ids=["images", "categories"])
@pytest.mark.parametrize(
    ("in_truth", "in_results"),
    [
        pytest.param(str, str, id="text of numbers"),
        pytest.param(str, int, id="text in the truth"),
        pytest.param(int, str, id="text in the results"),
        pytest.param(lambda number: f"id {number:02d}", lambda number: f"id {number:02d}", id="text"),
        pytest.param(
            lambda number: 2**70 + number, lambda number: float(2**70) if number < 0 else 2**70 + number, id="huge"
        ),
        pytest.param(lambda number: 10**299 + number, lambda number: str(10**299 + number), id="300 digits"),
        pytest.param(lambda number: number - 20, lambda number: number - 20.0, id="negative, and floats"),
    ],
)
def test_ids_of_images_and_categories_are_those_on_which_both_files_agree(tmp_path, keys, in_truth, in_results):
    truth, results = draw_case(1)
    expected = scores(truth, results)
    for own in truth[keys[0]]:
        own["id"] = in_truth(own["id"])
    for own in truth["annotations"]:
        own[keys[1]] = in_truth(own[keys[1]])
    for own in results:
        own[keys[1]] = in_results(own[keys[1]])
    assert scores(*pair(tmp_path, truth, results)) == expected


def test_text_that_is_one_number_only_without_its_zeros_stays_apart(tmp_path):
    truth = small()
    truth["images"] = [{"id": own, "height": 6, "width": 8} for own in ("1", "01")]
    truth["annotations"] = [{**truth["annotations"][0], "image_id": "01"}]
    content, results = pair(tmp_path, truth, [{**own, "image_id": "01", "score": 1} for own in truth["annotations"]])
    assert [image["id"] for image in content["images"]] == [2**62, 2**62 + 1]
    assert [image["file_name"] for image in content["images"]] == ["1", "01"]
    assert content["annotations"][0]["image_id"] == results[0]["image_id"] == 2**62 + 1


def compressed(record):
    """A record with its mask as pycocotools compresses it, which its own ``loadRes`` does not."""
    rles = mask_util.frPyObjects(record["segmentation"], 64, 64)
    return {**record, "segmentation": mask_util.merge(rles) if isinstance(rles, list) else rles}


@pytest.mark.parametrize("form", [as_polygons, as_counts])
@pytest.mark.parametrize("side", ["truth", "results"])
def test_masks_of_every_form_score_as_pycocotools_says(tmp_path, form, side):
    truth, results = draw_case(0, crowds=False)
    given = truth["annotations"] if side == "truth" else results
    for own in given:
        own["segmentation"] = form(own["segmentation"])
    given[:] = [own for own in given if own["segmentation"] and mask_util.area(compressed(own)["segmentation"])]
    content, found = pair(tmp_path, truth, results)
    given[:] = map(compressed, given)
    for task, metrics in scores(content, found).items():
        assert metrics["AP"] == pytest.approx(pycocotools_ap(truth, results, task), abs=1e-6)


@pytest.mark.parametrize(
    "segmentation", [POLYGON, POLYGON[0], as_counts(pycocotools_rle(SQUARE)), pycocotools_rle(SQUARE)]
)
def test_what_a_mask_tells_need_not_be_stated(tmp_path, segmentation):
    (cell,) = read_truth(write(tmp_path / "gt.json", small(segmentation)))["annotations"]
    assert cell["segmentation"] == pycocotools_rle(SQUARE)
    assert (cell["bbox"], cell["area"], cell["iscrowd"]) == ([2, 1, 3, 2], 6, 0)
    stated = {"bbox": [2.5, 1, 3, 2], "area": 5.5, "iscrowd": 1}
    (cell,) = read_truth(write(tmp_path / "gt.json", small(segmentation, **stated)))["annotations"]
    assert {key: cell[key] for key in stated} == stated
    result = {"image_id": 3, "category_id": 7, "score": 0.5, "segmentation": segmentation}
    _, (found,) = pair(tmp_path, small(), [result])
    assert (found["bbox"], found["segmentation"]) == ([2, 1, 3, 2], pycocotools_rle(SQUARE))


@pytest.mark.parametrize(
    ("stated", "crowd"),
    [(None, 0), ("0", 0), ("1", 1), (" True", 1), ("false", 0), ("", 0), (True, 1), (False, 0), (1.0, 1), (0, 0)],
)
def test_iscrowd_in_every_form(tmp_path, stated, crowd):
    (cell,) = read_truth(write(tmp_path / "gt.json", small(iscrowd=stated)))["annotations"]
    assert cell["iscrowd"] == crowd


@pytest.mark.parametrize("where", ["truth", "results"])
def test_an_rle_tells_the_size_of_its_image(tmp_path, where):
    truth = small(pycocotools_rle(SQUARE) if where == "truth" else POLYGON)
    for key in ("height", "width"):
        del truth["images"][0][key]
    result = {"image_id": 3, "category_id": 7, "score": 0.5, "segmentation": pycocotools_rle(SQUARE)}
    content, found = pair(tmp_path, truth, [result])
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (6, 8)
    assert content["annotations"][0]["segmentation"] == found[0]["segmentation"] == pycocotools_rle(SQUARE)
    with pytest.raises(CellSegError, match="of image 3, has polygons, and nothing tells the height and width"):
        pair(tmp_path, {**truth, "annotations": small()["annotations"]})


def test_categories_get_names_and_no_two_share_one(tmp_path, caplog):
    truth = small()
    names = [{"id": 1}, {"id": 2, "name": None}, {"id": 3, "name": 5}, {"id": 4, "name": "a"}, {"id": 5, "name": "a"}]
    truth["categories"] += names
    content = read_truth(write(tmp_path / "gt.json", truth))
    assert [own["name"] for own in content["categories"]] == ["cell", "category 1", "category 2", "5", "a (4)", "a (5)"]
    assert caplog.messages == [
        f"{tmp_path / 'gt.json'}: several categories are called 'a'; they are told apart by their ids"
    ]


def test_whole_numbers_of_images_stay_as_files_beside_name_them(tmp_path):
    truth = small()
    truth["images"] = [{"id": own, "height": 6, "width": 8} for own in (-5, 2**70, "31")]
    truth["annotations"][0]["image_id"] = 31
    assert [image["id"] for image in read_truth(write(tmp_path / "gt.json", truth))["images"]] == [-5, 2**70, 31]


def test_tissues_may_be_numbers(tmp_path):
    truth = small()
    truth["images"][0]["tissue"] = 7
    assert read_truth(write(tmp_path / "gt.json", truth))["images"][0]["tissue"] == "7"


def test_text_is_the_name_of_a_category_without_one(tmp_path):
    truth = {**small(), "categories": [{"id": "tumour"}], "annotations": []}
    assert read_truth(write(tmp_path / "gt.json", truth))["categories"] == [{"id": 1, "name": "tumour"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_of_every_encoding(tmp_path, encoding):
    truth, results = draw_case(1)
    assert pair(tmp_path, truth, results, encoding) == pair(tmp_path, truth, results)


def test_a_file_without_annotations_is_one_of_test_images(tmp_path):
    truth = {key: value for key, value in small().items() if key != "annotations"}
    assert "annotations" not in read_truth(write(tmp_path / "gt.json", truth))
    with pytest.raises(CellSegError, match=r"gt\.json: is no COCO dataset with images, annotations and categories"):
        pair(tmp_path, truth)


# What has no pixel


EMPTY = pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param([], id="empty"),
        pytest.param(None, id="null"),
        pytest.param([[20, 20, 22, 20, 22, 22, 20, 22]], id="outside"),
        pytest.param([[1.2, 1.2, 1.4, 1.2, 1.4, 1.4]], id="thinner than a pixel"),
        pytest.param({"size": [6, 8], "counts": [48]}, id="counts"),
        pytest.param(pycocotools_rle(np.zeros((6, 8), bool)), id="text"),
    ],
)


@EMPTY
def test_cells_without_a_pixel_are_named_and_the_rest_is_scored(tmp_path, segmentation, caplog):
    truth = small()
    truth["annotations"] += [{**truth["annotations"][0], "segmentation": segmentation, "id": 9}]
    content, results = pair(tmp_path, truth, [{**truth["annotations"][0], "score": 1.0}])
    assert [own["id"] for own in content["annotations"]] == [1]
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'gt.json'}: 1 of 2 annotations have no pixel")
    assert message.endswith("are left out: annotation 1, counted from 0, of image 3")
    assert {task: own["AP"] for task, own in scores(content, results).items()} == {"segm": 100, "bbox": 100}


def test_of_many_cells_without_a_pixel_three_are_named(tmp_path, caplog):
    truth = small()
    truth["annotations"] += [{**truth["annotations"][0], "segmentation": []}] * 50
    assert len(read_truth(write(tmp_path / "gt.json", truth))["annotations"]) == 1
    (message,) = caplog.messages
    assert "50 of 51 annotations" in message and message.endswith(
        "annotation 3, counted from 0, of image 3; and 47 more"
    )


def test_a_file_of_boxes_alone_is_one(tmp_path, caplog):
    truth, results = draw_case(0, crowds=False)
    expected = scores(truth, results)["bbox"]
    for own in truth["annotations"]:
        own["segmentation"] = []
        del own["area"]
    content, found = pair(tmp_path, truth, results)
    assert not caplog.messages
    assert all(own["area"] == own["bbox"][2] * own["bbox"][3] for own in content["annotations"])
    assert average_precision(content, found, "bbox", 1000)["AP"] == expected["AP"]


@pytest.mark.parametrize("segmentation", [[], None])
def test_a_result_without_a_mask_among_others_finds_nothing(tmp_path, segmentation, caplog):
    truth = small()
    good = {"image_id": 3, "category_id": 7, "segmentation": POLYGON, "score": 0.5}
    content, found = pair(tmp_path, truth, [good, {**good, "segmentation": segmentation, "score": 0.9}])
    assert found[1]["segmentation"] == pycocotools_rle(np.zeros((6, 8), bool))
    (message,) = caplog.messages
    assert message.endswith(
        "1 of 2 results have no mask, so their masks find nothing: result 1, counted from 0, of image 3"
    )
    assert average_precision(content, found, "segm", 100)["AP"] == pytest.approx(50)
    assert pycocotools_ap(content, found, "segm") == pytest.approx(50)
