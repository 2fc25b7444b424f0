"""Regions of drawn images, predicted by a stand-in model: which tiles it sees, which cells stay, what is written."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawing import discs, drawn, read_folder
from ground_truth_model import BlobModel, predict_in_a_process, predict_in_two_processes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cellseg_d2.annotations.shapes import Shape, cover
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.formats import FORMATS
from cellseg_d2.images.listing import list_images
from cellseg_d2.inference import region, segment
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.from_results import Results, export_results
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.region import Area, MaskRegion, OutlineRegion, read_region, with_regions

SIZE = (150, 200)


def predictor_of(model, *opts):
    keys = ["CELLSEG.CLASS_NAMES", "['nucleus']", "CELLSEG.INFERENCE.TILE_SIZE", "48", *opts]
    return WholeImagePredictor(model, get_cfg("mask_rcnn_lite0_FPN", keys))


def feature(*rings, **properties):
    """A GeoJSON feature with a polygon of some rings; rings are closed, as the format wants it."""
    closed = [[*map(list, ring), list(ring[0])] for ring in rings]
    properties = {"objectType": "annotation", **properties}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": closed}, "properties": properties}


def box(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def write_geojson(path, *features):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


LEFT = feature(box(10, 10, 90, 120))


def picture(seed):
    bright = discs(np.random.default_rng(seed), *SIZE, 40, radius=8) > 0
    return np.repeat((bright * 200).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def images(tmp_path):
    """Two images with bright discs, one of them in a folder below."""
    for number, place in enumerate(("a.tif", "below/b.ome.tif")):
        path = tmp_path / "images" / place
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, picture(number), photometric="rgb")
    return list_images(tmp_path / "images", None)


@pytest.fixture
def regions(images, tmp_path):
    """A folder with a GeoJSON for the one image, and a mask for the other."""
    write_geojson(tmp_path / "regions" / "a.geojson", LEFT)
    mask = np.zeros(SIZE, np.uint8)
    mask[60:, 100:] = 255
    (tmp_path / "regions" / "below").mkdir()
    Image.fromarray(mask).save(tmp_path / "regions" / "below" / "b.png")
    return tmp_path / "regions"


@st.composite
def areas(draw):
    """Areas of up to two rings that cross as they like, partly outside the image."""
    point = st.tuples(*[st.integers(-20, 160).map(lambda value: value / 2)] * 2)
    ring = st.lists(point, min_size=3, max_size=6).map(lambda points: np.array(points, np.float64))
    return [draw(st.lists(ring, min_size=1, max_size=2)) for _ in range(draw(st.integers(1, 3)))]


@drawn
@given(areas(), areas(), st.integers(1, 70))
def test_windows_show_what_the_whole_outlines_cover(inside, outside, side):
    size = (60, 70)
    expected = cover([Shape.of_rings("", 1, rings, size) for rings in inside], size)
    expected &= ~cover([Shape.of_rings("", 1, rings, size) for rings in outside], size)
    found = OutlineRegion(size, [Area(rings) for rings in inside], [Area(rings) for rings in outside])
    for y in range(0, 60, side):
        for x in range(0, 70, side):
            window = (x, y, min(x + side, 70), min(y + side, 60))
            np.testing.assert_array_equal(found.read(window), expected[y : y + side, x : x + side])
            assert found.touches(window) == expected[y : y + side, x : x + side].any()
    assert found.share == expected.mean()


@pytest.mark.parametrize("block", [16, 1024])
def test_cells_stay_that_lie_in_the_region_by_half(block, monkeypatch):
    monkeypatch.setattr(region, "BLOCK_SIDE", block)
    inside = np.zeros((40, 200), bool)
    inside[:, 100:] = True
    boxes = np.array([[96, 1, 104, 3], [95, 11, 104, 13], [10, 1, 14, 3], [150, 1, 190, 30], [80, 1, 121, 30]])
    shapes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in boxes]
    cells = CellInstances(
        (40, 200),
        boxes.astype(np.float32),
        np.linspace(0.9, 0.5, 5, dtype=np.float32),
        np.zeros(5, np.int64),
        [np.ones(shape, bool) for shape in shapes],
        boxes[:, :2],
    )
    kept = MaskRegion(inside).keep(cells)
    assert kept.mask_boxes.tolist() == boxes[[0, 3, 4]].tolist()
    assert len(MaskRegion(inside).keep(cells[:0])) == 0


@pytest.mark.parametrize("overlap", ["0.25", "0.5"])
def test_the_cells_of_a_region_are_those_of_the_whole_image_that_lie_in_it(overlap):
    options = ("CELLSEG.INFERENCE.OVERLAP", overlap)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = (y - 60) ** 2 + (x - 70) ** 2 < 45**2
    for seed in range(4):
        whole, part = BlobModel(), BlobModel()
        expected = MaskRegion(mask).keep(predictor_of(whole, *options).predict(picture(seed)))
        found = predictor_of(part, *options).predict(picture(seed), MaskRegion(mask))
        assert found.rles() == expected.rles()
        assert len(found) > 3
        assert 0 < sum(map(len, part.calls)) < sum(map(len, whole.calls))


def test_tiles_that_the_region_does_not_touch_are_not_predicted():
    model = BlobModel()
    predictor = predictor_of(model)
    corner = np.zeros(SIZE, bool)
    corner[0, 0] = True
    predictor.predict(picture(0), MaskRegion(corner))
    assert sum(map(len, model.calls)) == 1


def test_an_empty_mask_has_no_cells():
    model = BlobModel()
    assert len(predictor_of(model).predict(picture(0), MaskRegion(np.zeros(SIZE, bool)))) == 0
    assert not model.calls


def test_a_cell_that_the_last_tile_cuts_is_no_cell_too_large(caplog):
    """Its owner is not predicted, as the region does not touch it: that is no reason to put it together from pieces."""
    image = np.zeros((40, 120, 3), np.uint8)
    image[10:20, 38:62] = 200  # whole in the second tile alone
    inside = np.zeros(image.shape[:2], bool)
    inside[:, :20] = True
    assert len(predictor_of(BlobModel()).predict(image, MaskRegion(inside))) == 0
    assert not caplog.records


def test_all_files_have_the_cells_of_the_regions(images, regions, tmp_path):
    output = Output(tmp_path / "out", FORMATS)
    summary = predict_images(predictor_of(BlobModel()), with_regions(images, regions), output)
    results = json.loads((output.folder / "test-results.json").read_text())
    counts = pd.read_csv(output.folder / "counts.csv").set_index("image")["cells"]
    assert summary.counts == {"nucleus": counts.sum()}
    assert len(results) == counts.sum()
    shares = []
    for number, image in enumerate(images):
        found = read_region(with_regions(images, regions)[number].region, SIZE)
        inside = found.read((0, 0, SIZE[1], SIZE[0]))
        labels = tifffile.imread(output.folder / "labels" / image.name / "labels.tif")
        detections = json.loads((output.folder / "geojson" / f"{image.name}.geojson").read_text())["features"]
        table = pd.read_csv(output.folder / "csv" / f"{image.name}.csv")
        expected = found.keep(predictor_of(BlobModel()).predict(image.read("percentile:0.1,99.9")))
        assert len(expected) == counts[image.file_name] == len(table) == len(detections) == labels.max() > 2
        for label in range(1, labels.max() + 1):
            assert inside[labels == label].mean() >= 0.5
        shares.append(inside.mean())
    record = json.loads((output.folder / "prediction.json").read_text())
    assert list(record["region_percents"].values()) == pytest.approx([100 * share for share in shares], abs=1e-3)
    assert summary.region_percent == pytest.approx(100 * np.mean(shares))
    kept = Results.read(output.folder)
    assert export_results(kept, tmp_path / "later", ["geojson"], kept.selection) == summary.counts
    assert json.loads((tmp_path / "later" / "prediction.json").read_text()) == record


def test_without_a_region_none_is_told(images, tmp_path):
    assert predict_images(predictor_of(BlobModel()), images, Output(tmp_path / "out")).region_percent is None


def test_what_counts_in_a_geojson_is_annotations_without_those_to_ignore(tmp_path):
    hole = feature(box(10, 10, 60, 60), box(20, 20, 30, 30))
    ignored = feature(box(50, 50, 70, 70), classification={"name": "Ignore*"})
    cell = feature(box(100, 100, 140, 140), objectType="detection")
    other_plane = feature(box(100, 10, 140, 40))
    other_plane["geometry"]["plane"] = {"z": 1}
    line = {**LEFT, "geometry": {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}}
    path = write_geojson(tmp_path / "r.geojson", hole, ignored, cell, other_plane, line, feature(box(180, 0, 300, 9)))
    expected = np.zeros(SIZE, bool)
    expected[10:60, 10:60] = True
    expected[20:30, 20:30] = expected[50:70, 50:70] = False
    expected[:9, 180:] = True
    np.testing.assert_array_equal(read_region(path, SIZE).read((0, 0, SIZE[1], SIZE[0])), expected)


@pytest.mark.parametrize("name", ["r.tif", "r.png"])
def test_a_mask_is_what_is_not_0(name, tmp_path):
    values = np.random.default_rng(0).integers(0, 3, SIZE, dtype=np.uint8)
    (tifffile.imwrite if name == "r.tif" else lambda path, pixels: Image.fromarray(pixels).save(path))(
        tmp_path / name, values
    )
    np.testing.assert_array_equal(read_region(tmp_path / name, SIZE).read((3, 5, 50, 60)), values[5:60, 3:50] > 0)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([], "has no annotation with an area"),
        ([feature(box(0, 0, 9, 9), objectType="detection")], "has no annotation with an area"),
        ([feature(box(500, 0, 600, 90))], "lies outside its image of 150 x 200"),
        ([{"type": "Polygon", "coordinates": []}], "object 1 is no GeoJSON feature"),
    ],
)
def test_outlines_that_are_no_region_are_refused(features, said, tmp_path):
    with pytest.raises(CellSegError, match=rf"r\.geojson: {said}"):
        read_region(write_geojson(tmp_path / "r.geojson", *features), SIZE)


@pytest.mark.parametrize(("shape", "said"), [((75, 100), "save the mask in the full size"), (SIZE[::-1], "is turned")])
def test_a_mask_of_another_size_is_refused(shape, said, tmp_path):
    tifffile.imwrite(tmp_path / "r.tif", np.ones(shape, np.uint8))
    with pytest.raises(CellSegError, match=rf"r\.tif: is {shape[0]} x {shape[1]}, its image 150 x 200.*{said}"):
        read_region(tmp_path / "r.tif", SIZE)


def test_each_image_has_the_region_of_its_name(images, regions):
    found = with_regions(images, regions)
    assert [image.region for image in found] == [regions / "a.geojson", regions / "below" / "b.png"]
    (regions / "a.geojson").rename(regions / "a.tif.geojson")
    assert with_regions(images, regions)[0].region == regions / "a.tif.geojson"


def test_regions_may_lie_beside_their_images(images):
    beside = [write_geojson(image.path.with_name(image.path.name.split(".")[0] + ".geojson"), LEFT) for image in images]
    assert [image.region for image in with_regions(images, images[0].path.parent)] == beside


def test_regions_that_are_missing_or_not_clear_are_named(images, regions, tmp_path):
    with pytest.raises(CellSegError, match=r"nowhere: there is no such file or folder"):
        with_regions(images, tmp_path / "nowhere")
    with pytest.raises(CellSegError, match=r"a\.geojson: is one region for 2 images; give a folder"):
        with_regions(images, regions / "a.geojson")
    with pytest.raises(CellSegError, match=r"a\.tif: is one region for 2"):
        with_regions(images, images[0].path)
    (tmp_path / "r.jpg").write_bytes(b"")
    with pytest.raises(CellSegError, match=r"r\.jpg: is no region; give GeoJSON, or a mask"):
        with_regions(images[:1], tmp_path / "r.jpg")
    Image.new("L", SIZE[::-1]).save(regions / "a.png")
    with pytest.raises(CellSegError, match=r"a\.png: is of a\.tif, as a\.geojson is; remove or rename"):
        with_regions(images, regions)
    (regions / "below" / "b.png").unlink()
    (regions / "a.png").unlink()
    with pytest.raises(CellSegError, match=r"regions: has no region of below/b\.ome\.tif; add below/b\.geojson, or a"):
        with_regions(images, regions)


class _Stops(BlobModel):
    """Fails after the first image, as a machine that is switched off."""

    def inference(self, inputs, do_postprocess):
        if self.calls and len(self.calls) >= self.most:
            raise RuntimeError("switched off")
        return super().inference(inputs, do_postprocess)


def _calls(images, tmp_path):
    """The number of batches of each image alone."""
    models = [BlobModel() for _ in images]
    for number, (model, image) in enumerate(zip(models, images)):
        predict_images(predictor_of(model), [image], Output(tmp_path / f"alone{number}"))
    return [len(model.calls) for model in models]


def test_a_stopped_run_goes_on_and_knows_a_region_that_changed(images, regions, tmp_path):
    chosen, output = with_regions(images, regions), Output(tmp_path / "out", FORMATS)
    first, second = _calls(chosen, tmp_path)

    def stop():
        model = _Stops()
        model.most = first
        with pytest.raises(RuntimeError, match="switched off"):
            predict_images(predictor_of(model), chosen, output)

    stop()
    model = BlobModel()
    predict_images(predictor_of(model), chosen, output)
    assert len(model.calls) == second
    stop()
    with pytest.raises(CellSegError, match="holds an unfinished prediction of other settings"):
        predict_images(predictor_of(BlobModel()), images, output)
    write_geojson(regions / "a.geojson", feature(box(100, 5, 190, 100)))
    predict_images(predictor_of(BlobModel()), chosen, output)
    predict_images(predictor_of(BlobModel()), chosen, Output(tmp_path / "whole", FORMATS))
    assert read_folder(output.folder) == read_folder(tmp_path / "whole")


@pytest.mark.parametrize("shared_tiles", [0, 100], ids=["tiles are shared", "images are shared"])
def test_two_processes_find_what_one_finds(shared_tiles, images, regions, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    chosen = with_regions(images, regions)
    alone, together = Output(tmp_path / "alone"), Output(tmp_path / "together")
    predict_in_a_process(chosen, alone, shared_tiles)
    predict_in_two_processes(chosen, together, shared_tiles)
    one, two = read_folder(alone.folder), read_folder(together.folder)
    calls = [int(two.pop(f"calls{rank}")) for rank in range(2)]
    assert sum(calls) == int(one.pop("calls0"))
    assert min(calls) > 0
    assert one == two


def test_an_image_whose_region_cannot_be_read_is_skipped_when_asked_for(images, regions, tmp_path):
    (regions / "a.geojson").write_text("{")
    chosen = with_regions(images, regions)
    with pytest.raises(CellSegError, match=r"a\.geojson: is not JSON"):
        predict_images(predictor_of(BlobModel()), chosen, Output(tmp_path / "out"))
    summary = predict_images(predictor_of(BlobModel()), chosen, Output(tmp_path / "skips", skip_errors=True))
    assert [skipped.file_name for skipped in summary.skipped] == ["a.tif"]
    assert "a.geojson" in summary.skipped[0].reason


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_segment_takes_a_mask(dtype):
    mask = np.zeros(SIZE, dtype)
    mask[:, 100:] = 1
    predictor = predictor_of(BlobModel())
    expected = predictor.confident(MaskRegion(mask > 0).keep(predictor.predict(picture(0))))
    assert segment(picture(0), predictor, region=mask).rles() == expected.rles()
    with pytest.raises(ValueError, match=r"a region has the shape of its image, \(150, 200\), not \(200, 150\)"):
        segment(picture(0), predictor, region=mask.T)
