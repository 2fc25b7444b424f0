"""LabelMe's JSON, checked as LabelMe checks it when it opens a file, and drawn again by our reader."""

import base64
import io
import json

import cv2
import numpy as np
from drawing import noise, overlapping_masks, pycocotools_rle, written
from hypothesis import given
from PIL import Image

from cellseg_d2.annotations.labelme import find_labelled
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.labelme import write_labelme
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

NAMES = ["Épithélial", "Lymphocyte", "T cell: CD8/CD4"]


def check_form(content):
    """The types that ``labelme._label_file.read_label_file`` of LabelMe 6 asks for; others end with an error there."""
    assert {"imagePath", "imageData", "shapes", "imageHeight", "imageWidth"} <= content.keys()
    for shape in content["shapes"]:
        types = {key: type(value) for key, value in shape.items()}
        wanted = {"label": str, "shape_type": str, "points": list, "flags": dict, "description": str, "group_id": int}
        assert {key: types[key] for key in wanted} == wanted
        assert all(len(point) == 2 and set(map(type, point)) <= {int, float} for point in shape["points"])
        assert len(shape["points"]) > 2 or shape["shape_type"] == "mask"


@written
@given(overlapping_masks(min_count=1))
def test_each_mask_is_drawn_again_with_its_id_and_class(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("labelme")
    size, classes = masks[0].shape, np.arange(len(masks)) % 3
    cells = CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], classes, size)
    write_labelme(folder / "a.json", cells, NAMES, "a.png")
    check_form(json.loads((folder / "a.json").read_text(encoding="utf-8")))
    assert cv2.imwrite(str(folder / "a.png"), noise(np.random.default_rng(0), *size))
    found = find_labelled(folder)
    drawn = {}
    for layer in found.images[0].read(INTENSITY_RULE, MAX_PIXELS, 3).label_maps:
        name = found.class_names[layer.categories[0] - 1]
        drawn |= {label: (name, layer.labels == label) for label in layer.cells[0].tolist()}
    assert sorted(drawn) == list(range(1, len(masks) + 1))
    for label, (name, mask) in drawn.items():
        assert name == NAMES[classes[label - 1]]
        assert np.array_equal(mask, masks[label - 1])


def test_parts_are_polygons_of_one_group_and_a_cell_with_a_hole_is_a_mask(tmp_path):
    ring, parts = np.ones((4, 5), bool), np.ones((2, 7), bool)
    ring[1, 2], parts[:, 3] = False, False
    cells = CellInstances(
        (50, 40),
        np.zeros((2, 4), np.float32),
        np.array([0.12345678, 1], np.float32),
        np.array([1, 0]),
        [ring, parts],
        np.array([[5, 9], [30, 2]]),
    )
    write_labelme(tmp_path / "new" / "a.json", cells, NAMES, "../images/a.tif")
    content = json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8"))
    check_form(content)
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("../images/a.tif", 50, 40)
    mask, *polygons = content["shapes"]
    assert (mask["shape_type"], mask["label"], mask["group_id"]) == ("mask", "Lymphocyte", 1)
    assert (mask["points"], mask["score"]) == ([[5, 9], [9, 12]], 0.123457)  # of its first and last pixel
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["mask"])))) > 0, ring)
    assert [shape["points"] for shape in polygons] == [
        [[30, 2], [33, 2], [33, 4], [30, 4]],
        [[34, 2], [37, 2], [37, 4], [34, 4]],
    ]
    assert {(shape["shape_type"], shape["label"], shape["group_id"], shape["score"]) for shape in polygons} == {
        ("polygon", "Épithélial", 2, 1.0)
    }
