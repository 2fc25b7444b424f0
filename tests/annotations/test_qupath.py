"""QuPath's GeoJSON, written by json in the forms of its releases, and by shapely."""

import json
import logging

import numpy as np
import pytest
import shapely
import tifffile
from annotated import IMAGE, SIZE, check_maps, filled, label_maps
from drawing import discs, pycocotools_rle

from cellseg_d2.annotations.geojson import read_objects
from cellseg_d2.annotations.qupath import find_labelled
from cellseg_d2.annotations.readers import find_labelled as find_by_name
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.geojson import write_geojson


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(*rings, kind="detection", name=None, classes=None, geometry=None, **members):
    """A feature as QuPath 0.5 writes it."""
    properties = {"objectType": kind}
    if name is not None:
        properties["name"] = name
    if classes is not None:
        key, value = ("name", classes) if isinstance(classes, str) else ("names", classes)
        properties["classification"] = {key: value, "color": [200, 0, 0]}
    shape = geometry or {"type": "Polygon", "coordinates": list(rings)}
    identity = "8f1b1a5e-3c7b-4a52-9a5e-3f2f9f6a9a10"
    return {"type": "Feature", "id": identity, "geometry": shape, **members, "properties": properties}


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def write(tmp_path):
    """Writes an image and its GeoJSON, and gives the path of the latter."""

    def write(content, name="a"):
        tifffile.imwrite(tmp_path / f"{name}.tif", IMAGE, photometric="rgb")
        path = tmp_path / f"{name}.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def read(root, **options):
    return label_maps(find_labelled(root, **options))


def test_objects_become_label_maps_of_their_classes(write):
    ring, hole = box(2, 3, 10, 12), box(4.5, 5.5, 7.5, 8.5)
    parts = {"type": "MultiPolygon", "coordinates": [[box(20, 1, 24, 5)], [box(26, 1.4, 29, 4.6), box(27, 2, 28, 3)]]}
    path = write(
        collection(
            feature(ring, hole, classes="Tumor"),
            feature(geometry=parts, classes="Tumor", kind="annotation"),
            feature(box(30, 20, 33.49, 24.51), classes=["Immune", "CD8"], kind="cell"),
            feature(box(40, 30, 44, 34)),
        )
    )
    tumour = filled(_1=(2, 3, 10, 12)) + filled(_2=(20, 1, 24, 5)) + filled(_2=(26, 1, 29, 5))
    tumour[5:8, 4:7] = 0  # centres 4.5 .. 6.5 lie on or right of the hole's left side, 7.5 on its right side
    tumour[2, 27] = 0
    maps = read(path.parent)
    assert list(maps) == ["Immune: CD8", "Tumor", "Unclassified"]
    assert np.array_equal(maps["Tumor"][0], tumour)
    assert np.array_equal(maps["Immune: CD8"][0], filled(_3=(30, 20, 33, 25)))
    assert np.array_equal(maps["Unclassified"][0], filled(_4=(40, 30, 44, 34)))


@pytest.mark.parametrize("form", ["collection", "list", "feature"])
def test_a_collection_a_list_and_one_feature_are_read(write, form):
    one = feature(box(2, 3, 10, 12))
    path = write({"collection": collection(one), "list": [one], "feature": one}[form])
    check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))


def test_what_shapely_writes_is_read(write):
    shape = shapely.Point(20, 20).buffer(9.3).difference(shapely.box(18, 15, 22, 21.2))
    geometry = json.loads(shapely.to_geojson(shape))
    path = write(collection(feature(geometry=geometry)))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    check_maps(read(path.parent), cell=shapely.contains_xy(shape, x, y).astype(int))


