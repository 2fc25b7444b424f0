"""An existing COCO dataset of whole images, converted by the same rules as label TIFFs."""

import json
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from drawing import decode_annotations, discs, noise, overlapping_masks, pycocotools_rle, written
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from cellseg_d2.annotations.coco import find_coco_samples
from cellseg_d2.cells.coco import MAX_COORDINATE, to_rle
from cellseg_d2.cells.rle import decode_runs
from cellseg_d2.conversion.check import check, render
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.pictures import OPENCV_LOG


def write_coco(root, annotations, size=(40, 60), name="a.png", categories=((7, "round"), (3, "long"))):
    """A dataset of one image, on disk."""
    root.mkdir(parents=True, exist_ok=True)
    image = noise(np.random.default_rng(0), *size)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / name), image[..., ::-1])
    content = {
        "images": [{"id": 5, "file_name": name, "height": size[0], "width": size[1]}],
        "annotations": [{"image_id": 5, **annotation} for annotation in annotations],
        "categories": [{"id": number, "name": label} for number, label in categories],
    }
    (root / "gt.json").write_text(json.dumps(content))
    return root / "gt.json", image


def masks_of(annotations):
    return sorted(mask_util.decode(annotation["segmentation"]).tobytes() for annotation in annotations)


@written
@given(masks=overlapping_masks(min_count=1), numbers=st.lists(st.sampled_from([3, 7]), min_size=6, max_size=6))
def test_every_mask_comes_back_whole_even_where_cells_of_a_class_overlap(masks, numbers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    annotations = [
        {"id": place, "category_id": number, "segmentation": pycocotools_rle(mask), "iscrowd": 0}
        for place, (mask, number) in enumerate(zip(masks, numbers), start=1)
    ]
    truth, image = write_coco(folder / "in", annotations, masks[0].shape)
    options = ConvertOptions(min_area=0, val_fraction=0, tile_size=max(masks[0].shape))
    summary = convert(folder / "in", folder / "out", options, from_coco=truth)
    assert summary["class_names"] == ["long", "round"]  # by category id
    tiles = json.loads((folder / "out" / "annotations" / "instances_train.json").read_text())
    for number, category in ((1, 3), (2, 7)):
        expected = [mask.astype(np.uint8) for mask, own in zip(masks, numbers) if own == category]
        found = [cell for cell in tiles["annotations"] if cell["category_id"] == number]
        assert masks_of(found) == sorted(np.asfortranarray(mask).tobytes() for mask in expected)
        assert sorted(cell["label"] for cell in found) == [
            place for place, (_, own) in enumerate(zip(masks, numbers), start=1) if own == category
        ]
    (tile,) = tiles["images"]
    assert np.array_equal(cv2.imread(str(folder / "out" / tile["file_name"]))[..., ::-1], image)


def test_tiles_are_cut_by_the_same_rules(tmp_path):
    labels = discs(np.random.default_rng(3), 50, 70, 15)
    annotations = [
        {"id": int(cell), "category_id": 3, "segmentation": pycocotools_rle(labels == cell)}
        for cell in np.unique(labels[labels > 0])
    ]
    truth, _ = write_coco(tmp_path / "in", annotations, labels.shape)
    options = ConvertOptions(min_area=0, min_visible=0.5, val_fraction=0, tile_size=32)
    convert(tmp_path / "in", tmp_path / "out", options, from_coco=truth)
    tiles = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    for tile in tiles["images"]:
        x0, y0, x1, y1 = tile["window"]
        own = [cell for cell in tiles["annotations"] if cell["image_id"] == tile["id"]]
        decoded = decode_annotations(own, (y1 - y0, x1 - x0))
        assert np.array_equal(decoded.get(1, 0 * labels[y0:y1, x0:x1]), labels[y0:y1, x0:x1])
        for cell in own:
            assert cell["iscrowd"] == (cell["area"] < 0.5 * np.count_nonzero(labels == cell["label"]))


def test_crowds_stay_crowds_and_are_no_cells(tmp_path):
    crowd = {"id": 1, "category_id": 3, "segmentation": [[2, 2, 30, 2, 30, 20, 2, 20]], "iscrowd": 1}
    cell = {"id": 2, "category_id": 3, "segmentation": [[5, 25, 15, 25, 15, 35, 5, 35]], "iscrowd": 0}
    truth, _ = write_coco(tmp_path / "in", [crowd, cell])
    summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0), from_coco=truth)
    tiles = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert sorted((own["label"], own["iscrowd"]) for own in tiles["annotations"]) == [(1, 1), (2, 0)]
    assert summary["counts"]["train"]["cells"] == {"long": 1, "round": 0}


