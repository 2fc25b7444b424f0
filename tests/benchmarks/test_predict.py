"""Both sides of the prediction benchmark run the same network on the same image; how fast they are no test says."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import predict
from benchmarks.predict import QUICK, THRESHOLD, Stopwatch, write_model
from benchmarks.scenes import Faults, judge, real_cells, real_image
from benchmarks.sides import SAHI, run_side
from benchmarks.stitch import OVERLAP, TILE
from cellseg_d2.config import cfg_from_text
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.pretrained import CONFIG_KEY


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, write_model(folder, "", "cpu", QUICK.detections)


@pytest.mark.parametrize("side", [100, 2000])
def test_the_image_has_the_size_asked_for(side, sample_root):
    image = real_image(sample_root, side)
    assert (image.shape, image.dtype) == ((side, side, 3), np.uint8)
    assert image.std() > 10


def test_the_model_is_written_with_its_config(model):
    folder, cfg = model
    written = cfg_from_text((folder / "config.yaml").read_text())
    assert (written.MODEL.WEIGHTS, written.CELLSEG) == (str(folder / "model.pth"), cfg.CELLSEG)
    weights = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    assert all(torch.isfinite(values).all() for values in weights.values())


def test_a_checkpoint_is_measured_as_it_was_trained(model, tmp_path):
    _, cfg = model
    weights = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    trained = cfg_from_text(cfg.dump())
    trained.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    network = {name.removeprefix("network."): values for name, values in weights.items()}
    torch.save({"model": network, CONFIG_KEY: trained.dump()}, tmp_path / "trained.pth")
    torch.manual_seed(1)
    written = write_model(tmp_path, str(tmp_path / "trained.pth"), "cpu", 1)
    assert written.TEST.DETECTIONS_PER_IMAGE == QUICK.detections
    again = torch.load(written.MODEL.WEIGHTS, weights_only=True)["model"]
    assert all(torch.equal(values, again[name]) for name, values in network.items())


def test_a_large_image_is_not_measured_with_weights(tmp_path, sample_root):
    with pytest.raises(CellSegError, match="leave --weights out"):
        predict.report(sample_root, str(tmp_path / "trained.pth"), "cpu", True, QUICK)


def test_the_stopwatch_counts_calls_of_inference():
    class Slow(nn.Module):
        def inference(self, value, again):
            return torch.arange(value).sum() if again else None

    model = Slow()
    watch = Stopwatch(model)
    assert watch.seconds == 0
    assert model.inference(3, again=True) == 3
    assert 0 < watch.seconds < 1


@pytest.mark.sahi
def test_both_sides_find_the_same(model, sample_root, tmp_path):
    folder, cfg = model
    image = tmp_path / "image.npy"
    scene = real_cells(sample_root, 0).middle(300)
    np.save(image, scene.coded())
    args = (image, folder / "config.yaml", cfg.MODEL.WEIGHTS, THRESHOLD, TILE, OVERLAP, "cpu")
    ours = predict.predict(*args)
    theirs = run_side(SAHI, "benchmarks.with_sahi:predict", *args).value
    assert 0 < ours["model"] < ours["seconds"]
    assert 0 < theirs["merging"] < theirs["seconds"]
    assert judge(scene, ours["cells"]) == Faults(len(scene), 0, 0, 0)
    assert judge(scene, theirs["cells"]).lost < len(scene) / 10