def test_the_forms_of_earlier_releases_are_read(write):
    """0.2 has the type as id, 0.3 in another property; classes have colorRGB, and in 0.2 their parents."""
    shape = {"type": "Polygon", "coordinates": [box(2, 3, 10, 12)]}
    parent = {"name": "Tumor", "colorRGB": -3670016}
    old = {"name": "Positive", "colorRGB": -1, "parentClass": parent}
    features = [
        {"type": "Feature", "id": "PathCellObject", "geometry": shape, "properties": {"classification": old}},
        {"type": "Feature", "geometry": shape, "properties": {"object_type": "detection", "classification": parent}},
        {"type": "Feature", "id": "PathTileObject", "geometry": shape, "properties": {}},
        {"type": "Feature", "geometry": shape, "properties": {"isLocked": True, "measurements": []}},
        {"type": "Feature", "geometry": shape},
    ]
    found = read_objects(write(features))
    assert [one.kind for one in found] == ["cell", "detection", "tile", "annotation", "annotation"]
    assert [one.class_name for one in found] == ["Tumor: Positive", "Tumor", None, None, None]


def test_objects_below_others_are_read_and_a_root_is_the_image(write):
    below = feature(box(2, 3, 10, 12))
    above = feature(box(20, 3, 30, 12), kind="annotation")
    above["properties"]["childObjects"] = [below]
    root = feature(box(0, 0, 50, 40), kind="root")
    root["properties"]["childObjects"] = [above]
    check_maps(read(write([root]).parent), cell=filled(_1=(20, 3, 30, 12)) + filled(_2=(2, 3, 10, 12)))


def test_names_that_are_numbers_are_the_labels(write):
    path = write([feature(box(2, 3, 10, 12), name="70"), feature(box(20, 3, 30, 12), name="5")])
    check_maps(read(path.parent), cell=filled(_70=(2, 3, 10, 12)) + filled(_5=(20, 3, 30, 12)))
    write([feature(box(2, 3, 10, 12), name="70"), feature(box(20, 3, 30, 12), name="70")])
    check_maps(read(path.parent), cell=filled(_70=(2, 3, 10, 12)) + filled(_71=(20, 3, 30, 12)))
    write([feature(box(2, 3, 10, 12), name="new"), feature(box(20, 3, 30, 12), name="5")])
    check_maps(read(path.parent), cell=filled(_6=(2, 3, 10, 12)) + filled(_5=(20, 3, 30, 12)))


def test_a_cell_has_the_outline_of_its_membrane_or_of_its_nucleus(write, caplog):
    nucleus = {"type": "Polygon", "coordinates": [box(4, 5, 8, 9)]}
    path = write(
        [feature(box(2, 3, 10, 12), kind="cell", nucleusGeometry=nucleus), feature(box(20, 3, 30, 12), kind="cell")]
    )
    check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)) + filled(_2=(20, 3, 30, 12)))
    with caplog.at_level(logging.WARNING):
        check_maps(read(path.parent, outline="nucleus"), cell=filled(_1=(4, 5, 8, 9)))
    assert f"{path}: left out: 1 (object 2) without a nucleus" in caplog.text


def test_what_is_no_cell_is_counted_and_named(write, caplog):
    elsewhere = {"type": "Polygon", "coordinates": [box(2, 3, 10, 12)], "plane": {"c": -1, "z": 2, "t": 0}}
    path = write(
        [
            feature(box(2, 3, 10, 12)),
            feature(geometry={"type": "Point", "coordinates": [3, 4]}, name="dot"),
            feature(geometry={"type": "LineString", "coordinates": [[3, 4], [5, 6]]}),
            feature(geometry={"type": "Polygon", "coordinates": []}),
            feature(geometry=elsewhere),
            feature(box(0, 0, 9, 9), kind="tile"),
            feature(box(60, 60, 70, 70)),
            feature(box(2.6, 2.6, 3.4, 3.4)),
        ]
    )
    with caplog.at_level(logging.WARNING):
        check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: left out: 1 (object 5) in another plane; 1 (object 6) of the kind tile; "
        "3 (object 2 'dot', object 3, object 4) without an area",
        f"{path}: of 3 objects 1 (object 7) outside the image and left out; 1 (object 8) without a pixel and left out",
    ]


def test_an_annotation_around_others_is_a_region_not_a_cell(write, caplog):
    cells = [feature(box(x, 3, x + 4, 7), classes="Tumor") for x in (4, 10)]
    path = write([feature(box(1, 1, 45, 30), kind="annotation", classes="Tissue", name="ROI 1"), *cells])
    with caplog.at_level(logging.WARNING):
        check_maps(read(path.parent), Tumor=filled(_1=(4, 3, 8, 7)) + filled(_2=(10, 3, 14, 7)))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: left out: 1 (object 1 'ROI 1') around others, taken for regions, not for cells"
    )


