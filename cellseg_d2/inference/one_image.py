"""Prediction in one call from Python: an array in, its cells out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray

from cellseg_d2.cells.instances import LARGEST_SIDE, CellInstances
from cellseg_d2.config_checks import check_config
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.formats import WRITERS, ImageCells
from cellseg_d2.export.overlay import draw_overlay
from cellseg_d2.images.channels import PixelRule, Rule
from cellseg_d2.images.intensity import as_8_bit
from cellseg_d2.images.regions import WholeImage
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.region import MaskRegion


@dataclass(frozen=True, repr=False)
class SegmentedImage(CellInstances):
    """The cells of an image and the image itself, on which they are shown.

    Attributes:
        image: (H, W, 3) uint8 RGB, as the network saw it; of other channels those that pictures show.
    """

    image: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))

    def picture(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB: the cells in the colours of their classes on the image, made smaller as a whole."""
        drawn = draw_overlay(stretched(self.image), self)
        scale = min(LARGEST_SIDE / max(self.image_size), 1)
        height, width = (max(round(scale * side), 1) for side in self.image_size)
        return (
            drawn
            if scale == 1
            else np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        )


def segment(
    image: NDArray[Any],
    model: str | Path | CfgNode | WholeImagePredictor = "nuclei",
    *,
    min_score: float | None = None,
    min_score_of_class: Mapping[str, float] | None = None,
    region: NDArray[Any] | None = None,
    output: str | Path | None = None,
    formats: Collection[str] = ("overlay",),
    name: str = "image",
) -> SegmentedImage:
    """Finds the cells of an image.

    Args:
        image: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, whose alpha is dropped; 8 bit, or any other real type,
            which is scaled as the model's training images were. For a model of other channels (H, W, C), all of them in
            their order.
        model: a checkpoint's path, ``nuclei`` for the weights that come with this package, a config with MODEL.WEIGHTS,
            or a predictor. For many images make a predictor once, because all others load the weights in each call.
        min_score: the least score of a cell, in [0, 1]; None for the checkpoint's, per class, or else 0.5.
        min_score_of_class: class name -> the least score of its cells, where it differs.
        region: (H, W), not 0 where cells are looked for; a cell is kept if half of its pixels at least are there. None
            for all of the image.
        output: a folder for files of the cells, as ``predict`` writes them; None writes nothing.
        formats: which files to write, from :data:`cellseg_d2.export.formats.WRITERS`.
        name: the name of these files.

    Returns:
        The cells: masks, boxes, scores, classes and their names; ``label_image()`` paints them, and a notebook shows
        them on the image. No two show the same cell, unless CELLSEG.INFERENCE.SUPPRESSION is ``none``. An image without
        cells gives none.

    Raises:
        CellSegError: there are no weights, they cannot be read or do not fit, a value of the config is not allowed, a
            score is not in [0, 1], a class or a format is unknown, or a file cannot be written.
        ValueError: the image or the region is of another shape, the image has another number of channels than the
            model, or it holds complex, NaN or infinite values.
    """
    if unknown := sorted(set(formats) - WRITERS.keys()):
        raise CellSegError(f"{unknown[0]!r} is no format of a single image; choose from {', '.join(WRITERS)}")
    predictor = _predictor_of(model)
    pixels = as_channels(image, predictor.pixel_rule)
    if region is not None and region.shape != pixels.shape[:2]:
        raise ValueError(f"a region has the shape of its image, {pixels.shape[:2]}, not {region.shape}")
    found = predictor.predict(pixels, None if region is None else MaskRegion(region != 0))
    cells = predictor.confident(found, min_score, min_score_of_class)
    if output is not None:
        pixel_size, channels = predictor.pixel_size_of(WholeImage(pixels)), predictor.channels
        shown = ImageCells(Path(output), name, cells, predictor.class_names, pixels, pixel_size, channels=channels)
        for format_name in formats:
            WRITERS[format_name](shown)
    parts = {part.name: getattr(cells, part.name) for part in fields(CellInstances)}
    return SegmentedImage(
        **parts | {"class_names": tuple(predictor.class_names)}, image=predictor.channels.picture(pixels)
    )


def _predictor_of(model: str | Path | CfgNode | WholeImagePredictor) -> WholeImagePredictor:
    if isinstance(model, (str, Path)):
        return WholeImagePredictor.from_checkpoint(model)
    if isinstance(model, WholeImagePredictor):
        return model
    if not model.MODEL.WEIGHTS:
        raise CellSegError("prediction needs weights; set MODEL.WEIGHTS")
    check_config(model)
    return WholeImagePredictor.from_cfg(model)


def as_channels(image: NDArray[Any], rule: Rule) -> NDArray[np.uint8]:
    """An array of any real type as (H, W, 3) uint8 RGB, or (H, W, C) where a rule names C channels.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) for RGB, else (H, W, C); bool counts as 0 and 255.
        rule: names the channels that the array has, and says how they are scaled.

    Raises:
        ValueError: the image is of another shape, or holds complex, NaN or infinite values.
    """
    colours = image[..., None] if image.ndim == 2 else image
    rule = PixelRule.of(rule)
    count = len(rule.channels)
    if count and (colours.ndim != 3 or colours.shape[2] != count or not colours.size):
        raise ValueError(
            f"an image of the model's {count} channels ({', '.join(rule.channels)}) has the shape (H, W, {count}), not "
            f"{image.shape}"
        )
    if colours.ndim != 3 or not (count or colours.shape[2] in (1, 3, 4)) or not colours.size:
        raise ValueError(f"an image has the shape (H, W), (H, W, 3) or (H, W, 4), not {image.shape}")
    colours = colours[..., : count or 3].astype(image.dtype.newbyteorder("="), copy=False)
    if colours.dtype == bool:
        colours = colours.astype(np.uint8) * 255
    if not np.isrealobj(colours) or (colours.dtype.kind == "f" and not np.isfinite(colours).all()):
        raise ValueError("an image holds complex, NaN or infinite values; replace them first")
    scaled = as_8_bit(colours, rule)
    return np.ascontiguousarray(np.broadcast_to(scaled, (*scaled.shape[:2], count or 3)))