@pytest.mark.parametrize("form", ["polygons", "counts", "text", "bytes"])
def test_all_of_cocos_segmentations_are_read(form):
    polygons = [[2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0], [20.0, 4.0, 25.0, 4.0, 25.0, 8.0, 20.0, 8.0]]
    rle = mask_util.merge(mask_util.frPyObjects(polygons, 16, 30))
    mask = mask_util.decode(rle)
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=0)), prepend=0, append=0)
    counts = [*runs[:-1].tolist(), mask.size - int(runs[:-1].sum())]
    segmentation = {
        "polygons": polygons,
        "counts": {"size": [16, 30], "counts": counts},
        "text": {"size": [16, 30], "counts": rle["counts"].decode("ascii")},
        "bytes": rle,
    }[form]
    assert np.array_equal(mask_util.decode(to_rle(segmentation, (16, 30))), mask)


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param([], id="no polygon"),
        pytest.param([[1, 1]], id="one point"),
        pytest.param([[1, 2, 8, 9]], id="four numbers, which pycocotools takes for a box"),
        pytest.param([[1, 2, 8, 9, 3, 7, 5]], id="half a point"),
        pytest.param([[1, 2, 8, 9, 3, 7], [1, 1]], id="the second one"),
        pytest.param([[1, 2, 8, 9, 3, "7"]], id="text"),
        pytest.param([[1, 2, 8, 9, 3, None]], id="nothing"),
        pytest.param([[1, 2, 8, 9, 3, float("nan")]], id="NaN"),
        pytest.param([[1, 2, 8, 9, 3, float("-inf")]], id="infinite"),
        pytest.param([[1, 2, 8, 9, 3, 10**400]], id="larger than any float"),
        pytest.param([[1, 2, 8, 9, 3, MAX_COORDINATE + 1]], id="far outside"),
        pytest.param({"size": [16, 30], "counts": 5}, id="a number for counts"),
    ],
)
def test_damaged_segmentations_are_refused(segmentation):
    with pytest.raises(ValueError):
        to_rle(segmentation, (16, 30))


