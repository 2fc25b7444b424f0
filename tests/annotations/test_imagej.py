"""ROIs of ImageJ, written by roifile."""

import logging
import zipfile

import numpy as np
import pytest
import tifffile
from annotated import IMAGE, SIZE, check_maps, filled, label_maps
from drawing import discs, pycocotools_rle
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi, roiwrite

from cellseg_d2.annotations.imagej import find_labelled
from cellseg_d2.annotations.readers import find_labelled as find_by_name
from cellseg_d2.annotations.roi_files import read_rois
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.imagej_rois import write_roi_zip


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def polygon(points, kind=ROI_TYPE.POLYGON, name="", **fields):
    roi = ImagejRoi.frompoints(points, name=name)
    roi.roitype = kind
    return with_fields(roi, **fields)


def rectangle(x0, y0, x1, y1, kind=ROI_TYPE.RECT, **fields):
    return with_fields(ImagejRoi(version=228, roitype=kind, left=x0, top=y0, right=x1, bottom=y1), **fields)


def subpixel(x0, y0, width, height, kind):
    """A rectangle or an oval whose sides lie between pixels."""
    roi = rectangle(int(x0), int(y0), int(x0 + width) + 1, int(y0 + height) + 1, kind)
    roi.options = ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    return with_fields(roi, xd=x0, yd=y0, widthd=width, heightd=height)


def composite(*segments):
    """A path of java.awt.geom.PathIterator: 0 moves, 1 draws a line, 2 and 3 curves, 4 closes."""
    values = np.array([value for segment in segments for value in segment], np.float32)
    return rectangle(0, 0, 50, 40, shape_roi_size=len(values), multi_coordinates=values)


def ring(x0, y0, x1, y1):
    (first, *others) = box(x0, y0, x1, y1)
    return [(0, *first), *((1, *point) for point in others), (4,)]


def with_fields(roi, **fields):
    for key, value in fields.items():
        setattr(roi, key, value)
    return roi


@pytest.fixture
def write(tmp_path):
    def write(*rois, name="a", file=None):
        tifffile.imwrite(tmp_path / f"{name}.tif", IMAGE, photometric="rgb")
        path = tmp_path / (file or f"{name}.zip")
        path.unlink(missing_ok=True)
        roiwrite(path, list(rois) if path.suffix == ".zip" else rois[0], name=None)
        return path

    return write


def read(root, **options):
    return label_maps(find_labelled(root, **options))


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
@pytest.mark.parametrize(
    "file", ["a.zip", "a.roi", "a_RoiSet.zip", "RoiSet_a.zip", "a_rois.zip", "RoiSet.zip", "a.tif.zip"]
)
def test_outlines_of_every_kind_and_every_name_of_a_file(write, kind, file):
    path = write(polygon(box(2, 3, 10, 12), kind), file=file)
    check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))


def test_corners_between_pixels(write):
    points = np.array(box(2.4, 3.6, 10.5, 12.51))
    roi = polygon(points, ROI_TYPE.FREEHAND)
    assert roi.subpixel_coordinates is not None
    check_maps(read(write(roi).parent), cell=filled(_1=(2, 4, 10, 13)))


def test_rectangles_and_ovals(write):
    path = write(
        rectangle(2, 3, 10, 12),
        subpixel(20.4, 3.6, 8.2, 9, ROI_TYPE.RECT),
        rectangle(5, 20, 20, 30, ROI_TYPE.OVAL),
        subpixel(30.25, 15.5, 9.5, 18, ROI_TYPE.OVAL),
    )
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = filled(_1=(2, 3, 10, 12)) + filled(_2=(20, 4, 29, 13))
    expected[((x - 12.5) / 7.5) ** 2 + ((y - 25) / 5) ** 2 <= 1] = 3
    expected[((x - 35) / 4.75) ** 2 + ((y - 24.5) / 9) ** 2 <= 1] = 4
    check_maps(read(path.parent), cell=expected)


@pytest.mark.parametrize(
    ("height", "width", "insets"),
    [
        (15, 24, [8, 5, 3, 2, 1, 0, 0, 0]),
        (16, 21, [7, 4, 3, 2, 1, 1, 0, 0]),
        (23, 23, [8, 6, 4, 3, 2, 2, 1, 1, 0, 0, 0, 0]),
    ],
)
def test_ovals_have_the_pixels_that_imagej_gives_them(write, height, width, insets):
    """The pixels left of an oval in its box, by row down to the middle, in files that ImageJ saved.

    They are composites of read-roi's tests, for which ImageJ makes the outline of an oval's own pixels.
    """
    rows = insets + insets[: height - len(insets)][::-1]
    expected = np.zeros(SIZE, np.int32)
    for row, inset in enumerate(rows, start=3):
        expected[row, 5 + inset : 5 + width - inset] = 1
    check_maps(read(write(rectangle(5, 3, 5 + width, 3 + height, ROI_TYPE.OVAL)).parent), cell=expected)


