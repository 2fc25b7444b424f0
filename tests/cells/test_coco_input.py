"""Ground truth and results as people bring them, against pycocotools on the same cells."""

import contextlib
import copy
import io
import json
import re

import cv2
import numpy as np
import pytest
from coco_cases import draw_case
from drawing import pycocotools_rle
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellseg_d2.cells.coco_input import read_pair, read_results, read_truth
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision

SQUARE = np.zeros((6, 8), bool)
SQUARE[1:3, 2:5] = True

POLYGON = [[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]]
"""Just the square."""


def write(path, content, encoding="utf-8"):
    path.write_text(json.dumps(content), encoding=encoding)
    return path


def pair(folder, truth, results=(), encoding="utf-8"):
    write(folder / "gt.json", truth, encoding)
    return read_pair(folder / "gt.json", write(folder / "results.json", list(results), encoding))


def perfect(truth):
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: own[key] for key in keys} | {"score": 0.9} for own in truth["annotations"]]


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


def small(segmentation=POLYGON, **annotation):
    """A dataset of one cell."""
    return {
        "images": [{"id": 3, "file_name": "a.png", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 7, "segmentation": segmentation, **annotation}],
        "categories": [{"id": 7, "name": "cell"}],
    }


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


# What is refused


RLE = pycocotools_rle(SQUARE)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param({**RLE, "counts": RLE["counts"][:-1]}, "has an RLE that ", id="cut off"),
        pytest.param(
            {**RLE, "counts": RLE["counts"] * 2}, "has an RLE that has a count that does not fit", id="doubled"
        ),
        pytest.param({**RLE, "counts": ""}, "has an RLE that is empty", id="no text"),
        pytest.param(
            {**RLE, "counts": "\x00\x7f\u00e4"}, "has an RLE that has a character that no RLE has", id="garbage"
        ),
        pytest.param({**RLE, "counts": "o" * 100_000}, "has an RLE that ends in the middle of a number", id="endless"),
        pytest.param({**RLE, "counts": None}, "its counts are neither text nor a list", id="counts are null"),
        pytest.param({"size": [6, 8]}, "has a damaged segmentation", id="no counts"),
        pytest.param({**RLE, "size": [6, 0]}, "an RLE whose size is not", id="a side of 0"),
        pytest.param({**RLE, "size": ["6", "8"]}, "an RLE whose size is not", id="size is text"),
        pytest.param(
            {**RLE, "size": [8, 6]},
            "a mask of 8 x 6, but its image is 6 x 8; it is turned by a quarter, as EXIF",
            id="turned",
        ),
        pytest.param({**RLE, "size": [10**6, 10**6]}, "a mask of 1000000 x 1000000, but its image is 6 x 8", id="huge"),
        pytest.param(
            {"size": [6, 8], "counts": [2**32 + 48]}, "not whole numbers from 0 that make the pixels", id="overflow"
        ),
        pytest.param({"size": [6, 8], "counts": [-2, 50]}, "not whole numbers from 0", id="negative count"),
        pytest.param({"size": [6, 8], "counts": [47.5, 0.5]}, "not whole numbers from 0", id="half a pixel"),
        pytest.param([[1, 2, 3, float("nan"), 5, 6]], "finite numbers", id="NaN"),
        pytest.param([[1, 2, 3, 1e30, 5, 6]], "finite numbers", id="1e30"),
        pytest.param([[float("nan"), 2, 3, 10**400, 5, 6]], "finite numbers", id="NaN, and larger than any float"),
        pytest.param([[0, 0, 10**6, 0, 0, 1] * 3], "its outline is longer than", id="an outline without end"),
        pytest.param([[1, 2, 8, 9]], "at least three points", id="a box"),
        pytest.param([[1, 2, 8, 9, True, 4]], "x and y are numbers", id="true"),
        pytest.param("x", "neither polygons nor an RLE", id="text"),
        pytest.param(7, "neither polygons nor an RLE", id="a number"),
    ],
)
@pytest.mark.parametrize("kind", ["annotation", "result"])
def test_a_damaged_mask_is_named_with_its_file_image_and_position(tmp_path, segmentation, message, kind):
    truth, cell = small(), small()["annotations"][0]
    damaged = [{**cell, "score": 1.0}, {**cell, "segmentation": segmentation, "score": 1.0}]
    truth["annotations"] = damaged if kind == "annotation" else truth["annotations"]
    file = tmp_path / ("gt.json" if kind == "annotation" else "results.json")
    with pytest.raises(CellSegError, match=re.escape(message)) as caught:
        pair(tmp_path, truth, damaged if kind == "result" else [])
    assert str(caught.value).startswith(f"{file}: {kind} 1, counted from 0, of image 3, has a")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_damaged_text_is_found_among_many(tmp_path):
    truth, _ = draw_case(0, cells=40, side=120)
    results = perfect(truth) * 60
    for place in (0, 1, len(results) // 2, len(results) - 1):
        for damaged in (lambda text: text[:-2], lambda text: text * 2, lambda text: text[::-1] + "~"):
            one = {**results[place]["segmentation"], "counts": damaged(results[place]["segmentation"]["counts"])}
            given = [*results[:place], {**results[place], "segmentation": one}, *results[place + 1 :]]
            with pytest.raises(CellSegError, match=rf"results\.json: result {place}, counted from 0, of image"):
                pair(tmp_path, truth, given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda t: t["images"].append(dict(t["images"][0])), "has two images of the id 3", id="image twice"
        ),
        pytest.param(lambda t: t["categories"].append({"id": "7"}), "has two categories of the id 7", id="class twice"),
        pytest.param(lambda t: t["images"][0].pop("id"), "image 0, counted from 0, has the id None", id="no id"),
        pytest.param(lambda t: t["images"][0].update(id=True), "has the id True", id="true"),
        pytest.param(
            lambda t: t["images"][0].update(id="\ud800"), "image 0, counted from 0, has the id", id="surrogate"
        ),
        pytest.param(lambda t: t["images"].append(7), "image 1, counted from 0, has the id 7", id="no object"),
        pytest.param(lambda t: t.update(images={}), "has images that are no list", id="images are no list"),
        pytest.param(lambda t: t.update(annotations=None), "has annotations that are no list", id="no list"),
        pytest.param(lambda t: t["annotations"].append(None), "annotation 1, counted from 0, is None", id="null"),
        pytest.param(lambda t: t["annotations"][0].pop("image_id"), "has no image_id", id="no image"),
        pytest.param(lambda t: t["annotations"][0].update(image_id=[3]), "has the image_id [3]; write", id="list"),
        pytest.param(lambda t: t["annotations"][0].update(image_id=4), "the image_id 4, which ", id="unknown image"),
        pytest.param(
            lambda t: t["annotations"][0].update(category_id="x"), "category_id 'x', which", id="unknown class"
        ),
        pytest.param(lambda t: t["annotations"][0].update(iscrowd="maybe"), "has iscrowd 'maybe'", id="crowd"),
        pytest.param(lambda t: t["annotations"][0].update(iscrowd=[]), "has iscrowd []", id="crowd is a list"),
        pytest.param(lambda t: t["annotations"][0].update(bbox=[1, 2, 3]), "has the bbox [1, 2, 3]", id="box"),
        pytest.param(lambda t: t["annotations"][0].update(bbox=[0, 0, 1, float("nan")]), "has the bbox", id="NaN"),
        pytest.param(lambda t: t["images"][0].update(height=0), "has the height and width 0 and 8", id="no height"),
        pytest.param(lambda t: t["images"][0].update(height=6.5), "has the height and width 6.5 and 8", id="half"),
        pytest.param(lambda t: t["images"][0].update(file_name=7), "has the file_name 7", id="name is a number"),
        pytest.param(lambda t: t["images"][0].update(file_name="\ud800"), r"'\ud800'", id="surrogate in a file name"),
        pytest.param(
            lambda t: t["images"][0].update(tissue=["lung"]), "has the tissue ['lung']", id="tissue is a list"
        ),
        pytest.param(
            lambda t: t["images"][0].update(width=10**299), "has the height and width 6 and 1000", id="endless"
        ),
        pytest.param(lambda t: t["categories"][0].update(name="\udc00"), r"'\udc00'", id="surrogate in a class name"),
        pytest.param(lambda t: t["categories"][0].update(name=["a"]), "has the name ['a']", id="name is a list"),
        pytest.param(
            lambda t: t["images"][0].update(id=10**299) or t["annotations"][0].update(image_id=10**299 + 1),
            "has the image_id 1000",
            id="300 digits",
        ),
        pytest.param(
            lambda t: t["images"][0].update(height=10**6, width=10**6), "COCO's scores are of at most", id="huge image"
        ),
        pytest.param(
            lambda t: t["annotations"][0].pop("segmentation"), "has neither a mask nor a box", id="neither mask nor box"
        ),
    ],
)
def test_other_damage_is_one_line(tmp_path, change, message):
    truth = small()
    change(truth)
    with pytest.raises(CellSegError, match=re.escape(message)) as caught:
        pair(tmp_path, truth)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'gt.json'}: ") and "\n" not in line and len(line) < 400
    line.encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[" * 100_000 + "]" * 100_000, "is nested too deeply", id="nested"),
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, "is nested too deeply", id="nested objects"),
        pytest.param("[" * 900 + "]" * 900, r"result 0, counted from 0, is \[\[", id="nested as deep as can be read"),
        pytest.param("{", "is not JSON", id="cut off"),
        pytest.param("", "is not JSON", id="nothing"),
        pytest.param("[" + "9" * 5000 + "]", "JSON|result 0", id="a number of 5,000 digits"),
        pytest.param('{"a": 1}', "is no list of COCO results", id="object"),
        pytest.param('[{"image_id": 3, "category_id": 7}]', "has the score None", id="no score"),
        pytest.param('[{"image_id": 3, "category_id": 7, "score": true}]', "has the score True", id="true"),
        pytest.param('[{"image_id": 3, "category_id": 7, "score": NaN}]', "has the score nan", id="NaN"),
        pytest.param('[{"image_id": 3, "category_id": 7, "score": 1e999}]', "has the score inf", id="infinite"),
        pytest.param('[{"image_id": 3, "category_id": 7, "score": "1"}]', "has the score '1'", id="text"),
        pytest.param('[{"image_id": 3, "category_id": 7, "score": 1}]', "has neither a mask nor a box", id="nothing"),
        pytest.param('[{"image_id": 4, "category_id": 7, "score": 1}]', "has the image_id 4, which", id="image"),
        pytest.param('[{"category_id": 7, "score": 1}]', "has no image_id", id="no image"),
    ],
)
def test_damaged_results_are_one_line(tmp_path, text, message):
    write(tmp_path / "gt.json", small())
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(CellSegError, match=message) as caught:
        read_pair(tmp_path / "gt.json", tmp_path / "results.json")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'results.json'}: ") and "\n" not in line and len(line) < 400


