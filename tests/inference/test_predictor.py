import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from ground_truth_model import BlobModel, GroundTruthModel, coded_image

import cellseg_d2.modeling  # noqa: F401  (registers the laptop model's backbone)
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import read_label_map
from cellseg_d2.inference.predictor import WholeImagePredictor


def _predictor(model, *opts):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['a', 'b', 'c', 'd']", *opts])
    return WholeImagePredictor(model, cfg)


def _mosaic(sample_root):
    """Real label maps of nine samples, side by side."""
    folders = [f for f in sorted((sample_root / "train").iterdir()) if (f / "class2.tif").is_file()][:9]
    size, maps = 256, {number: np.zeros((768, 768), np.int32) for number in range(1, 5)}
    for place, folder in enumerate(folders):
        y, x = (size * side for side in divmod(place, 3))
        for number in maps:
            if (folder / f"class{number}.tif").is_file():
                part = read_label_map(folder / f"class{number}.tif")[:size, :size]
                maps[number][y : y + size, x : x + size] = np.where(part > 0, part + 10_000 * place, 0)
    return maps


@pytest.mark.parametrize(("tile_size", "overlap"), [(512, 0.25), (512, 0.5), (256, 0.5)])
def test_no_real_cell_is_lost_or_doubled_across_tiles(tile_size, overlap, sample_root):
    image, count = coded_image(_mosaic(sample_root))
    assert count > 200
    options = ["CELLSEG.INFERENCE.TILE_SIZE", str(tile_size), "CELLSEG.INFERENCE.OVERLAP", str(overlap)]
    model = GroundTruthModel()
    cells = _predictor(model, *options).predict(image)
    assert sum(len(call) for call in model.calls) > 1
    found = [
        int(np.bincount(image[y : y + m.shape[0], x : x + m.shape[1]][m].astype(int) @ (1, 256, 0)).argmax())
        for m, (x, y) in zip(cells.masks, cells.origins)
    ]
    assert sorted(found) == list(range(1, count + 1))
    np.testing.assert_array_equal(cells.classes, [image[y, x, 2] for x, y in _inner_points(cells)])


def _inner_points(cells):
    """A pixel (x, y) of each mask."""
    for mask, (x, y) in zip(cells.masks, cells.origins):
        rows, columns = np.nonzero(mask)
        middle = len(rows) // 2
        yield x + columns[middle], y + rows[middle]


def test_an_image_that_fits_is_predicted_whole():
    model = GroundTruthModel()
    image = np.zeros((300, 512, 3), np.uint8)
    assert len(_predictor(model).predict(image)) == 0
    assert model.calls == [[(300, 512)]]


def test_tiles_go_to_the_model_in_batches_of_one_size():
    model = GroundTruthModel()
    image = np.zeros((300, 2400, 3), np.uint8)
    _predictor(model, "CELLSEG.INFERENCE.BATCH_SIZE", "2").predict(image)
    assert sum(len(call) for call in model.calls) == 7
    assert max(len(call) for call in model.calls) == 2
    assert all(len(set(call)) == 1 for call in model.calls)


def test_the_batch_size_changes_nothing():
    torch.manual_seed(0)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "4"]
    model = build_model(get_cfg("mask_rcnn_lite0_FPN", [*opts, "TEST.DETECTIONS_PER_IMAGE", "9"]))
    image = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    keys = ["CELLSEG.INFERENCE.TILE_SIZE", "96", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    one, four = (_predictor(model, *keys, "CELLSEG.INFERENCE.BATCH_SIZE", size).predict(image) for size in ("1", "4"))
    assert len(one) == len(four) > 0
    np.testing.assert_allclose(one.boxes, four.boxes, atol=1e-2)
    np.testing.assert_allclose(one.scores, four.scores, atol=1e-4)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_red_is_red_for_the_model(image_format):
    class Recorder(GroundTruthModel):
        def inference(self, inputs, do_postprocess):
            self.image = inputs[0]["image"].clone()
            return super().inference([{"image": torch.zeros(3, 8, 8)}], do_postprocess)

    model, red = Recorder(), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    _predictor(model, "INPUT.FORMAT", image_format).predict(red)
    assert [int(channel.max()) for channel in model.image] == ([255, 0, 0] if image_format == "RGB" else [0, 0, 255])


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [
        ([], {}, [0.5, 0.5]),
        ([], {"min_score": 0.3}, [0.3, 0.3]),
        ([0.2, 0.7], {}, [0.2, 0.7]),
        ([0.2, 0.7], {"min_score": 0.3}, [0.3, 0.3]),
        ([0.2, 0.7], {"min_score_of_class": {"b": 0.9}}, [0.2, 0.9]),
        ([0.2, 0.7], {"min_score": 0.3, "min_score_of_class": {"a": 0}}, [0, 0.3]),
    ],
)
def test_least_scores_are_those_given_or_the_checkpoints_or_a_half(trained, given, expected):
    names = ["CELLSEG.CLASS_NAMES", "['a', 'b']", "CELLSEG.INFERENCE.MIN_SCORES", str(trained)]
    predictor = WholeImagePredictor(BlobModel(), get_cfg("mask_rcnn_lite0_FPN", names))
    assert predictor.selection(**given).least == dict(zip("ab", expected))


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(CellSegError, match=r"nowhere.pth: there is no such file"):
        WholeImagePredictor.from_checkpoint(tmp_path / "nowhere.pth")