def test_a_composite_has_holes_and_parts(write):
    path = write(composite(*ring(2, 3, 12, 13), *ring(5, 6, 8, 9), *ring(20, 3, 24, 7)))
    check_maps(read(path.parent), cell=filled(_1=(2, 3, 12, 13), _0=(5, 6, 8, 9)) + filled(_1=(20, 3, 24, 7)))


def test_curves_of_a_composite_are_followed(write):
    """A circle of four cubic curves, as java.awt.geom.Ellipse2D has it, and a parabola of one quadratic."""
    k, r, cx, cy = 0.5522847498, 12.0, 15.0, 15.0
    curves = [(0, cx + r, cy)]
    for turn in range(4):
        c, s = np.cos(np.pi / 2 * turn), np.sin(np.pi / 2 * turn)
        points = [(1, k), (k, 1), (0, 1)]
        curves.append((3, *(v for a, b in points for v in (cx + r * (c * a - s * b), cy + r * (s * a + c * b)))))
    path = write(
        with_fields(composite(*curves, (4,)), name="circle"),
        with_fields(composite((0, 30, 2), (2, 40, 42, 50, 2), (4,)), name="parabola"),
    )
    found = read(path.parent)["cell"][0]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distance = np.hypot(x - cx, y - cy)
    assert (found[distance < r - 0.1] == 1).all()
    assert (found == 1).sum() == (found[distance < r + 0.1] == 1).sum()
    depth = 2 + 20 * (1 - ((x - 40) / 10) ** 2)
    assert (found[(y > 2) & (y < depth - 0.2)] == 2).all()
    assert not (found[y > depth + 0.2] == 2).any()


def test_classes_come_from_properties_groups_names_or_not_at_all(write):
    rois = [
        polygon(box(2, 3, 6, 8), name="neuron-1", group=2, props="class: late\nsize: 3\n"),
        polygon(box(12, 3, 16, 8), name="neuron-2", group=0, props="size: 4\nCLASS: early\n"),
        polygon(box(22, 3, 26, 8), name="0001-0034", group=2),
    ]
    first, second, third = filled(_1=(2, 3, 6, 8)), filled(_2=(12, 3, 16, 8)), filled(_3=(22, 3, 26, 8))
    root = write(*rois).parent
    check_maps(read(root), late=first, early=second, none=third)
    check_maps(read(root, class_from="group"), group2=first + third, none=second)
    check_maps(read(root, class_from="name"), neuron=first + second, none=third)
    check_maps(read(root, class_from="one"), cell=first + second + third)
    for roi in rois:
        roi.props = ""
    check_maps(read(write(*rois).parent), group2=first + third, none=second)
    assert find_by_name(root, "imagej:class_from=name").class_names == ["neuron", "none"]
    with pytest.raises(CellSegError, match="class_from=colour is not known; choose from property, group, "):
        find_labelled(root, class_from="colour")


def test_properties_are_read_whole_whatever_the_names_length(write):
    path = write(polygon(box(2, 3, 6, 8), name="a long name indeed", props="class: neutrophil"))
    (roi,) = read_rois(path)
    assert roi.properties == {"class": "neutrophil"}


def test_names_that_are_numbers_are_the_labels(write):
    path = write(polygon(box(2, 3, 6, 8), name="70"), polygon(box(12, 3, 16, 8), name="5"))
    check_maps(read(path.parent), cell=filled(_70=(2, 3, 6, 8)) + filled(_5=(12, 3, 16, 8)))


def test_what_is_no_cell_is_counted_and_named(write, caplog):
    path = write(
        polygon(box(2, 3, 10, 12), name="cell"),
        polygon([[3, 4], [5, 6]], ROI_TYPE.POINT, name="dots"),
        polygon(box(3, 4, 9, 9), ROI_TYPE.POLYLINE, name="line"),
        rectangle(2, 3, 9, 9, name="note", subtype=ROI_SUBTYPE.TEXT, text="x"),
        polygon(box(2, 3, 10, 12), name="slice", z_position=2),
        polygon(box(60, 60, 70, 70), name="far"),
        polygon(box(3, 3, 3, 9), name="thin"),
    )
    with caplog.at_level(logging.WARNING):
        check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: left out: 1 (slice) in another plane; 3 (dots, line, note) without an area",
        f"{path}: of 3 objects 1 (far) outside the image and left out; 1 (thin) without a pixel and left out",
    ]


def test_overlaps_lose_no_pixel(write):
    path = write(polygon(box(2, 3, 10, 12)), rectangle(5, 6, 15, 16))
    first, second = read(path.parent)["cell"]
    assert np.array_equal(first, filled(_1=(2, 3, 10, 12)))
    assert np.array_equal(second, filled(_2=(5, 6, 15, 16)))


