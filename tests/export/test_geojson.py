"""GeoJSON as QuPath opens it, read back with shapely."""

import json

import numpy as np
import pytest
import shapely
from drawing import overlapping_masks, pycocotools_rle, written
from hypothesis import given

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.geojson import write_geojson
from cellseg_d2.export.overlay import class_color

NAMES = ["Épithélial", "Lymphocyte", "Macrophage"]


def draw(shape, size):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(size)


@written
@given(overlapping_masks(min_count=1))
def test_shapely_reads_each_mask_back(tmp_path_factory, masks):
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    size = masks[0].shape
    classes = np.arange(len(masks)) % 3
    write_geojson(path, CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], classes, size), NAMES)
    shapes = shapely.from_geojson(path.read_text(encoding="utf-8")).geoms
    assert len(shapes) == len(masks)
    for shape, mask in zip(shapes, masks):
        assert shapely.is_valid(shape)
        assert np.array_equal(draw(shape, size), mask)


def test_properties_are_those_of_qupath(tmp_path):
    mask = np.ones((2, 3), bool)
    cells = CellInstances(
        (50, 40),
        np.zeros((2, 4), np.float32),
        np.array([0.12345678, 1], np.float32),
        np.array([1, 0]),
        [mask, mask],
        np.array([[5, 9], [30, 2]]),
    )
    write_geojson(tmp_path / "a.geojson", cells, NAMES)
    content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[5, 9], [8, 9], [8, 11], [5, 11], [5, 9]]]},
        "properties": {
            "objectType": "detection",
            "name": "1",
            "classification": {"name": "Lymphocyte", "color": class_color(1).tolist()},
            "measurements": {"score": pytest.approx(0.123457)},
        },
    }
    assert second["properties"]["name"] == "2"
    assert second["properties"]["classification"] == {"name": "Épithélial", "color": class_color(0).tolist()}


def test_cells_may_be_annotations(tmp_path):
    cells = CellInstances.from_rles([pycocotools_rle(np.eye(6, dtype=bool))], [2], (6, 6))
    for kind in ("detection", "annotation"):
        write_geojson(tmp_path / kind, cells, NAMES, kind)
    detection, annotation = (json.loads((tmp_path / kind).read_text()) for kind in ("detection", "annotation"))
    assert annotation["features"][0]["properties"].pop("objectType") == "annotation"
    assert detection["features"][0]["properties"].pop("objectType") == "detection"
    assert annotation == detection


def test_parts_and_holes_are_a_multipolygon(tmp_path):
    mask = np.ones((3, 9), bool)
    mask[1, 1], mask[:, 4] = False, False
    write_geojson(tmp_path / "a.geojson", CellInstances.from_rles([pycocotools_rle(mask)], [0], mask.shape), NAMES)
    (shape,) = shapely.from_geojson((tmp_path / "a.geojson").read_text()).geoms
    assert shape.geom_type == "MultiPolygon"
    assert [len(part.interiors) for part in shape.geoms] == [1, 0]


def test_an_image_without_cells_is_a_collection_without_features(tmp_path):
    write_geojson(tmp_path / "a.geojson", CellInstances.empty((4, 4)), NAMES)
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_the_same_cells_make_the_same_file(tmp_path):
    cells = CellInstances.from_rles([pycocotools_rle(np.eye(6, dtype=bool))], [2], (6, 6))
    for name in ("a", "b"):
        write_geojson(tmp_path / name, cells, NAMES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
