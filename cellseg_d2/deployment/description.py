"""The description of a model for bioimage.io: ``rdf.yaml``, its documentation and its cover."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

import cellseg_d2
from cellseg_d2.deployment.network import OPSET
from cellseg_d2.deployment.run import CellModel
from cellseg_d2.errors import counted

FORMAT_VERSION = "0.5.14"
"""Of bioimage.io's model description."""

TAGS = ["instance-segmentation", "cells", "nuclei", "microscopy", "histology", "mask-rcnn", "detectron2", "2d"]

Arrays = Mapping[str, NDArray[Any]]


def write_description(folder: Path, name: str, model: CellModel, example: NDArray[np.uint8], arrays: Arrays) -> None:
    """Writes ``rdf.yaml``, ``README.md`` and ``cover.png`` into the folder of a model.

    Args:
        folder: holds the network and the arrays of the example already.
        name: the model's name.
        model: that in the folder.
        example: (H, W, 3) uint8 RGB.
        arrays: the network's input and outputs for the example, which are also in ``test_<name>.npy``.
    """
    labels = model.segment(example).labels
    edges = labels != cv2.erode(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    cover = np.where(edges[..., None], np.array([255, 220, 0], np.uint8), example)
    cv2.imwrite(str(folder / "cover.png"), np.ascontiguousarray(cover[..., ::-1]))
    text = files("cellseg_d2.deployment").joinpath("documentation.md").read_text(encoding="utf-8")
    classes = ", ".join(model.class_names)
    (folder / "README.md").write_text(text.format(name=name, classes=classes), encoding="utf-8")
    content = description(folder, name, len(model.class_names), arrays)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def description(folder: Path, name: str, class_count: int, arrays: Arrays) -> dict[str, Any]:
    """What ``rdf.yaml`` holds."""
    side = int(arrays["masks"].shape[1])
    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": name,
        "description": f"Mask R-CNN that finds cells of {counted(class_count, 'class', 'classes')}, each with its box, "
        "score, class and mask; trained with cellseg_d2.",
        "version": cellseg_d2.__version__,
        "tags": TAGS,
        "documentation": _file(folder / "README.md"),
        "covers": [_file(folder / "cover.png")],
        "attachments": [_file(folder / name) for name in ("run.py", "model.json")],
        "inputs": [
            {
                "id": "image",
                "description": "RGB in 0..255, three equal channels for grey images",
                "axes": [
                    {"type": "batch", "size": 1},
                    {"type": "channel", "channel_names": ["red", "green", "blue"]},
                    {"type": "space", "id": "y", "size": {"min": 64, "step": 1}},
                    {"type": "space", "id": "x", "size": {"min": 64, "step": 1}},
                ],
                "data": {"type": "float32", "range": [0, 255]},
                "test_tensor": _file(folder / "test_image.npy"),
            }
        ],
        "outputs": [
            _output(
                folder,
                "boxes",
                "x0, y0, x1, y1 of each cell in pixels",
                "float32",
                [_channel(["x0", "y0", "x1", "y1"])],
            ),
            _output(folder, "scores", "how sure the network is of each cell, from 0 to 1", "float32", []),
            _output(folder, "classes", "the class of each cell, counted from 1; model.json names them", "int64", []),
            _output(
                folder,
                "masks",
                "the probability of each pixel of a grid over each cell's box",
                "float32",
                [{"type": "space", "id": "y", "size": side}, {"type": "space", "id": "x", "size": side}],
            ),
        ],
        "weights": {"onnx": {**_file(folder / "network.onnx"), "opset_version": OPSET}},
    }


def _channel(names: list[str]) -> dict[str, Any]:
    return {"type": "channel", "channel_names": names}


def _output(folder: Path, name: str, text: str, kind: str, axes: list[dict[str, Any]]) -> dict[str, Any]:
    """One output of the network, an entry for each cell."""
    cells = {"type": "index", "id": "index", "description": "cells", "size": {"min": 1}}
    return {
        "id": name,
        "description": text,
        "axes": [cells, *axes],
        "data": {"type": kind},
        "test_tensor": _file(folder / f"test_{name}.npy"),
    }


def _file(path: Path) -> dict[str, Any]:
    """A file beside the description."""
    return {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
