"""COCO as CVAT (datumaro's exporter) and Label Studio write it, by json and pycocotools."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest
from drawing import discs, noise
from pycocotools import mask as mask_util

from cellseg_d2.annotations.coco_exports import find_labelled
from cellseg_d2.annotations.readers import find_labelled as find_by_name
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)
BRUSH = discs(np.random.default_rng(1), *SIZE, 3) > 0
RING = [2.0, 3.0, 10.0, 3.0, 10.0, 12.0, 2.0, 12.0]
POLYGON = mask_util.decode(mask_util.merge(mask_util.frPyObjects([RING], *SIZE))).astype(bool)


def brush(mask):
    """CVAT's brush: uncompressed RLE, marked as a crowd."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"counts": np.diff([0, *edges, flat.size]).tolist(), "size": list(mask.shape)}


def cvat(root, *annotations, names=("a.png",), file="annotations/instances_default.json"):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), IMAGE[..., ::-1])
    images = [
        {"id": number, "width": SIZE[1], "height": SIZE[0], "file_name": name, "license": 0, "date_captured": 0}
        for number, name in enumerate(names, start=1)
    ]
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "version": ""},
        "categories": [{"id": 1, "name": "tumour", "supercategory": ""}, {"id": 2, "name": "immune"}],
        "images": images,
        "annotations": [
            {"id": number, "image_id": 1, "attributes": {"occluded": False}, "iscrowd": 0, **own}
            for number, own in enumerate(annotations, start=1)
        ],
    }
    (root / file).write_text(json.dumps(content))
    return root / file


DRAWN = [
    {"category_id": 1, "segmentation": [RING]},
    {"category_id": 2, "segmentation": brush(BRUSH), "iscrowd": 1},
]


def read(found, number=0):
    labels = found.images[number].read(INTENSITY_RULE, MAX_PIXELS, len(found.class_names))
    assert np.array_equal(labels.image, IMAGE)
    return {(layer.categories, layer.crowd): layer.labels for layer in labels.label_maps}


@pytest.mark.parametrize("names", [("a.png",), ("default/a.png", "default/b.png"), ("x/a.png", "y/a.png")])
def test_polygons_and_brush_masks_of_cvat_are_cells(tmp_path, names, caplog):
    path = cvat(tmp_path, *DRAWN, names=names)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        found = find_labelled(tmp_path)
    assert found.class_names == ["tumour", "immune"]
    assert [sample.id for sample in found.images] == [name.replace("/", "_")[:-4] for name in names]
    maps = read(found)
    assert maps.keys() == {((1,), False), ((2,), False)}
    assert np.array_equal(maps[(1,), False], POLYGON)
    assert np.array_equal(maps[(2,), False], 2 * BRUSH)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 1 masks marked iscrowd are read as cells, as CVAT marks what its brush drew"
    ]


def test_crowds_are_regions_to_ignore_on_request(tmp_path):
    cvat(tmp_path, *DRAWN)
    assert read(find_by_name(tmp_path, "coco-export:crowd=ignore")).keys() == {((1,), False), ((2,), True)}
    with pytest.raises(CellSegError, match="crowd=some is not known; write crowd=cells or crowd=ignore"):
        find_labelled(tmp_path, crowd="some")


def test_images_may_lie_elsewhere(tmp_path):
    cvat(tmp_path, *DRAWN, names=("sub/a.png",))
    (tmp_path / "data" / "deep").mkdir(parents=True)
    shutil.move(tmp_path / "images" / "sub" / "a.png", tmp_path / "data" / "deep" / "a.png")
    found = find_labelled(tmp_path)
    assert [sample.id for sample in found.images] == ["data_deep_a"]
    assert np.array_equal(read(found)[(1,), False], POLYGON)


@pytest.mark.parametrize(
    "name",
    [
        "images/3f2a91bc-a.png",
        "images\\3f2a91bc-a.png",
        "../../label-studio/data/media/upload/3/3f2a91bc-a.png",
        "/label-studio/data/upload/3/3f2a91bc-a.png",
        "3f2a91bc-a.png",
    ],
)
@pytest.mark.parametrize("kept", ["3f2a91bc-a.png", "a.png"])
def test_label_studios_names_of_its_server(tmp_path, name, kept):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / kept), IMAGE[..., ::-1])
    content = {
        "images": [{"width": SIZE[1], "height": SIZE[0], "id": 0, "file_name": name}],
        "categories": [{"id": 0, "name": "cell"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 0,
                "segmentation": [RING],
                "bbox": [2, 3, 8, 9],
                "ignore": 0,
                "iscrowd": 0,
            }
        ],
        "info": {"year": 2026, "version": "1.0", "contributor": "Label Studio"},
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    found = find_labelled(tmp_path)
    assert (found.class_names, found.images[0].id) == (["cell"], kept[:-4])
    assert np.array_equal(read(found)[(1,), False], POLYGON)


def test_boxes_are_counted_and_named(tmp_path):
    path = cvat(tmp_path, *DRAWN, {"category_id": 1, "segmentation": [], "bbox": [1, 2, 3, 4]})
    found = find_labelled(tmp_path)
    assert len(read(found)) == 2
    (note,) = found.notes
    assert note.startswith(f"{path}: 1 of 3 annotations have no pixel")
    assert note.endswith("left out: annotation 2, counted from 0, of image 1")


def two_files(root):
    cvat(root, *DRAWN)
    cvat(root, *DRAWN, file="annotations/instances_val.json")


def two_images(root):
    cvat(root, *DRAWN)
    for folder in ("one", "two"):
        (root / folder).mkdir()
        shutil.copy(root / "images" / "a.png", root / folder / "a.png")
    (root / "images" / "a.png").unlink()


def no_image(root):
    cvat(root, *DRAWN)
    (root / "images" / "a.png").unlink()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"holds no annotations/instances_\*\.json and no result\.json; name it with --from-coco"),
        (two_files, r"holds annotations/instances_default\.json, annotations/instances_val\.json; choose one with"),
        (two_images, r"instances_default\.json: its image a\.png may be .*one/a\.png or .*two/a\.png; keep one"),
        (no_image, r"instances_default\.json: its image a\.png is not in .*; put it into .*/images"),
    ],
)
def test_what_is_not_clear_is_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(CellSegError, match=message):
        find_labelled(tmp_path)


def test_a_file_may_be_chosen(tmp_path):
    two_files(tmp_path)
    path = tmp_path / "annotations" / "instances_val.json"
    assert len(find_by_name(tmp_path, "coco-export", path).images) == 1


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    cvat(tmp_path, *DRAWN, names=("a.png", "b.png"))
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path, tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as coco-export (CVAT's annotations" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"tumour": 1, "immune": 1}
    assert check(tmp_path, ConvertOptions(), annotation_format="coco-export").summary["cells"]["count"] == 2
