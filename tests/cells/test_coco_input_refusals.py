"""Ground truth and results that are refused: one line that names file, position and image."""

import re

import pytest
from coco_cases import draw_case
from coco_files import POLYGON, SQUARE, pair, perfect, small, write
from drawing import pycocotools_rle

from cellseg_d2.cells.coco_input import read_pair, read_results
from cellseg_d2.errors import CellSegError

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