def test_what_prediction_writes_comes_back_pixel_for_pixel(write, tmp_path):
    cells = discs(np.random.default_rng(1), *SIZE, 12)
    masks = [cells == label for label in np.unique(cells[cells > 0])]
    path = write(rectangle(0, 0, 1, 1))
    rles = [pycocotools_rle(mask) for mask in masks]
    instances = CellInstances.from_rles(rles, np.arange(len(masks)) % 2, SIZE)
    write_roi_zip(path, instances, ["a", "b_c"])
    expected = {name: np.zeros(SIZE, np.int32) for name in ("a", "b_c")}
    for place, mask in enumerate(masks):
        expected[("a", "b_c")[place % 2]][mask] = place + 1
    check_maps(read(tmp_path), **expected)


def test_rois_added_to_those_of_predict_may_be_called_by_their_class(write):
    """Of the names that are not of our form, some are classes, one was made by ImageJ, and one repeats ours there."""
    path = write(
        polygon(box(2, 3, 6, 8), name="0003_small round_0.93"),
        polygon(box(12, 3, 16, 8), name="0007_large_1.00"),
        polygon(box(22, 3, 26, 8), name="large"),
        polygon(box(32, 3, 36, 8), name="0120-0034"),
        polygon(box(42, 3, 46, 8), name="0007_large_1.00-1"),
        polygon(box(2, 13, 6, 18), name="0008_class2_1.00"),
        polygon(box(12, 13, 16, 18), name="class2"),
        polygon(box(22, 13, 26, 18), name="large-2"),
    )
    large = filled(_7=(12, 3, 16, 8), _9=(22, 3, 26, 8), _11=(42, 3, 46, 8), _13=(22, 13, 26, 18))
    numbered = filled(_8=(2, 13, 6, 18), _12=(12, 13, 16, 18))
    small, none = filled(_3=(2, 3, 6, 8)), filled(_10=(32, 3, 36, 8))
    check_maps(read(path.parent), **{"small round": small}, class2=numbered, large=large, none=none)


def test_other_entries_of_an_archive_are_not_looked_at(write):
    path = write(polygon(box(2, 3, 10, 12)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._1.roi", b"x")
        archive.writestr("readme.txt", b"x")
    other = path.with_name("data.zip")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", b"x")
    check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))


def damaged(change):
    data = bytearray(polygon(box(2, 3, 10, 12), name="A").tobytes())
    change(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"text", "ROI '1' is damaged .*ImageJ ROI"),
        (damaged(lambda data: data.__delitem__(slice(70, None))), "ROI '1' is damaged"),
        (damaged(lambda data: data.__setitem__(6, 99)), "ROI '1' is damaged .99 is not a valid ROI_TYPE"),
        (composite((1, 2, 3)).tobytes(), "ROI '1' is damaged .its path has the segment 1 where none may be"),
        (composite((0, 2, 3), (7, 2)).tobytes(), "ROI '1' is damaged .its path has the segment 7"),
        (composite((0, 2, 3), (1, 2)).tobytes(), "ROI '1' is damaged"),
        (
            subpixel(2, 3, 4, 5, ROI_TYPE.OVAL).tobytes().replace(b"\x40\x80\x00\x00", b"\x7f\xc0\x00\x00"),
            "ROI '1' is damaged .its coordinates are not finite",
        ),
        (composite((0, 2, 3), (1, 2, np.nan)).tobytes(), "ROI '1' is damaged .its coordinates are not finite"),
    ],
)
def test_a_damaged_roi_is_one_line(write, data, message):
    path = write(polygon(box(2, 3, 10, 12)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.roi", data)
    with pytest.raises(CellSegError, match=message) as caught:
        find_labelled(path.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; remove it, or save it again")


def test_an_archive_of_a_later_version_is_one_line(write):
    path = write(polygon(box(2, 3, 10, 12)))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 6] = 210  # the version that is needed to extract it
    path.write_bytes(data)
    with pytest.raises(CellSegError, match=r"a\.zip: cannot be read as a zip of ROIs .*; save it again"):
        find_labelled(path.parent)


@pytest.mark.parametrize("cut", [0, 30])
def test_a_damaged_archive_is_one_line(write, cut):
    path = write(polygon(box(2, 3, 10, 12)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CellSegError, match=r"a\.zip: (is empty|cannot be read as a zip of ROIs .*; save it again)"):
        find_labelled(path.parent)


def test_it_is_guessed_checked_and_converted(write, tmp_path, caplog):
    for name in "abc":
        write(polygon(box(2, 3, 10, 12), group=1), rectangle(20, 20, 30, 33, group=2), name=name)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path, tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as imagej (x.roi or a zip of ROIs" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"group1": 3, "group2": 3}
    assert check(tmp_path, ConvertOptions()).summary["cells"]["count"] == 6
