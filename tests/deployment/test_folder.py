"""An exported model, in a process without torch, Detectron2 and this package, finds the cells of the predictor."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from bioimageio.spec import load_description
from bioimageio.spec.model.v0_5 import ModelDescr

from cellseg_d2.deployment.folder import settings_of, write_model
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json
from cellseg_d2.images.formats import read_whole
from cellseg_d2.inference.one_image import segment
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.weights.checkpoint import WeightsFile
from cellseg_d2.weights.pretrained import CONFIG_KEY

ALONE = """
import importlib, json, runpy, sys
absent = ("torch", "torchvision", "detectron2", "cellseg_d2", "scipy", "cv2")
sys.modules.update(dict.fromkeys(absent))
for name in absent:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    sys.exit(name + " can be imported")
"""
"""Python that makes imports of everything but numpy, onnxruntime and tifffile fail."""


def alone(code, *arguments, folder):
    """Runs Python in a process and a folder of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE + code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


SEGMENT = """
sys.path.insert(0, sys.argv[1])
import numpy, run
model = run.CellModel(sys.argv[1], threads=1)
images = numpy.load(sys.argv[2])
found = {name: model.segment(images[name]) for name in images.files}
numpy.savez(
    sys.argv[3],
    **{name + ".labels": cells.labels for name, cells in found.items()},
    **{name + ".classes": cells.classes for name, cells in found.items()},
)
"""


def three_classes(path):
    """The published weights with three classes, whose heads differ from each other at random."""
    opened = WeightsFile.read("nuclei")
    cfg, weights = opened.cfg(), {key: value.float() for key, value in opened.content["model"].items()}
    cfg.CELLSEG.CLASS_NAMES, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.WEIGHTS = ["a", "b", "c"], 3, ""
    cfg.CELLSEG.INFERENCE.MIN_SCORES = [0.2, 0.2, 0.25]  # they share the score of the one class
    torch.manual_seed(0)
    for key, value in weights.items():
        if "box_predictor.cls_score" in key:
            of_class = [value[:1] + 0.5 * value.std() * torch.randn_like(value[:1]) * (value.ndim > 1) for _ in "abc"]
            weights[key] = torch.cat([*of_class, value[1:]])
        elif "box_predictor.bbox_pred" in key or "mask_head.predictor" in key:
            weights[key] = torch.cat([value + 0.02 * value.abs().mean() * torch.randn_like(value) for _ in "abc"])
    torch.save({"model": weights, CONFIG_KEY: cfg.dump()}, path)
    return path


@pytest.fixture(scope="module", params=["nuclei", "three classes"])
def exported(request, tmp_path_factory):
    """A predictor, and the folder that it was exported to."""
    folder = tmp_path_factory.mktemp("model")
    weights = request.param if request.param == "nuclei" else three_classes(folder.parent / "three.pth")
    predictor = WholeImagePredictor.from_checkpoint(weights)
    assert write_model(predictor, folder, "Test model") > 0
    return WholeImagePredictor.from_checkpoint(weights), folder


def sample_images(sample_root):
    """The sample's images by name, a mosaic of nine that is larger than a tile, and an image of one pixel."""
    paths = sorted((sample_root / "test_release").glob("*.tif"))
    images = {path.stem: read_whole(path) for path in paths}
    parts = [image[:240, :240] for image in images.values()]
    rows = [np.concatenate(parts[first : first + 3], axis=1) for first in (0, 3, 6)]
    return {**images, "mosaic": np.concatenate(rows), "pixel": np.full((1, 1, 3), 9, np.uint8)}


def matched(expected, expected_classes, labels, classes):
    """How many cells of one label map have one of the same class and an IoU of 0.95 in the other."""
    count = 0
    for number in np.unique(expected)[1:]:
        mask = expected == number
        best = np.bincount(labels[mask]).argmax()
        union = np.count_nonzero(mask | (labels == best))
        is_same = best > 0 and np.count_nonzero(mask & (labels == best)) >= 0.95 * union
        count += bool(is_same and expected_classes[number - 1] == classes[best - 1])
    return count


