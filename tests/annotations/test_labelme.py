"""LabelMe's JSON, written by json, with masks that Pillow writes as LabelMe's ``img_arr_to_b64`` does."""

import base64
import io
import json
import logging

import cv2
import numpy as np
import pytest
from annotated import IMAGE, SIZE, check_maps, filled, label_maps
from drawing import discs
from PIL import Image

from cellseg_d2.annotations.labelme import find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError


def shape(points, label="cell", kind="polygon", group=None, mask=None, **more):
    if mask is not None:
        file = io.BytesIO()
        Image.fromarray(mask).save(file, format="PNG")
        mask = base64.b64encode(file.getvalue()).decode()
    return {
        "label": label,
        "points": np.asarray(points).tolist(),
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": mask,
        **more,
    }


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


@pytest.fixture
def write(tmp_path):
    def write(*shapes, name="a", image="", **content):
        file = image or f"{name}.png"
        assert cv2.imwrite(str(tmp_path / file), IMAGE[..., ::-1])
        path = tmp_path / f"{name}.json"
        whole = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": file, "imageData": None}
        path.write_text(json.dumps({**whole, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **content}))
        return path

    return write


def read(root):
    return label_maps(find_labelled(root))


def test_polygons_rectangles_and_circles(write):
    path = write(
        shape(box(2.4, 3.4, 10.6, 12.6), "b"),
        shape([[30, 12], [20.2, 3]], "a", "rectangle"),
        shape([[20.5, 25.5], [24.5, 28.5]], "a", "circle"),
        shape(box(40, 3, 44, 9), "a", "oriented_rectangle"),
    )
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    circle = np.where(np.hypot(x - 20.5, y - 25.5) <= 5, 3, 0)
    check_maps(
        read(path.parent),
        a=filled(_2=(20, 3, 30, 12)) + circle + filled(_4=(40, 3, 44, 9)),
        b=filled(_1=(2, 3, 11, 13)),
    )


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_masks_lie_in_their_box(write, dtype):
    mask = discs(np.random.default_rng(1), 12, 15, 3) > 0
    path = write(shape([[7, 5], [21, 16]], kind="mask", mask=mask.astype(dtype)))
    expected = np.zeros(SIZE, np.int32)
    expected[5:17, 7:22] = mask
    check_maps(read(path.parent), cell=expected)


@pytest.mark.parametrize(
    ("corners", "shown"),
    [
        ([[7, 5], [9, 6]], (7, 5, 10, 7)),  # the box is smaller than the mask, which LabelMe crops
        ([[6.6, 5.4], [9.2, 6.1]], (7, 5, 11, 8)),  # dragged by fractions: the mask as it is, from the rounded corner
    ],
)
def test_a_box_that_does_not_fit_its_mask_is_read_as_labelme_reads_it(write, corners, shown):
    path = write(shape(corners, kind="mask", mask=np.ones((3, 4), bool)))
    check_maps(read(path.parent), cell=filled(_1=shown))


def test_shapes_of_one_label_and_group_are_one_cell(write):
    path = write(
        shape(box(2, 3, 10, 12), group=4),
        shape(box(20, 3, 24, 6)),
        shape(box(8, 10, 14, 20), group=4),
        shape(box(30, 3, 34, 6), label="other", group=4),
        shape(box(30, 10, 34, 16), group=0),
        shape(box(36, 10, 40, 16), group=0),
    )
    joined = np.minimum(filled(_4=(2, 3, 10, 12)) + filled(_4=(8, 10, 14, 20)), 4)
    cells = joined + filled(_5=(20, 3, 24, 6)) + filled(_7=(30, 10, 34, 16)) + filled(_7=(36, 10, 40, 16))
    check_maps(read(path.parent), cell=cells, other=filled(_6=(30, 3, 34, 6)))


def test_what_is_labelled_to_be_ignored_is_a_region(write):
    path = write(shape(box(2, 3, 10, 12)), shape(box(20, 20, 30, 30), label="__ignore__"))
    maps = read(path.parent)
    assert np.array_equal(maps.pop(None)[0], filled(_1=(20, 20, 30, 30)))
    check_maps(maps, cell=filled(_1=(2, 3, 10, 12)))


