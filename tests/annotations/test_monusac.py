"""MoNuSAC's files on small pairs of the published form."""

import csv
import logging
import os

import numpy as np
import pytest
import tifffile
from drawing import noise, read_folder
from monusac_files import box, write_pair, xml

from cellseg_d2.annotations.monusac import find_pairs, import_monusac, paint_polygons, read_outlines
from cellseg_d2.errors import CellSegError

SLIDE = "TCGA-55-1594-01Z-00-DX1"
OUTLINES = {
    "Epithelial": [box(2, 2, 10, 8), box(20, 5, 24.5, 9.5)],
    "Macrophage": [box(30, 10, 40, 20)],
    "Ambiguous": [box(4, 12, 12, 18)],
}


@pytest.fixture
def image():
    return noise(np.random.default_rng(0), 30, 50)


@pytest.fixture
def root(tmp_path, image):
    write_pair(tmp_path / "set" / SLIDE, f"{SLIDE}_001", image, OUTLINES)
    return tmp_path / "set"


def polygon(corners):
    return np.array(corners, np.float64)


def test_a_pair_becomes_a_sample(root, image, tmp_path):
    done = import_monusac(root, tmp_path / "out")
    folder = tmp_path / "out" / "train" / f"{SLIDE}_001"
    assert sorted(os.listdir(folder)) == ["class1.tif", "class4.tif", "ignore.tif", "image.tif"]
    assert np.array_equal(tifffile.imread(folder / "image.tif"), image)
    expected = np.zeros((30, 50), np.uint16)
    expected[2:8, 2:10], expected[5:10, 20:25] = 1, 2
    assert np.array_equal(tifffile.imread(folder / "class1.tif"), expected)
    assert tifffile.imread(folder / "class4.tif").dtype == np.uint16
    assert np.argwhere(tifffile.imread(folder / "ignore.tif")).tolist() == [
        [y, x] for y in range(12, 18) for x in range(4, 12)
    ]
    assert (done.images, done.patients) == (1, 1)
    assert done.outlines == {"Epithelial": 2, "Lymphocyte": 0, "Neutrophil": 0, "Macrophage": 1, "Ambiguous": 1}


def test_a_tiff_is_read_where_there_is_no_slide_and_the_slide_where_there_are_both(root, image, tmp_path):
    write_pair(root / "other", "a", 255 - image, OUTLINES, ".tif")
    write_pair(root / SLIDE, f"{SLIDE}_001", image[..., ::-1], OUTLINES, ".tif")
    import_monusac(root, tmp_path / "out")
    train = tmp_path / "out" / "train"
    assert np.array_equal(tifffile.imread(train / "other_a" / "image.tif"), 255 - image)
    assert np.array_equal(tifffile.imread(train / f"{SLIDE}_001" / "image.tif"), image)


def test_two_slides_of_one_patient_are_one_group(root, image, tmp_path):
    write_pair(root / "TCGA-55-1594-01Z-00-DX2", "TCGA-55-1594-01Z-00-DX2_001", image, OUTLINES)
    write_pair(root / "TCGA-69-7760-01Z-00-DX1", "TCGA-69-7760-01Z-00-DX1_001", image, OUTLINES)
    write_pair(root / "own", "a", image, OUTLINES)
    assert import_monusac(root, tmp_path / "out").patients == 3
    with (tmp_path / "out" / "patients.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("TCGA-55-1594-01Z-00-DX1_001", "", "TCGA-55-1594"),
        ("TCGA-55-1594-01Z-00-DX2_001", "", "TCGA-55-1594"),
        ("TCGA-69-7760-01Z-00-DX1_001", "", "TCGA-69-7760"),
        ("own_a", "", "own"),
    ]


def test_what_macos_adds_to_archives_is_not_looked_at(root):
    (root / SLIDE / f"._{SLIDE}_001.xml").write_bytes(b"\0")
    (root / SLIDE / ".DS_Store").write_bytes(b"\0")
    assert [pair.id for pair in find_pairs(root)] == [f"{SLIDE}_001"]


def test_squares_on_pixel_borders_keep_their_area_and_do_not_overlap():
    painted = paint_polygons([polygon(box(0, 0, 4, 4)), polygon(box(4, 0, 8, 4))], (6, 9))
    assert np.bincount(painted.labels.ravel()).tolist() == [6 * 9 - 32, 16, 16]
    assert (painted.count, painted.overlapping, painted.clipped, painted.lost) == (2, 0, 0, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_a_small_outline_inside_a_large_one_is_not_erased_whichever_comes_first(order):
    polygons = [polygon(box(0, 0, 8, 8)), polygon(box(2, 2, 4, 4))][::order]
    painted = paint_polygons(polygons, (8, 8))
    assert sorted(np.bincount(painted.labels.ravel())[1:].tolist()) == [4, 60]
    assert (painted.count, painted.overlapping, painted.lost) == (2, 2, 0)


def test_of_two_equal_outlines_the_earlier_stays_and_the_loss_is_counted():
    painted = paint_polygons([polygon(box(0, 0, 3, 3))] * 2, (4, 4))
    assert np.unique(painted.labels).tolist() == [0, 1]
    assert (painted.count, painted.overlapping, painted.lost) == (1, 2, 1)


def test_outlines_outside_are_clipped():
    painted = paint_polygons(
        [polygon(box(-5, -5, 2, 2)), polygon(box(20, 0, 30, 9)), polygon(box(3, 0, 1e12, 2))], (4, 6)
    )
    assert np.bincount(painted.labels.ravel()).tolist() == [24 - 4 - 6, 4, 0, 6]
    assert (painted.count, painted.clipped, painted.lost) == (2, 3, 1)


def test_what_outlines_lose_is_one_warning(root, image, tmp_path, caplog):
    outlines = {"Lymphocyte": [box(0, 0, 5, 5), box(3, 3, 8, 8), box(45, 25, 60, 40)], "Epithelial": [[(1, 1), (2, 2)]]}
    write_pair(root / "own", "a", image, outlines)
    with caplog.at_level(logging.WARNING):
        import_monusac(root, tmp_path / "out")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{root / 'own' / 'a.xml'}: of its outlines 1 Epithelial have no pixel of their own and are left out, "
        "2 Lymphocyte overlap, 1 Lymphocyte reach outside the image and are clipped"
    )


