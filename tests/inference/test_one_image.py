import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from drawing import discs
from ground_truth_model import BlobModel

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.formats import WRITERS
from cellseg_d2.export.overlay import draw_overlay
from cellseg_d2.inference import segment
from cellseg_d2.inference.one_image import as_channels
from cellseg_d2.inference.predictor import WholeImagePredictor

RULE = "range:0,1000"


@pytest.fixture(scope="module")
def predictor():
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']", "CELLSEG.INTENSITY_RULE", RULE])
    return WholeImagePredictor(BlobModel(), cfg)


@pytest.mark.parametrize(
    ("channels", "dtype", "bright"),
    [(None, np.uint8, 200), (1, np.uint8, 200), (3, np.uint8, 200), (4, np.uint8, 200), (3, np.uint16, 900)],
)
def test_arrays_of_every_kind_are_segmented(channels, dtype, bright, predictor):
    cells = discs(np.random.default_rng(0), 70, 90, 5, radius=9) > 0
    image = (cells * bright).astype(dtype)
    if channels is not None:
        image = np.repeat(image[..., None], channels, axis=2)
    found = segment(image, predictor)
    drawn = np.zeros(cells.shape, bool)
    for mask, (x, y) in zip(found.masks, found.origins):
        drawn[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    assert len(found) > 1
    assert (drawn != cells).mean() < 0.02


def test_alpha_is_left_out_and_grey_becomes_rgb():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = (1, 2, 3), 255
    assert as_channels(rgba, RULE).tolist() == [[[1, 2, 3]] * 3] * 2
    assert as_channels(np.array([[0, 500]], np.uint16), RULE).tolist() == [[[0] * 3, [128] * 3]]


def test_every_way_to_hold_a_value_gives_the_same():
    values = np.array([[0, 500, 1000]])
    for dtype in (">u2", "<u2", np.int32, np.float32, np.float64):
        assert as_channels(values.astype(dtype), RULE)[0, :, 0].tolist() == [0, 128, 255]
    assert as_channels(values > 600, RULE)[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1j])
def test_values_that_are_no_intensities_are_refused(value, predictor):
    with pytest.raises(ValueError, match="complex, NaN or infinite"):
        segment(np.array([[0, value]]), predictor)


class Scored(BlobModel):
    """Finds each blob with the score of its brightness."""

    def inference(self, inputs, do_postprocess=False):
        found = super().inference(inputs, do_postprocess=do_postprocess)
        for sample, instances in zip(inputs, found):
            centres = instances.pred_boxes.get_centers().long()
            instances.scores = (sample["image"][0, centres[:, 1], centres[:, 0]].float() - 100) / 150
        return found


@pytest.fixture
def two_cells():
    """A bright cell on the left, a dim one on the right."""
    image = np.zeros((40, 80), np.uint8)
    image[10:26, 10:26], image[10:26, 50:66] = 230, 153
    return image


@pytest.fixture(scope="module")
def scoring(predictor):
    return WholeImagePredictor(Scored(), predictor.cfg)


def test_cells_of_low_score_are_left_out(two_cells, scoring):
    assert [origin[0] for origin in segment(two_cells, scoring).origins.tolist()] == [10]
    assert len(segment(two_cells, scoring, min_score=0.2)) == 2
    assert len(segment(two_cells, scoring, min_score=0.95)) == 0
    assert len(segment(two_cells, scoring, min_score_of_class={"nucleus": 0.2})) == 2


def test_a_checkpoints_least_scores_are_used_unless_others_are_given(two_cells, predictor):
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.CELLSEG.INFERENCE.MIN_SCORES = [0.2]
    own = WholeImagePredictor(Scored(), cfg)
    assert len(segment(two_cells, own)) == 2
    assert len(segment(two_cells, own, min_score=0.5)) == 1
    assert len(segment(two_cells, own, min_score_of_class={"nucleus": 0.95})) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_score": 1.5}, "from 0 to 1, not 1.5"),
        ({"min_score_of_class": {"nucleus": -0.1}}, "from 0 to 1, not -0.1"),
        ({"min_score_of_class": {"cell": 0.5}}, "'cell' is not among the classes: nucleus"),
        ({"formats": ["coco"]}, "'coco' is no format of a single image; choose from geojson"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, named, two_cells, scoring):
    with pytest.raises(CellSegError, match=named):
        segment(two_cells, scoring, **options)


