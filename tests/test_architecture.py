"""The worked examples of docs/architecture.md, as they stand there."""

import re

import numpy as np
import pytest
import tifffile
import torch
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from drawing import discs, noise

from cellseg_d2.annotations import readers
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.config import config_path, get_cfg
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.export.formats import WRITERS, ImageCells


@pytest.fixture(scope="module")
def examples(repo_root):
    """Heading -> code."""
    text = (repo_root / "docs" / "architecture.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^### (.*?)\n.*?```\w+\n(.*?)```", text, re.DOTALL | re.MULTILINE))


def run(code):
    names = {"__name__": "example"}
    exec(compile(code, "docs/architecture.md", "exec"), names)
    return names


def test_a_model(examples, tmp_path):
    text = examples["A model"].replace("mask_rcnn_lite0_FPN.yaml", str(config_path("mask_rcnn_lite0_FPN").resolve()))
    (tmp_path / "mine.yaml").write_text(text)
    assert get_cfg(tmp_path / "mine.yaml").MODEL.ROI_MASK_HEAD.NUM_CONV == 2


def test_a_backbone(examples, monkeypatch):
    registry = Registry("BACKBONE")  # Detectron2's own would keep the example
    monkeypatch.setattr("detectron2.modeling.BACKBONE_REGISTRY", registry)
    monkeypatch.setattr("detectron2.modeling.backbone.build.BACKBONE_REGISTRY", registry)
    run(examples["A backbone"])
    backbone = build_backbone(get_cfg(None, ["MODEL.BACKBONE.NAME", "build_tiny_backbone"]))
    assert backbone(torch.zeros(1, 3, 32, 64))["p2"].shape == (1, 8, 8, 16)


def test_an_export_format(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg_d2.export.formats.WRITERS", dict(WRITERS))
    write = run(examples["An export format"])["WRITERS"]["counts"]
    write(ImageCells(tmp_path, "a", CellInstances.empty((4, 4)), ["cell"]))
    assert (tmp_path / "counts" / "a.txt").read_text() == "0\n"


def test_an_annotation_format(examples, tmp_path, monkeypatch):
    reader, rng = run(examples["An annotation format"])["READER"], np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    cells = 0
    for number in range(3):
        labels = discs(rng, 50, 60, 4)
        cells += len(np.unique(labels)) - 1
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", noise(rng, 50, 60), photometric="rgb")
        np.save(tmp_path / "in" / f"{number}.npy", labels)
    monkeypatch.setattr(readers, "READERS", {**readers.READERS, reader.name: reader})
    summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))
    assert summary["counts"]["train"]["cells"] == {"cell": cells}


def test_an_augmentation(examples):
    pipeline = run(examples["An augmentation"])["pipeline"]
    names = [type(transform).__name__ for transform in pipeline.transforms]
    assert names[-1] == "Sharpen"
    image = noise(np.random.default_rng(0), 20, 30)
    for _ in range(10):  # quarter turns are drawn at random, so the sides may be exchanged
        assert sorted(pipeline(image=image)["image"].shape) == sorted(image.shape)