def png_header(height, width):
    """A PNG of a few bytes that declares any size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0"))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda whole: b"", "is empty (0 bytes); export it again", id="no bytes"),
        pytest.param(lambda whole: whole[:40], "cannot be read as an image; export it again", id="header only"),
        pytest.param(lambda whole: whole[: len(whole) // 2], "cannot be read as an image; export it again", id="half"),
        pytest.param(lambda whole: b"text" * 9, "cannot be read as an image; export it again", id="text"),
        pytest.param(lambda whole: png_header(60_000, 60_000), "is 60000 x 60000, over the limit of ", id="huge"),
    ],
)
def test_a_damaged_image_is_refused_in_one_line(change, message, tmp_path, capfd):
    truth, _ = write_coco(tmp_path, [])
    (tmp_path / "a.png").write_bytes(change((tmp_path / "a.png").read_bytes()))
    (sample,) = find_coco_samples(truth, tmp_path).images
    level = OPENCV_LOG.getLogLevel()
    with pytest.raises(CellSegError) as caught:
        sample.read("percentile:0.1,99.9", 10**6, 2)
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: {message}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    assert OPENCV_LOG.getLogLevel() == level


def test_an_image_over_the_limit_is_refused_before_it_is_read(tmp_path):
    truth, _ = write_coco(tmp_path, [])
    (sample,) = find_coco_samples(truth, tmp_path).images
    assert sample.read("percentile:0.1,99.9", 40 * 60, 2).image.shape == (40, 60, 3)
    (tmp_path / "a.png").write_bytes(b"not even an image")
    with pytest.raises(CellSegError, match=r"a\.png: is 40 x 60, over the limit of 2399 pixels"):
        sample.read("percentile:0.1,99.9", 40 * 60 - 1, 2)


def test_many_images_are_listed_in_linear_time(tmp_path):
    images = [{"id": place, "file_name": f"{place}.png", "height": 4, "width": 4} for place in range(60_000)]
    (tmp_path / "gt.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    started = time.process_time()
    samples = find_coco_samples(tmp_path / "gt.json", tmp_path).images
    assert len(samples) == 60_000
    assert time.process_time() - started < 10  # about 1 s; counting each name in a list takes about 28


def test_names_in_folders_stay_apart(tmp_path):
    truth, _ = write_coco(tmp_path, [], name="patient1/a.png")
    (sample,) = find_coco_samples(truth, tmp_path).images
    assert sample.id == "patient1_a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "is no COCO dataset"),
        (
            lambda content: content["annotations"][0].update(category_id=99),
            "annotation 0, counted from 0, has the category_id 99, which",
        ),
        (lambda content: content["annotations"][0].update(image_id=6), "has the image_id 6, which"),
        (lambda content: content["images"].append({**content["images"][0], "id": 6}), "two images of the name a"),
        (
            lambda content: content["images"].append({**content["images"][0], "file_name": "b.png"}),
            "images of the id",
        ),
        (lambda content: content["categories"].append({"id": 3, "name": "flat"}), "two categories of the id 3"),
        (lambda content: content.update(images=[], annotations=[]), "lists no images"),
        (
            lambda content: content["images"][0].update(height="40"),
            "has the height and width '40' and 60; write whole numbers",
        ),
        (lambda content: content["images"][0].update(height=41), "is 40 x 60, the COCO file says"),
        (lambda content: content["images"][0].update(file_name="b.png"), "b.png: there is no such file"),
        (
            lambda content: content["annotations"][0].update(segmentation={"size": [2, 2], "counts": "04"}),
            "a.png: annotation 0, counted from 0, of image 5, has a mask of 2 x 2, but its image is 40 x 60",
        ),
        (
            lambda content: content["annotations"][0].update(segmentation={"size": [40, 60], "counts": "zz"}),
            "a.png: annotation 0, counted from 0, of image 5, has an RLE that",
        ),
        (lambda content: content["images"][0].update(file_name="../a.png"), "'../a.png', which lies outside --input"),
        (lambda content: content["images"][0].update(file_name="b/../../a.png"), "which lies outside --input"),
        (lambda content: content["images"][0].update(file_name="/etc/passwd"), "which lies outside --input"),
        (lambda content: content["images"][0].update(file_name="a\0.png"), "which lies outside --input"),
        (lambda content: content["annotations"][0].update(iscrowd="often"), "of image 5, has iscrowd 'often'"),
        (lambda content: content["annotations"][0].update(segmentation=[[1, 1]]), "at least three points"),
    ],
    ids=[
        *("form", "category", "image", "twice", "image id", "category id", "empty", "height", "size", "file", "mask"),
        *("damaged", "outside", "outside by a folder", "absolute", "NUL", "crowd", "polygon"),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    truth, _ = write_coco(
        tmp_path / "in", [{"id": 1, "category_id": 3, "segmentation": [[5, 25, 15, 25, 15, 35, 5, 35]]}]
    )
    content = json.loads(truth.read_text())
    change(content)
    truth.write_text(json.dumps(content))
    with pytest.raises(CellSegError) as caught:
        convert(tmp_path / "in", tmp_path / "out", ConvertOptions(), from_coco=truth)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


SQUARE = [[5, 25, 15, 25, 15, 35, 5, 35]]


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param([], id="empty"),
        pytest.param(None, id="null"),
        pytest.param([[200, 200, 220, 200, 220, 220, 200, 220]], id="outside"),
        pytest.param([[10.2, 10.2, 10.4, 10.2, 10.4, 10.4]], id="thinner than a pixel"),
        pytest.param({"size": [40, 60], "counts": [2400]}, id="counts"),
        pytest.param(pycocotools_rle(np.zeros((40, 60), bool)), id="RLE"),
    ],
)
def test_what_has_no_pixel_is_counted_and_named(tmp_path, segmentation, caplog):
    cells = [{"id": number, "category_id": 3, "segmentation": own} for number, own in ((1, SQUARE), (2, segmentation))]
    truth, _ = write_coco(tmp_path / "in", cells)
    line = "gt.json: 1 of 2 annotations have no pixel, as they are empty, outside their image or thinner than a pixel"
    report = check(tmp_path / "in", ConvertOptions(), from_coco=truth)
    assert line in render(report, "base.yaml") and "annotation 1, counted from 0, of image 5" in render(
        report, "b.yaml"
    )
    summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0), from_coco=truth)
    assert summary["counts"]["train"]["cells"] == {"long": 1, "round": 0}
    assert any(line in message for message in caplog.messages)


def test_nothing_is_said_where_all_have_pixels(tmp_path, caplog):
    truth, _ = write_coco(tmp_path / "in", [{"id": 1, "category_id": 3, "segmentation": SQUARE}])
    report = check(tmp_path / "in", ConvertOptions(), from_coco=truth)
    assert "left_out" not in report.summary and "no pixel" not in render(report, "base.yaml")
    convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0), from_coco=truth)
    assert not [message for message in caplog.messages if "pixel" in message]


@pytest.mark.parametrize(
    ("stated", "crowd"), [("0", False), ("1", True), (None, False), ("false", False), (True, True)]
)
def test_iscrowd_in_every_form(tmp_path, stated, crowd):
    truth, _ = write_coco(tmp_path, [{"id": 1, "category_id": 3, "segmentation": SQUARE, "iscrowd": stated}])
    (sample,) = find_coco_samples(truth, tmp_path).images
    assert [layer.crowd for layer in sample.read("percentile:0.1,99.9", 10**6, 2).label_maps] == [crowd]


@pytest.mark.parametrize("number", [str, lambda number: f"{number}a", lambda number: 2**70 + number])
def test_ids_of_any_kind_are_read(tmp_path, number):
    truth, _ = write_coco(tmp_path, [{"id": number(0), "category_id": 3, "segmentation": SQUARE[0]}] * 2)
    content = json.loads(truth.read_text())
    for own in (*content["images"], *content["categories"]):
        own["id"] = number(own["id"])
    for own in content["annotations"]:
        own["image_id"], own["category_id"] = number(own["image_id"]), number(own["category_id"])
    truth.write_text(json.dumps(content), encoding="utf-8-sig")
    found = find_coco_samples(truth, tmp_path)
    assert sorted(found.class_names) == ["long", "round"]
    assert [cell.label for cell in found.images[0].cells] == [1, 2]
    assert {found.class_names[cell.number - 1] for cell in found.images[0].cells} == {"long"}


def test_the_image_itself_tells_its_size_where_nothing_else_does(tmp_path):
    truth, _ = write_coco(tmp_path, [{"id": 1, "category_id": 3, "segmentation": SQUARE}])
    content = json.loads(truth.read_text())
    del content["images"][0]["height"], content["categories"][0]["name"], content["categories"][1]["name"]
    truth.write_text(json.dumps(content))
    found = find_coco_samples(truth, tmp_path)
    assert found.images[0].size == (40, 60) and found.class_names == ["category 3", "category 7"]


def test_categories_of_one_name_are_told_apart(tmp_path):
    truth, _ = write_coco(tmp_path, [], categories=((7, "round"), (3, "long"), (8, "long")))
    assert find_coco_samples(truth, tmp_path).class_names == ["long (3)", "round", "long (8)"]


def test_one_damaged_image_can_be_skipped(tmp_path):
    truth, _ = write_coco(tmp_path / "in", [{"id": 1, "category_id": 3, "segmentation": SQUARE}])
    content = json.loads(truth.read_text())
    content["images"].append({**content["images"][0], "id": 6, "file_name": "b.png"})
    content["annotations"].append({"image_id": 6, "category_id": 3, "segmentation": [[1, 1]]})
    truth.write_text(json.dumps(content))
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    options = ConvertOptions(val_fraction=0)
    summary = convert(tmp_path / "in", tmp_path / "out", options, from_coco=truth, skip_errors=True)
    (line,) = summary["skipped"]
    assert line.startswith("b.png: annotation 1, counted from 0, of image 6, has a damaged segmentation: a polygon is")


def test_cells_that_lie_on_each_other_without_end_are_refused(tmp_path):
    cell = {"category_id": 3, "segmentation": [[0, 0, 1000, 0, 1000, 1000, 0, 1000]]}
    truth, _ = write_coco(tmp_path, [cell] * 300, size=(1000, 1000))
    (sample,) = find_coco_samples(truth, tmp_path).images
    with pytest.raises(
        CellSegError, match=r"a\.png: has 300 cells of one class on one pixel, too many for an image of"
    ):
        sample.read("percentile:0.1,99.9", 10**7, 2)


def test_depth_is_the_most_cells_on_one_pixel():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :, :3], masks[1, :, 3:], masks[2, 1, 2:4] = True, True, True
    rles = list(map(pycocotools_rle, masks))
    assert decode_runs(rles, (4, 6)).depth() == 2 == masks.sum(axis=0).max()
    assert decode_runs(rles[:2], (4, 6)).depth() == 1
    assert decode_runs([], (4, 6)).depth() == 0