def test_files_are_those_of_predict(two_cells, scoring, tmp_path):
    cells = segment(two_cells, scoring, min_score=0.2, output=tmp_path, formats=WRITERS, name="mine")
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    single = {"geojson/mine.geojson", "rois/mine.zip", "csv/mine.csv", "overlays/mine.png", "labelme/mine.json"}
    assert single < files
    assert {file.rpartition("/")[0] for file in files - single} == {"labels/mine", "cellpose/nucleus"}
    assert len(json.loads((tmp_path / "geojson" / "mine.geojson").read_text())["features"]) == len(cells) == 2


def test_an_image_without_cells_has_none_and_its_files_are_written(scoring, tmp_path):
    cells = segment(np.zeros((30, 20), np.uint8), scoring, output=tmp_path, formats=WRITERS)
    assert len(cells) == 0
    assert cells.scores.tolist() == cells.areas.tolist() == []
    assert (tmp_path / "overlays" / "image.png").is_file()


def test_without_a_model_the_published_weights_find_nuclei(sample_root):
    """The counts of a dark and of a stained image are near those of the ground truth."""
    truth = json.loads((sample_root / "test_gt.json").read_text())
    for name in ("a7f6194ddbea.tif", "7d40ea6ead1b.tif"):
        image_id = next(image["id"] for image in truth["images"] if image["file_name"] == name)
        cells = sum(cell["image_id"] == image_id for cell in truth["annotations"])
        found = segment(tifffile.imread(sample_root / "test_release" / name))
        assert 0.5 * cells <= len(found) <= 1.5 * cells, (name, cells, len(found))


def test_a_config_without_weights_is_refused(predictor):
    with pytest.raises(CellSegError, match="needs weights"):
        segment(np.zeros((8, 8), np.uint8), get_cfg("mask_rcnn_lite0_FPN", ["MODEL.WEIGHTS", ""]))


def test_a_config_with_a_value_that_is_not_allowed_is_refused():
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.WEIGHTS", "nuclei", "INPUT.FORMAT", "HSV"])
    with pytest.raises(CellSegError, match=r"INPUT\.FORMAT is HSV; write RGB or BGR"):
        segment(np.zeros((8, 8), np.uint8), cfg)


@pytest.mark.parametrize("shape", [(5,), (4, 4, 2), (2, 4, 4, 3), (0, 4)])
def test_other_shapes_are_refused(shape, predictor):
    with pytest.raises(ValueError, match="an image has the shape"):
        segment(np.zeros(shape, np.uint8), predictor)


def test_the_package_is_imported_without_torch(repo_root):
    code = "import sys; sys.modules.update(torch=None, detectron2=None); import cellseg_d2.inference.stitch"
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True)


def test_the_result_shows_the_cells_on_the_image(two_cells, scoring):
    found = segment(two_cells, scoring, min_score=0.2)
    assert repr(found) == "2 cells (2 nucleus) in an image of 40 x 80 pixels"
    assert found.class_names == ("nucleus",)
    assert np.array_equal(found.image, as_channels(two_cells, RULE))
    assert np.array_equal(found.picture(), draw_overlay(stretched(found.image), found))
    best = found[found.scores > 0.5]
    assert np.array_equal(best.picture(), draw_overlay(stretched(found.image), best))
    assert np.array_equal(found.label_image() > 0, two_cells > 0)
    assert found._repr_png_().startswith(b"\x89PNG")


def test_the_picture_of_a_large_image_is_smaller(predictor):
    image = np.zeros((1500, 300), np.uint8)
    image[700:760, 100:160] = 200
    found = segment(image, predictor)
    assert found.picture().shape == (1024, 205, 3)
    assert len(found) == 1


def test_nothing_but_the_result_is_printed(repo_root, sample_root):
    image = sample_root / "test_release" / "7d40ea6ead1b.tif"
    code = "import tifffile; from cellseg_d2.inference import segment; print(repr(segment(tifffile.imread(%r))))"
    command = [sys.executable, "-c", code % str(image)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.endswith(" nucleus) in an image of 360 x 360 pixels\n")
    assert done.stdout.count("\n") == 1
