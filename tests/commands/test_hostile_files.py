"""Hostile files as a user would meet them: one line, exit code 2, and none of their code runs."""

import json
import pickle

import numpy as np
import pytest
import tifffile
from hostile import MakesFolder, write_torchscript

from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions


@pytest.fixture
def torchscript(tmp_path):
    target = tmp_path / "target"
    return write_torchscript(tmp_path / "evil.pth", target), target


def assert_refused(done, target, named):
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and named in errors[0]
    assert "Traceback" not in done.stderr
    assert not target.exists()


def test_prediction_refuses_torchscript(torchscript, run_tool, tmp_path):
    weights, target = torchscript
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint8))
    done = run_tool("predict", "--weights", weights, "--input", tmp_path / "a.tif", "--output", tmp_path / "out")
    assert_refused(done, target, "TorchScript archive")


def test_training_refuses_torchscript(torchscript, run_tool, sample_root, tmp_path):
    weights, target = torchscript
    convert(sample_root, tmp_path / "datasets" / "nuclei", ConvertOptions())
    done = run_tool(
        *("train_net", "--config-file", "mask_rcnn_lite0_FPN", "CELLSEG.DATASET", "nuclei", "MODEL.WEIGHTS", weights),
        *("OUTPUT_DIR", tmp_path / "out"),
        DETECTRON2_DATASETS=str(tmp_path / "datasets"),
    )
    assert_refused(done, target, "TorchScript archive")


def test_prediction_refuses_a_pickle_codec(run_tool, tmp_path):
    target, path = tmp_path / "target", tmp_path / "evil.zarr"
    (path / "0").mkdir(parents=True)
    axes = [{"name": name, "type": "space"} for name in "yx"]
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}))
    array = {"zarr_format": 2, "shape": [4, 6], "chunks": [4, 6], "dtype": "|u1", "fill_value": 0, "order": "C"}
    (path / "0" / ".zarray").write_text(json.dumps({**array, "compressor": {"id": "pickle"}, "filters": None}))
    (path / "0" / "0.0").write_bytes(pickle.dumps(MakesFolder(target)))
    done = run_tool("predict", "--weights", "nuclei", "--input", path, "--output", tmp_path / "out")
    assert_refused(done, target, "codec 'pickle'")