@pytest.mark.parametrize("measurements", [{"score": 0.93}, [{"name": "score", "value": 0.93}], {"area": 1}, [3], None])
def test_an_annotation_that_predict_wrote_is_a_cell_also_around_others(write, measurements):
    small = [feature(box(x, 3, x + 4, 7), kind="annotation") for x in (4, 10)]
    large = feature(box(1, 1, 45, 30), kind="annotation", name="8")
    large["properties"]["measurements"] = measurements
    path = write([large, *small])
    found = read(path.parent)["cell"]
    assert any((layer == 8).any() for layer in found) == ("score" in str(measurements))


def test_only_objects_in_annotations_of_a_class_are_cells_and_the_rest_is_ignored(write, caplog):
    path = write(
        [
            feature(box(0, 0, 20, 40), kind="annotation", classes="Done"),
            feature(box(30, 10, 45, 40), kind="annotation", classes="Done"),
            feature(box(2, 3, 10, 12), classes="Tumor"),
            feature(box(16, 20, 23, 24), classes="Tumor"),  # four of seven columns inside
            feature(box(17, 30, 24, 34), classes="Tumor"),  # three of seven
            feature(box(32, 12, 36, 16), classes="Immune", kind="annotation"),
            feature(box(22, 1, 26, 4), classes="Immune"),
        ]
    )
    maps = read(path.parent, region="Done")
    ignored = filled(_1=(0, 0, 50, 40), _0=(0, 0, 20, 40))
    ignored[10:, 30:45] = 0
    assert np.array_equal(maps.pop(None)[0], ignored)
    check_maps(maps, Immune=filled(_4=(32, 12, 36, 16)), Tumor=filled(_1=(2, 3, 10, 12)) + filled(_2=(16, 20, 23, 24)))
    tissue = feature(box(0, 0, 50, 40), kind="annotation", classes="Tissue")
    write([*json.loads(path.read_text()), tissue])
    assert sorted(read(path.parent, region="Done"), key=str) == ["Immune", None, "Tumor"]
    with caplog.at_level(logging.WARNING):
        maps = read(path.parent, region="Other")
    assert f"{path}: has no annotation of Other, so all of it is ignored" in caplog.text
    assert maps.keys() == {None}
    assert maps[None][0].all()


def test_qupaths_class_for_regions_is_no_cell(write, caplog):
    path = write([feature(box(2, 3, 10, 12)), feature(box(20, 20, 30, 30), kind="annotation", classes="Region*")])
    with caplog.at_level(logging.WARNING):
        check_maps(read(path.parent), cell=filled(_1=(2, 3, 10, 12)))
    assert f"{path}: left out: 1 (object 2) of the class Region*" in caplog.text


def test_qupaths_class_for_regions_to_ignore_is_one(write):
    path = write([feature(box(2, 3, 10, 12)), feature(box(20, 20, 30, 30), kind="annotation", classes="Ignore*")])
    maps = read(path.parent)
    assert np.array_equal(maps.pop(None)[0], filled(_1=(20, 20, 30, 30)))
    check_maps(maps, cell=filled(_1=(2, 3, 10, 12)))


def test_overlaps_of_one_class_lose_no_pixel(write):
    path = write([feature(box(2, 3, 10, 12)), feature(box(5, 6, 15, 16))])
    first, second = read(path.parent)["cell"]
    assert np.array_equal(first, filled(_1=(2, 3, 10, 12)))
    assert np.array_equal(second, filled(_2=(5, 6, 15, 16)))


