"""The faster forms of a model against the model as it was built: on real images, published weights and an R50."""

from functools import partial

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import cellseg_d2
from benchmarks.predict_profile import drawn_model
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import read_whole
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.prepare import prepare, use_available_prediction_precision
from cellseg_d2.modeling import mask_chunks
from cellseg_d2.modeling.build import cpu_computes_bfloat16
from cellseg_d2.modeling.folding import BATCH_NORMS
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile

BACKENDS = ("torch", "openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def images(sample_root):
    paths = sorted((sample_root / "test_release").glob("*.tif"))[:2]
    return [read_whole(path, "percentile:0.1,99.9", 10**9) for path in paths]


def nuclei(backend=None, precision="float32", tta=False):
    """A predictor with the published weights, prepared for a backend; for none, as Detectron2 builds it."""
    opened = WeightsFile.read("nuclei")
    cfg = opened.cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.CELLSEG.INFERENCE.PRECISION, cfg.CELLSEG.INFERENCE.TTA.ENABLED = precision, tta
    if backend is None:
        cellseg_d2.setup()
        model = build_model(cfg)
        CellCheckpointer(model, cfg, strict=True, opened=opened).load(cfg.MODEL.WEIGHTS)
        return WholeImagePredictor(model, cfg)
    cfg.CELLSEG.INFERENCE.BACKEND = backend
    return WholeImagePredictor.from_cfg(cfg, opened)


def resnet(backend=None):
    """The same with a ResNet-50 of drawn weights."""
    cellseg_d2.setup()
    model, cfg = drawn_model("mask_rcnn_R_50_FPN", 40, 128)
    cfg.CELLSEG.CLASS_NAMES = ["a", "b", "c", "d"]
    if backend is not None:
        cfg.CELLSEG.INFERENCE.BACKEND = backend
        prepare(model, cfg)
    return WholeImagePredictor(model, cfg)


def full(cells, number):
    """A cell's mask in the whole image."""
    x, y = cells.origins[number]
    mask = np.zeros(cells.image_size, bool)
    height, width = cells.masks[number].shape
    mask[y : y + height, x : x + width] = cells.masks[number]
    return mask


def assert_same(found, expected):
    """Scores to 1e-4 and 99.9 % of mask pixels, cell by cell."""
    assert len(found) == len(expected) > 20
    distance = np.abs(found.boxes[:, None] - expected.boxes[None]).max(axis=2)
    distance += 1e6 * (found.classes[:, None] != expected.classes[None])
    partner = distance.argmin(axis=1)
    assert sorted(partner) == list(range(len(expected)))
    np.testing.assert_allclose(found.scores, expected.scores[partner], atol=1e-4)
    different = union = 0
    for number, other in enumerate(partner):
        one, two = full(found, number), full(expected, other)
        different += np.count_nonzero(one != two)
        union += np.count_nonzero(one | two)
    assert different <= 0.001 * union


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [nuclei, resnet])
def test_a_prepared_model_finds_the_same(make, backend, images):
    plain, fast = make(), make(backend)
    assert any(isinstance(module, BATCH_NORMS) for module in plain.model.modules())
    for image in images:
        assert_same(fast.predict(image[:256, :256]), plain.predict(image[:256, :256]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_test_time_augmentation_finds_the_same(backend, images):
    image = np.ascontiguousarray(images[0][:160, :192])  # turned, it has another shape
    assert_same(nuclei(backend, tta=True).predict(image), nuclei(tta=True).predict(image))


def test_an_image_without_cells_gives_none(images):
    for backend in BACKENDS:
        predictor = nuclei(backend)
        predictor.model.roi_heads.box_predictor.test_score_thresh = 1.0
        assert len(predictor.predict(images[0][:96, :64])) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_finds_about_the_same_where_the_cpu_has_it(backend, images):
    exact, rough = nuclei().predict(images[0]), nuclei(backend, "bfloat16").predict(images[0])
    if not cpu_computes_bfloat16():
        return assert_same(rough, exact)
    assert not np.array_equal(rough.scores, exact.scores)
    seen, again = (np.count_nonzero(cells.scores >= 0.5) for cells in (exact, rough))
    assert abs(seen - again) <= 0.05 * seen
    return None


def test_bfloat16_becomes_float32_where_the_device_has_none(monkeypatch, caplog):
    cfg = WeightsFile.read("nuclei").cfg()
    cfg.MODEL.DEVICE, cfg.CELLSEG.INFERENCE.PRECISION = "cpu", "bfloat16"
    monkeypatch.setattr("cellseg_d2.modeling.build.cpu_computes_bfloat16", lambda: False)
    use_available_prediction_precision(cfg)
    assert cfg.CELLSEG.INFERENCE.PRECISION == "float32"
    assert "cpu has no bfloat16 arithmetic; predicting in float32" in caplog.text


def test_openvino_on_a_gpu_is_refused():
    model, cfg = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    cfg.MODEL.DEVICE, cfg.CELLSEG.INFERENCE.BACKEND = "cuda", "openvino"
    with pytest.raises(CellSegError, match=r"^OpenVINO runs on CPUs, not on cuda; write MODEL\.DEVICE cpu, or --"):
        prepare(model, cfg)


def test_a_model_that_openvino_cannot_take_over_is_refused():
    _, cfg = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    cfg.CELLSEG.INFERENCE.BACKEND = "openvino"
    with pytest.raises(CellSegError, match=r"MODEL\.ROI_HEADS\.NAME CellROIHeads or .*; write --backend torch$"):
        prepare(torch.nn.Conv2d(1, 1, 1), cfg)


def test_a_training_still_has_its_model_after_an_evaluation(images):
    """The trainer evaluates its own model, which nothing may fold."""
    model, cfg = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    cfg.CELLSEG.CLASS_NAMES = ["a", "b", "c", "d"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    WholeImagePredictor(model, cfg).predict(images[0][:64, :64])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()


def test_tiles_are_predicted_one_by_one_on_a_cpu_and_together_elsewhere(images):
    for device, batches in (("cpu", [1, 1, 1]), ("cuda", [3])):
        predictor, sizes = nuclei(), []
        predictor.cfg.MODEL.DEVICE = device  # the model itself stays on the CPU
        note = partial(lambda seen, module, inputs: seen.append(len(inputs[0])), sizes)
        predictor.model.backbone.register_forward_pre_hook(note)
        predictor.detector([images[0][:64, :64]] * 3)
        assert sizes == batches
    assert mask_chunks.CHUNK["cpu"] < mask_chunks.CHUNK["cuda"]