@pytest.mark.parametrize("name", ["gt.json", "results.json"])
def test_a_file_that_is_not_there(tmp_path, name):
    pair(tmp_path, small())
    (tmp_path / name).unlink()
    with pytest.raises(CellSegError, match=rf"{name}: cannot be read \(No such file"):
        read_pair(tmp_path / "gt.json", tmp_path / "results.json")


def test_results_of_several_files_tell_each_other_the_sizes(tmp_path):
    result = {"image_id": "a", "category_id": 2**80, "score": 0.5, "segmentation": POLYGON}
    first = write(tmp_path / "a.json", [result])
    second = write(tmp_path / "b.json", [{**result, "segmentation": pycocotools_rle(SQUARE)}])
    given = read_results([first, second])
    expected = {
        "image_id": 2**62,
        "category_id": 1,
        "bbox": [2, 1, 3, 2],
        "score": 0.5,
        "segmentation": pycocotools_rle(SQUARE),
    }
    assert given.files == [[expected], [expected]]
    assert (given.image_ids.original(2**62), given.category_ids.original(1)) == ("a", 2**80)


def test_heaps_of_masks_that_would_take_all_memory_are_refused(tmp_path):
    size = (2000, 2000)
    full = {"size": list(size), "counts": [0, size[0] * size[1]]}
    truth = small(full)
    truth["images"][0] |= {"height": size[0], "width": size[1]}
    cell = truth["annotations"][0]
    for count, sound in ((33, True), (34, False)):  # the most that is never too much is 2 ** 27 pixels
        results = [{**cell, "score": 0.5}] * count
        if sound:
            assert (
                len(pair(tmp_path, truth, results)[1])
                == len(read_results([tmp_path / "results.json"]).files[0])
                == count
            )
            continue
        message = (
            r"result 0, counted from 0, of image 3, has a mask; those of that image have 136000000 pixels, and it is"
        )
        with pytest.raises(CellSegError, match=message):
            pair(tmp_path, truth, results)
        with pytest.raises(CellSegError, match=message):
            read_results([tmp_path / "results.json"])
    with pytest.raises(CellSegError, match="annotation 0, counted from 0, of image 3, has a mask; those of that image"):
        pair(tmp_path, {**truth, "annotations": [cell] * 34})


def test_one_mask_over_a_whole_image_is_no_heap(tmp_path):
    size = (20_000, 20_000)
    truth = small({"size": list(size), "counts": [0, size[0] * size[1]]})
    truth["images"][0] |= {"height": size[0], "width": size[1]}
    assert pair(tmp_path, truth)[0]["annotations"][0]["area"] == size[0] * size[1]