def test_what_prediction_writes_comes_back_pixel_for_pixel(write, tmp_path):
    cells = discs(np.random.default_rng(1), *SIZE, 12)
    path = write([])
    ids = np.unique(cells[cells > 0])
    masks = np.stack([cells == label for label in ids])
    rles = [pycocotools_rle(mask) for mask in masks]
    instances = CellInstances.from_rles(rles, np.arange(len(ids)) % 2, SIZE)
    write_geojson(path, instances, ["a", "b"])
    expected = {name: np.zeros(SIZE, np.int32) for name in "ab"}
    for place, mask in enumerate(masks):
        expected["ab"[place % 2]][mask] = place + 1
    check_maps(read(tmp_path), **expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is not JSON \("),
        ("1", "is neither a FeatureCollection nor a list of features; export it as GeoJSON"),
        ({"type": "FeatureCollection"}, "is neither a FeatureCollection nor a list"),
        ([{"type": "Polygon"}], "object 1 is no GeoJSON feature; export it again"),
        ([feature(box(1, 1, 3, 3)), 5], "object 2 is no GeoJSON feature"),
        ([feature([[1, 2], ["x", 4], [5, 6]], name="A")], "object 1 'A' is damaged .*; remove it or export it again"),
        ([feature([[1, 2], [3, float("nan")], [5, 6]])], "object 1 is damaged .its coordinates are not finite"),
        ([feature([[1, 2], [3], [5, 6]])], "object 1 is damaged"),
        ([feature(geometry={"type": "Circle"})], "object 1 is damaged .its geometry is of the type 'Circle'"),
        ([feature(geometry={"type": "Polygon"})], "object 1 is damaged"),
        ([feature(geometry=[1])], "object 1 is damaged"),
        ([feature([[1, 2], [3, 10**400], [5, 6]])], "object 1 is damaged .int too large to convert to float"),
        ([feature(box(1, 1, 3, 3)) | {"properties": "x"}], "object 1 has properties that are no JSON object"),
    ],
)
def test_what_cannot_be_read_is_one_line(write, content, message):
    path = write(content)
    with pytest.raises(CellSegError, match=message) as caught:
        find_labelled(path.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_images_and_files_are_found_in_folders_beside_each_other(write, tmp_path):
    for folder in ("images", "geojson"):
        (tmp_path / folder).mkdir()
    for name, file in (("a", "a.geojson"), ("b", "b.tif.geojson")):
        path = write([feature(box(2, 3, 10, 12))], name)
        path.with_suffix(".tif").rename(tmp_path / "images" / f"{name}.tif")
        path.rename(tmp_path / "geojson" / file)
    assert [sample.id for sample in find_labelled(tmp_path).images] == ["a", "b"]
    check_maps(read(tmp_path), cell=filled(_1=(2, 3, 10, 12)))


def test_images_of_one_name_in_several_folders_have_the_folders_name(write, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        path = write([feature(box(2, 3, 10, 12))])
        path.with_suffix(".tif").rename(tmp_path / folder / "a.tif")
        path.rename(tmp_path / folder / "a.geojson")
    assert [sample.id for sample in find_labelled(tmp_path).images] == ["one_a", "two_a"]


def test_options_are_given_behind_the_name(write):
    path = write([feature(box(2, 3, 10, 12))])
    found = find_by_name(path.parent, "qupath:region=Done: part 1, outline=nucleus")
    assert (found.images[0].choice.region, found.images[0].choice.nuclei) == ("Done: part 1", True)
    with pytest.raises(CellSegError, match=r"qupath has no option 'area'; known are: region=\.\.\., outline=\.\.\."):
        find_by_name(path.parent, "qupath:area=1")
    with pytest.raises(CellSegError, match="class-tiffs has no option 'x'; known are: none"):
        find_by_name(path.parent, "class-tiffs:x")
    with pytest.raises(CellSegError, match="outline=skin is not known; write outline=cell or outline=nucleus"):
        find_by_name(path.parent, "qupath:outline=skin")


def test_it_is_guessed_checked_and_converted(write, tmp_path, caplog):
    for name in "abc":
        write([feature(box(2, 3, 10, 12), classes="Tumor"), feature(box(20, 3, 30, 12), classes="Immune")], name)
    write("[", "d")
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        options = ConvertOptions(val_fraction=0)
        summary = convert(tmp_path, tmp_path / "out", options, skip_errors=True, workers=2)
    assert "read as qupath (x.geojson beside" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"Immune": 3, "Tumor": 3}
    assert [line.partition(": ")[0] for line in summary["skipped"]] == ["d.geojson"]
    assert check(tmp_path, ConvertOptions()).summary["cells"]["count"] == 6