def test_an_image_without_outlines_is_left_out_with_a_warning(root, image, tmp_path, caplog):
    tifffile.imwrite(root / SLIDE / "alone.tif", image)
    with caplog.at_level(logging.WARNING):
        assert import_monusac(root, tmp_path / "out").images == 1
    assert "alone.tif: has no XML beside it, it is left out" in caplog.text


def test_an_unknown_class_is_named_or_taken_for_ambiguous(root, image, tmp_path):
    write_pair(root / "own", "a", image, {"Plasma": [box(1, 1, 5, 5)], "Description": []})
    with pytest.raises(CellSegError, match=r"a\.xml: has 1 outlines of the class 'Plasma'; known are Epithelial, "):
        import_monusac(root, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["set"]
    import_monusac(root, tmp_path / "out", unknown_is_ambiguous=True)
    assert sorted(os.listdir(tmp_path / "out" / "train" / "own_a")) == ["ignore.tif", "image.tif"]


BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE Annotations [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + "]><Annotations>&a9;</Annotations>"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("", "is damaged (no element found", id="empty"),
        pytest.param('<?xml version="1.0" encoding="foo-8"?><Annotations/>', "is damaged (", id="unknown encoding"),
        pytest.param(xml(OUTLINES)[:400], "is damaged (", id="truncated"),
        pytest.param("<html></html>", "begins with <html>, not with ImageScope's <Annotations>", id="other XML"),
        pytest.param(BILLION_LAUGHS, "has a document type (DTD)", id="billion laughs"),
        pytest.param(xml({"Epithelial": [[("a", 1)] * 3]}), "has a Vertex without a number for X or Y", id="no number"),
        pytest.param(xml(OUTLINES).replace(' Y="', ' y="'), "has a Vertex without a number for X or Y", id="no Y"),
        pytest.param(xml({"Epithelial": [[("nan", 1)] * 3]}), "has a Vertex at infinity or NaN", id="NaN"),
    ],
)
def test_damaged_outlines_are_one_line(tmp_path, content, message):
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(CellSegError) as caught:
        read_outlines(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_folder_an_empty_one_and_outlines_without_an_image_are_refused(root, tmp_path):
    with pytest.raises(CellSegError, match="nowhere: there is no such folder; give the one that MoNuSAC was unpacked"):
        import_monusac(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CellSegError, match="empty: holds no image with an XML of the same name beside it"):
        import_monusac(tmp_path / "empty", tmp_path / "out")
    (root / SLIDE / "b.xml").write_text(xml(OUTLINES))
    with pytest.raises(CellSegError, match=r"b\.xml: has no image beside it; put b\.svs or b\.tif there"):
        import_monusac(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_of_one_name_are_refused(root, image, tmp_path):
    write_pair(root / "again" / SLIDE, f"{SLIDE}_001", image, OUTLINES)
    with pytest.raises(CellSegError, match=f"would be sample {SLIDE}_001, as .* is; rename one of the two"):
        import_monusac(root, tmp_path / "out")


@pytest.mark.parametrize("length", [0, 8, 100, 2000])
def test_a_truncated_slide_is_refused(root, tmp_path, length):
    path = root / SLIDE / f"{SLIDE}_001.svs"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CellSegError, match=rf"{path.name}: .*copy it again"):
        import_monusac(root, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["set"]


def test_a_slide_that_is_not_rgb_is_refused(root, image, tmp_path):
    tifffile.imwrite(root / SLIDE / f"{SLIDE}_001.svs", image.astype(np.uint16), photometric="rgb")
    with pytest.raises(CellSegError, match=r"holds uint16 .*, not 8-bit RGB"):
        import_monusac(root, tmp_path / "out")


def test_an_earlier_import_is_replaced_only_on_request_and_another_folder_never(root, tmp_path):
    import_monusac(root, tmp_path / "out")
    before = read_folder(tmp_path / "out")
    with pytest.raises(CellSegError, match="out: exists already; give another --output, or --overwrite to replace it"):
        import_monusac(root, tmp_path / "out")
    import_monusac(root, tmp_path / "out", overwrite=True)
    assert read_folder(tmp_path / "out") == before
    (tmp_path / "out" / "patients.csv").unlink()
    with pytest.raises(CellSegError, match=r"is not overwritten \(it has no patients\.csv\)"):
        import_monusac(root, tmp_path / "out", overwrite=True)
