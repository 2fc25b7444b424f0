"""A whole image of any size -> its cells: batches of tiles, masks inside their own boxes, one instance a cell."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from numpy.typing import NDArray

from cellseg_d2.data.tiling import Tile, TileGrid, Window
from cellseg_d2.engine.checkpoint import CellCheckpointer, checkpoint_cfg
from cellseg_d2.engine.setup import use_available_device
from cellseg_d2.errors import CellSegError
from cellseg_d2.inference.detect import Detector
from cellseg_d2.inference.paste import to_cell_instances
from cellseg_d2.inference.stitch import stitch
from cellseg_d2.inference.suppress import suppress
from cellseg_d2.instances import CellInstances

logger = logging.getLogger(__name__)

T = TypeVar("T")

Piece = tuple[Tile, CellInstances]
"""What one tile shows, in pixels of the image."""

OTHER_SCALE = 1.5
"""By how much an image's pixel size may differ from the training data's before it is said."""


class ImageRegions(Protocol):
    """An image that is read window by window, such as those of :mod:`cellseg_d2.data.regions`."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    @property
    def pixel_size_um(self) -> tuple[float, float] | None:
        """Microns a pixel, (x, y); None where the image does not say."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """The pixels of a window, (h, w, 3) uint8 RGB."""


@dataclass(frozen=True)
class ArrayImage:
    """An image in memory, (H, W, 3) uint8 RGB."""

    pixels: NDArray[np.uint8]
    pixel_size_um: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def read(self, window: Window) -> NDArray[np.uint8]:
        """The pixels of a window, (h, w, 3)."""
        x0, y0, x1, y1 = window
        return self.pixels[y0:y1, x0:x1]


class WholeImagePredictor:
    """Predicts images of any size with a model that was trained on tiles.

    An image that fits into one tile is predicted whole; a larger one in tiles with a halo, put together by
    :func:`cellseg_d2.inference.stitch.stitch`. Memory follows one batch of tiles and the cells.

    Args:
        model: a Detectron2 ``GeneralizedRCNN``.
        cfg: its config; CELLSEG.INFERENCE, CELLSEG.PIXEL_SIZE_UM and INPUT.FORMAT are used.
    """

    def __init__(self, model: torch.nn.Module, cfg: CfgNode) -> None:
        self.model = model.eval()
        self.cfg = cfg
        self.class_names: list[str] = list(cfg.CELLSEG.CLASS_NAMES)
        self.detector = Detector(self.model, cfg)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> WholeImagePredictor:
        """A predictor with the model of a config and the weights of its MODEL.WEIGHTS.

        Raises:
            CellSegError: the weights cannot be read or do not fit the model.
        """
        cfg = cfg.clone()
        cfg.defrost()
        use_available_device(cfg)
        model = build_model(cfg)
        CellCheckpointer(model, cfg, strict=True).load(cfg.MODEL.WEIGHTS)
        return cls(model, cfg)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> WholeImagePredictor:
        """A predictor from a checkpoint alone, which carries its config.

        Raises:
            CellSegError: the file cannot be read, or carries no config.
        """
        cfg = checkpoint_cfg(path)
        cfg.MODEL.WEIGHTS = str(path)
        return cls.from_cfg(cfg)

    def predict(self, image: NDArray[np.uint8] | ImageRegions) -> CellInstances:
        """Finds the cells of an image.

        Args:
            image: (H, W, 3) uint8 RGB, or an image that is read window by window.

        Returns:
            The cells in pixels of the image; classes are contiguous, 0 .. K - 1.
        """
        regions = ArrayImage(image) if isinstance(image, np.ndarray) else image
        return self.join(self.pieces(regions), regions.size)

    def pieces(self, image: ImageRegions, part: int = 0, parts: int = 1) -> Iterator[Piece]:
        """What each tile shows, batch by batch; the next batch is read while the model runs.

        Args:
            image: read window by window.
            part: which of ``parts`` shares of the tiles, for processes that share an image.
            parts: the number of shares.
        """
        options = self.cfg.CELLSEG.INFERENCE
        scale = self.scale_of(image.pixel_size_um)
        grid = TileGrid(*image.size, max(round(options.TILE_SIZE / scale), 1), options.OVERLAP)
        score_threshold = self.cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        for batch in read_ahead(self._batches(image, list(grid)[part::parts])):
            shown = [crop for _, crop in batch if not self._is_background(crop)]
            found = iter(self.detector(shown, scale) if shown else [])
            for tile, crop in batch:
                if self._is_background(crop):
                    yield tile, CellInstances.empty(image.size)
                    continue
                cells = to_cell_instances(next(found), options.MASK_THRESHOLD)
                cells = suppress(
                    cells,
                    method=options.SUPPRESSION,
                    iou=options.SUPPRESSION_IOU,
                    score_threshold=score_threshold,
                )
                yield tile, cells.moved(*tile.window[:2], image.size)

    def join(self, pieces: Iterable[Piece], size: tuple[int, int]) -> CellInstances:
        """The cells of an image from what all of its tiles show."""
        cells, report = stitch(pieces, size, tolerance=self.cfg.CELLSEG.INFERENCE.TOLERANCE)
        logger.debug("put together: %s", report)
        return cells

    def scale_of(self, pixel_size_um: tuple[float, float] | None) -> float:
        """By how much an image is enlarged for the model: 1, or with RESCALE its pixel size by the training data's."""
        trained = self.cfg.CELLSEG.PIXEL_SIZE_UM
        if pixel_size_um is None or not trained:
            if self.cfg.CELLSEG.INFERENCE.RESCALE:
                raise CellSegError(
                    "RESCALE needs the pixel size of the image and of the training data; "
                    "give --pixel-size, and CELLSEG.PIXEL_SIZE_UM"
                )
            return 1.0
        scale = float(np.mean(pixel_size_um)) / trained
        if self.cfg.CELLSEG.INFERENCE.RESCALE:
            return scale
        if not 1 / OTHER_SCALE <= scale <= OTHER_SCALE:
            logger.warning(
                "the image has %.3g um a pixel, the training data %.3g: cells look %.2g times as large; --rescale "
                "resamples it",
                *(float(np.mean(pixel_size_um)), trained, 1 / scale),
            )
        return 1.0

    def _batches(self, image: ImageRegions, tiles: list[Tile]) -> Iterator[list[tuple[Tile, NDArray[np.uint8]]]]:
        """Tiles with their pixels; those of a batch have one size, as group normalisation would notice padding."""
        step = self.cfg.CELLSEG.INFERENCE.BATCH_SIZE
        by_size = defaultdict(list)
        for tile in tiles:
            x0, y0, x1, y1 = tile.window
            by_size[y1 - y0, x1 - x0].append(tile)
        for own in by_size.values():
            for first in range(0, len(own), step):
                yield [(tile, image.read(tile.window)) for tile in own[first : first + step]]

    def _is_background(self, crop: NDArray[np.uint8]) -> bool:
        """Whether a tile shows nothing, where such tiles are to be left out."""
        options = self.cfg.CELLSEG.INFERENCE
        return options.SKIP_BACKGROUND and float(crop.std(axis=(0, 1)).max()) <= options.BACKGROUND_STD


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the caller works on this one."""
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