def test_what_is_no_cell_is_counted_and_named(write, caplog):
    path = write(
        shape(box(2, 3, 10, 12)),
        shape([[3, 4]], kind="point", label="centre"),
        shape([[3, 4], [6, 8]], kind="line"),
        shape([[3, 4], [6, 8], [9, 9]], kind="linestrip"),
        shape(box(60, 60, 70, 70)),
        shape([[5, 5], [6, 6]]),
    )
    with caplog.at_level(logging.WARNING):
        check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: left out: 3 (shape 2, shape 3, shape 4) without an area",
        f"{path}: of 3 objects 1 (shape 5 'cell') outside the image and left out; "
        "1 (shape 6 'cell') without a pixel and left out",
    ]


def test_overlaps_lose_no_pixel(write):
    path = write(shape(box(2, 3, 10, 12)), shape(box(5, 6, 15, 16)))
    first, second = read(path.parent)["cell"]
    assert np.array_equal(first, filled(_1=(2, 3, 10, 12)))
    assert np.array_equal(second, filled(_2=(5, 6, 15, 16)))


def test_the_image_that_the_file_names_is_found_in_another_folder(write, tmp_path):
    path = write(shape(box(2, 3, 10, 12)), name="x", image="scan 1.png", imagePath="..\\images\\scan 1.png")
    for folder, file in (("images", tmp_path / "scan 1.png"), ("json", path)):
        (tmp_path / folder).mkdir()
        file.rename(tmp_path / folder / file.name)
    assert [sample.id for sample in find_labelled(tmp_path).images] == ["scan 1"]
    check_maps(read(tmp_path), cell=filled(_1=(2, 3, 10, 12)))


def test_other_json_is_not_looked_at(write):
    path = write(shape(box(2, 3, 10, 12)))
    (path.parent / "settings.json").write_text("{}")
    check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shape(box(2, 3, 10, 12), label="")], "shape 1 has no label; give it one in LabelMe"),
        ([5], "shape 1 has no label"),
        ([shape(box(2, 3, 10, 12), group=[1])], "shape 1 has a group that is no number; give it another in LabelMe"),
        ([shape([[1, 2], [3, 10**400], [4, 5]])], "shape 1 'cell' is damaged .int too large to convert to float"),
        ([shape(box(2, 3, 10, 12), kind="star")], "shape 1 is of the type 'star'; draw it as one of polygon, "),
        ([shape([[1, 2], [3, float("nan")], [4, 5]])], "shape 1 'cell' is damaged .its points are not finite"),
        ([shape([1, 2, 3])], "shape 1 'cell' is damaged"),
        ([shape(box(2, 3, 10, 12), kind="rectangle")], "shape 1 'cell' is damaged"),
        ([shape([[1, 2], [3, 4]], kind="mask")], "shape 1 'cell' is damaged"),
        ([shape([[1, 2], [3, 4]], kind="mask") | {"mask": "?"}], "shape 1 'cell' is damaged"),
        (
            [shape([[1, 2], [3, 4]], kind="mask", mask=np.ones((3, 3, 3), np.uint8))],
            "shape 1 'cell' is damaged .its mask has several channels",
        ),
        (
            [shape([[1, 2], [3, 4]], kind="mask") | {"mask": "AAAA"}],
            "shape 1 'cell' is damaged .cannot identify image file",
        ),
        (
            [shape([[1, 2], [3, 4]], kind="mask", mask=np.ones((2, 3), bool))],
            "shape 1 'cell' is damaged .its mask is 2 x 3, its box 3 x 3.; draw it again",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(write, shapes, message):
    path = write(*shapes)
    with pytest.raises(CellSegError, match=message) as caught:
        read(path.parent)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_of_another_image_or_of_another_form_is_refused(write):
    path = write(shape(box(2, 3, 10, 12)), imageHeight=50)
    with pytest.raises(CellSegError, match=r"a\.json: was drawn on an image of 50 x 50, a\.png is 40 x 50; put the"):
        read(path.parent)
    path.write_text('{"shapes": 1}')
    with pytest.raises(
        CellSegError, match=r"a\.json: has no list of shapes, as LabelMe writes it; save it there again"
    ):
        read(path.parent)
    path.write_text('{"shapes": [')
    with pytest.raises(CellSegError, match=r"a\.json: is not JSON"):
        read(path.parent)
    path.unlink()
    with pytest.raises(CellSegError, match="holds no JSON file of LabelMe"):
        find_labelled(path.parent)


def test_it_is_guessed_checked_and_converted(write, tmp_path, caplog):
    for name in "abc":
        write(shape(box(2, 3, 10, 12)), shape([[20, 20], [30, 33]], "b", "rectangle"), name=name)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path, tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as labelme (x.json of LabelMe" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"b": 3, "cell": 3}
    assert check(tmp_path, ConvertOptions()).summary["cells"]["count"] == 6