def test_the_cells_are_those_of_the_predictor(exported, sample_root, tmp_path):
    predictor, folder = exported
    images = sample_images(sample_root)
    assert max(images["mosaic"].shape) > predictor.cfg.CELLSEG.INFERENCE.TILE_SIZE
    np.savez(tmp_path / "images.npz", **images)
    done = alone(SEGMENT, folder, tmp_path / "images.npz", tmp_path / "found.npz", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    counts, classes_seen = np.zeros(3, int), set()
    for name, image in images.items():
        cells = segment(image, predictor)
        labels, classes = found[f"{name}.labels"], found[f"{name}.classes"]
        counts += matched(cells.label_image(), cells.classes, labels, classes), len(cells), len(classes)
        classes_seen |= set(classes.tolist())
    same, expected, given = counts
    assert classes_seen == set(range(len(predictor.class_names)))
    assert same >= 0.999 * expected and same >= 0.999 * given


def test_the_command_line_and_other_types_of_images(exported, tmp_path):
    predictor, folder = exported
    image = (np.load(folder / "test_image.npy")[0, 0] * 100).astype(np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", image)
    code = "sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = alone(code, folder / "run.py", "image.tif", "labels.tif", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = segment(image, predictor)
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert labels.dtype == np.uint16 and labels.max() == len(cells) > 0
    counts = np.bincount(cells.classes, minlength=len(predictor.class_names))
    assert done.stdout == ", ".join(f"{n} {name}" for n, name in zip(counts, predictor.class_names)) + "\n"
    np.testing.assert_array_equal(labels > 0, cells.label_image() > 0)
    missing = alone(code, folder / "run.py", "none.tif", "labels.tif", folder=tmp_path)
    assert missing.returncode == 2 and missing.stderr.startswith("error: none.tif: ")


def test_images_are_resampled_to_the_pixel_size_of_the_training_images(exported, tmp_path):
    predictor, folder = exported
    settings = settings_of(predictor)
    assert read_json(folder / "model.json") == settings
    code = SEGMENT.replace("segment(images[name])", "segment(images[name], 0.5)").replace(
        "images =", "model.settings['pixel_size_um'] = 0.25; images ="
    )
    image = np.load(folder / "test_image.npy")[0].transpose(1, 2, 0).astype(np.uint8)
    image = np.ascontiguousarray(image[:128, ::2])
    np.savez(tmp_path / "images.npz", image=image)
    done = alone(code, folder, tmp_path / "images.npz", tmp_path / "found.npz", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    cfg = predictor.cfg.clone()
    cfg.CELLSEG.PIXEL_SIZE_UM, cfg.CELLSEG.INFERENCE.PIXEL_SIZE_UM, cfg.CELLSEG.INFERENCE.RESCALE = 0.25, 0.5, True
    cells = segment(image, WholeImagePredictor(predictor.model, cfg))
    same = matched(cells.label_image(), cells.classes, found["image.labels"], found["image.classes"])
    assert same == len(cells) == len(found["image.classes"]) > 0
    refused = alone(
        SEGMENT.replace("(images[name])", "(images[name], 0.5)"), folder, tmp_path / "images.npz", "x", folder=tmp_path
    )
    assert "pixel size of the training images is not known" in refused.stderr


def test_the_description_is_one_that_bioimage_io_accepts(exported):
    _, folder = exported
    described = load_description(folder / "rdf.yaml")
    assert isinstance(described, ModelDescr), described.validation_summary.format()
    assert described.validation_summary.status in ("valid-format", "passed")
    assert described.name == "Test model"
    assert str(described.format_version) == ModelDescr.implemented_format_version
    onnx = described.weights.onnx
    network = folder / str(onnx.source)
    assert onnx.sha256 == hashlib.sha256(network.read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(network)
    inputs = {str(tensor.id): np.load(folder / str(tensor.test_tensor.source)) for tensor in described.inputs}
    names = [str(tensor.id) for tensor in described.outputs]
    for tensor, array in zip(described.outputs, session.run(names, inputs)):
        np.testing.assert_allclose(array, np.load(folder / str(tensor.test_tensor.source)), rtol=1e-3, atol=1e-3)


def test_the_module_names_its_licence_and_imports_little(exported):
    _, folder = exported
    text = (folder / "run.py").read_text(encoding="utf-8")
    assert "Apache License, Version 2.0" in text.splitlines()[0]
    assert "import cellseg_d2" not in text and "from cellseg_d2" not in text
    assert Path(folder / "cover.png").stat().st_size


def test_a_model_that_finds_nothing_in_its_example_is_refused(tmp_path):
    predictor = WholeImagePredictor.from_checkpoint("nuclei")
    predictor.model.roi_heads.box_predictor.test_score_thresh = 1.0
    for example, what in ((np.zeros((100, 100, 3), np.uint8), "the middle of the example"), (None, "drawn cells")):
        with pytest.raises(CellSegError, match=f"finds nothing in {what}; give an image"):
            write_model(predictor, tmp_path, "Test model", example)
    assert not list(tmp_path.iterdir())


def test_the_shown_lines_run(exported, repo_root, tmp_path):
    predictor, folder = exported
    page = (repo_root / "docs" / "deployment.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 10
    (tmp_path / "model").symlink_to(folder)
    image = np.load(folder / "test_image.npy")[0].transpose(1, 2, 0).astype(np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="rgb")
    done = alone(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(segment(image, predictor)) > 0
