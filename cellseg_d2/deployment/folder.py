"""Writes the folder of a model: the network, its settings, the module that runs it, and its description."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cellseg_d2.deployment import run
from cellseg_d2.deployment.description import write_description
from cellseg_d2.deployment.example import drawn_cells
from cellseg_d2.deployment.network import OUTPUTS, ImageNetwork, write_onnx
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.evaluation.thresholds import UNKNOWN
from cellseg_d2.files import whole_file, write_json
from cellseg_d2.inference.predictor import WholeImagePredictor


def settings_of(predictor: WholeImagePredictor) -> dict[str, object]:
    """What the runtime module reads from ``model.json``: all that prediction takes from a config."""
    options = predictor.cfg.CELLSEG.INFERENCE
    keeps_all = options.SUPPRESSION == "none"
    least = options.MIN_SCORES or [UNKNOWN] * len(predictor.class_names)
    return {
        "class_names": predictor.class_names,
        "min_scores": [float(score) for score in least],
        "intensity_rule": predictor.cfg.CELLSEG.INTENSITY_RULE,
        "pixel_size_um": predictor.cfg.CELLSEG.PIXEL_SIZE_UM,
        "tile_size": options.TILE_SIZE,
        "overlap": options.OVERLAP,
        "tolerance": options.TOLERANCE,
        "mask_threshold": options.MASK_THRESHOLD,
        "same_iou": 1.0 if keeps_all else options.SUPPRESSION_IOU,
        "most_covered": 1.0 if keeps_all else options.SUPPRESSION_COVERED,
    }


def write_model(
    predictor: WholeImagePredictor, folder: Path, name: str, example: NDArray[np.uint8] | None = None
) -> int:
    """Writes everything that finding cells with this model needs; ``folder`` is there.

    Args:
        predictor: on the CPU; its model is changed to what can be exported, and computes the same.
        folder: for the files.
        name: what the description calls the model.
        example: (H, W, 3) uint8 RGB, an image in which the model finds cells; None for drawn ones.

    Returns:
        The number of cells that the exported network finds in the example, whatever their score.

    Raises:
        CellSegError: the model finds no cell in the example, or cannot be written as ONNX.
    """
    network = ImageNetwork(predictor.model, predictor.cfg.INPUT.FORMAT)
    candidates = [drawn_cells(is_dark) for is_dark in (True, False)] if example is None else [_part(example)]
    tensors = [torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) for image in candidates]
    with torch.no_grad():
        counts = [len(network(tensor)[0]) for tensor in tensors]
    if not max(counts):
        what = "drawn cells" if example is None else "the middle of the example"
        raise CellSegError(f"the model finds nothing in {what}; give an image with cells as --input")
    best = int(np.argmax(counts))
    try:
        with whole_file(folder / "network.onnx") as partial:
            write_onnx(network, tensors[best], partial)
    except RuntimeError as error:  # torch's errors of exports too
        raise CellSegError(f"this model cannot be written as ONNX: {one_line(error)}") from error
    shutil.copyfile(run.__file__, folder / "run.py")
    write_json(folder / "model.json", settings_of(predictor), indent=2)
    model = run.CellModel(folder)
    found = model.session.run(list(OUTPUTS), {"image": tensors[best].numpy()})
    arrays = {"image": tensors[best].numpy(), **dict(zip(OUTPUTS, found))}
    for tensor_name, array in arrays.items():
        np.save(folder / f"test_{tensor_name}.npy", array)
    write_description(folder, name, model, candidates[best], arrays)
    return len(found[0])


def _part(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of an example, which goes into the folder as an array."""
    side = 256
    y, x = (max((length - side) // 2, 0) for length in image.shape[:2])
    return np.ascontiguousarray(image[y : y + side, x : x + side])
