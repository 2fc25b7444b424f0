"""Predicts the cells of a whole image of any size: in batches of tiles, with one instance per cell."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from numpy.typing import NDArray

import cellseg_d2.modeling  # noqa: F401  (registers backbones and heads)
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.selection import Selection, suppress
from cellseg_d2.cells.tiling import Tile, TileGrid
from cellseg_d2.data.channels import channels_of
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.evaluation.thresholds import UNKNOWN
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.pixel_size import PixelSize
from cellseg_d2.images.regions import ImageHeader, ImageRegions, WholeImage
from cellseg_d2.inference.detect import Detector
from cellseg_d2.inference.paste import to_cell_instances
from cellseg_d2.inference.prepare import prepare, use_available_prediction_precision
from cellseg_d2.inference.region import Region
from cellseg_d2.inference.stages import in_stages
from cellseg_d2.inference.stitch import stitch
from cellseg_d2.modeling.build import use_available_device
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.locations import register_package_weights

logger = logging.getLogger(__name__)

Piece = tuple[Tile, CellInstances]
"""A tile and its cells, in pixels of the image."""

Batch = list[tuple[Tile, NDArray[np.uint8]]]
"""Tiles of one size with their pixels."""

BACKGROUND_STD = 3.0
"""A tile shows nothing if no channel has a standard deviation above this, on the scale 0..255."""

RUNS = 8
"""Runs of neighbouring tiles that each of several processes gets of an image."""

OTHER_SCALE = 1.5
"""A warning is given if an image's pixel size differs from the training data's by more than this factor."""


class WholeImagePredictor:
    """Predicts images of any size with a model that was trained on tiles.

    An image that fits into one tile is predicted whole; a larger one in tiles with a halo, which
    :func:`cellseg_d2.inference.stitch.stitch` joins. Memory grows with a few batches of tiles and the cells, not with
    the image.

    Args:
        model: a Detectron2 ``GeneralizedRCNN``.
        cfg: its config; CELLSEG.INFERENCE, CELLSEG.PIXEL_SIZE_UM and INPUT.FORMAT are used.
    """

    def __init__(self, model: torch.nn.Module, cfg: CfgNode) -> None:
        self.model = model.eval()
        self.cfg = cfg
        self.class_names: list[str] = list(cfg.CELLSEG.CLASS_NAMES)
        self.channels = channels_of(cfg)
        self.detector = Detector(self.model, cfg)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, opened: WeightsFile | None = None) -> WholeImagePredictor:
        """A predictor with the model of a config and its MODEL.WEIGHTS; random weights where this is empty.

        Args:
            cfg: the config.
            opened: the file of MODEL.WEIGHTS where it has been read already.

        Raises:
            CellSegError: the weights cannot be read or do not fit the model.
        """
        register_package_weights()
        cfg = cfg.clone()
        cfg.defrost()
        use_available_device(cfg)
        use_available_prediction_precision(cfg)
        model = build_model(cfg)
        CellCheckpointer(model, cfg, strict=True, opened=opened).load(cfg.MODEL.WEIGHTS)
        prepare(model, cfg)
        return cls(model, cfg)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> WholeImagePredictor:
        """A predictor from a checkpoint alone, which carries its config.

        Raises:
            CellSegError: the file cannot be read, or carries no config.
        """
        opened = WeightsFile.read(path)
        return cls.from_cfg(opened.cfg(), opened)

    @property
    def pixel_rule(self) -> PixelRule:
        """How images are read for the model."""
        return PixelRule(self.cfg.CELLSEG.INTENSITY_RULE, self.channels.names)

    def predict(self, image: NDArray[np.uint8] | ImageRegions, region: Region | None = None) -> CellInstances:
        """Finds the cells of an image.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W, C) of the model's channels, or an image that is read window by window.
            region: the part of the image to predict, see :mod:`.region`; None for all of it.

        Returns:
            The cells in pixels of the image; classes are contiguous, 0 .. K - 1.

        Raises:
            CellSegError: the image has another number of channels than the model.
        """
        regions = WholeImage(image) if isinstance(image, np.ndarray) else image
        with closing(self.pieces(regions, region)) as pieces:
            return self.join(pieces, regions.size, region)

    def pieces(
        self, image: ImageRegions, region: Region | None = None, part: int = 0, parts: int = 1
    ) -> Generator[Piece, None, None]:
        """The cells of each tile, batch by batch.

        While the model runs, the next batches are read, and the masks of the last ones become pixels, each in a thread.

        Args:
            image: the image, which is read window by window.
            region: tiles that it does not touch have no cells, and the model does not see them.
            part: the number of this share of the tiles, for processes that share an image, see :func:`share_of`.
            parts: the number of shares.
        """
        wanted = len(self.cfg.MODEL.PIXEL_MEAN)
        if image.channels != wanted:
            raise CellSegError(
                f"the image has {counted(image.channels, 'channel')}, the model takes {wanted} "
                f"({', '.join(self.channels.names) or 'RGB'}); give it with these"
            )
        scale = self.scale_of(image)
        tiles = self.tiles(image, region)
        if region is not None and part == 0:
            predicted = set(tiles)  # stitching takes the others for tiles that saw nothing: these own what lies there
            yield from ((tile, CellInstances.empty(image.size)) for tile in self.grid(image) if tile not in predicted)
        batches = self._batches(image, share_of(tiles, part, parts))
        detect, finish = partial(self._detect, scale=scale), partial(self._cells, size=image.size)
        with closing(in_stages(batches, detect, finish)) as found:
            for pieces in found:
                yield from pieces

    def tiles(self, image: ImageHeader, region: Region | None = None) -> list[Tile]:
        """The tiles that the model sees: all, or those that a region touches."""
        grid = self.grid(image)
        return [tile for tile in grid if region is None or region.touches(tile.window)]

    def _detect(self, batch: Batch, scale: float) -> list[Instances | None]:
        """The detections in each tile of a batch; None where it shows nothing and such tiles are skipped."""
        shown = [not self._is_background(crop) for _, crop in batch]
        crops = [crop for (_, crop), is_shown in zip(batch, shown) if is_shown]
        found = iter(self.detector(crops, scale) if crops else [])
        return [next(found) if is_shown else None for is_shown in shown]

    def _cells(self, batch: Batch, found: list[Instances | None], size: tuple[int, int]) -> list[Piece]:
        """The cells of each tile of a batch, in pixels of an image of a size."""
        options = self.cfg.CELLSEG.INFERENCE
        pieces = []
        for (tile, _), instances in zip(batch, found):
            if instances is None:
                pieces.append((tile, CellInstances.empty(size)))
                continue
            cells = to_cell_instances(instances, options.MASK_THRESHOLD)
            if options.SUPPRESS_RESULTS:
                cells = self._suppressed(cells)
                cells = cells[cells.scores >= self.cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST]
            pieces.append((tile, cells.moved(*tile.window[:2], size)))
        return pieces

    def grid(self, image: ImageHeader) -> TileGrid:
        """The tiles that an image is predicted in."""
        options = self.cfg.CELLSEG.INFERENCE
        side = max(round(options.TILE_SIZE / self.scale_of(image)), 1)
        return TileGrid(*image.size, side, options.OVERLAP)

    def confident(
        self,
        cells: CellInstances,
        min_score: float | None = None,
        min_score_of_class: Mapping[str, float] | None = None,
    ) -> CellInstances:
        """The cells that a person wants to see, see :class:`cellseg_d2.cells.selection.Selection`.

        Args:
            cells: all cells of an image, with scores down to MODEL.ROI_HEADS.SCORE_THRESH_TEST.
            min_score: the least score of a cell; None for CELLSEG.INFERENCE.MIN_SCORES, the checkpoint's, or else 0.5.
            min_score_of_class: class name -> the least score of its cells, where it differs.

        Raises:
            CellSegError: a score is not from 0 to 1, or a class is unknown.
        """
        return self.selection(min_score, min_score_of_class).of(cells)

    def selection(
        self, min_score: float | None = None, min_score_of_class: Mapping[str, float] | None = None
    ) -> Selection:
        """Which cells a person wants to see, by CELLSEG.INFERENCE; arguments and errors as of :meth:`confident`."""
        return selection_of(self.cfg, self.class_names, min_score, min_score_of_class)

    def _suppressed(self, cells: CellInstances) -> CellInstances:
        options = self.cfg.CELLSEG.INFERENCE
        return suppress(cells, method=options.SUPPRESSION, iou=options.SUPPRESSION_IOU)

    def join(self, pieces: Iterable[Piece], size: tuple[int, int], region: Region | None = None) -> CellInstances:
        """The cells of an image, or of a region of it, from those of all of its tiles."""
        cells, report = stitch(pieces, size, tolerance=self.cfg.CELLSEG.INFERENCE.TOLERANCE)
        logger.debug("put together: %s", report)
        cells = replace(cells, class_names=tuple(self.class_names))
        return cells if region is None else region.keep(cells)

    def pixel_size_of(self, image: ImageHeader) -> PixelSize | None:
        """Microns per pixel, (x, y): CELLSEG.INFERENCE.PIXEL_SIZE_UM, else what the image states."""
        given = self.cfg.CELLSEG.INFERENCE.PIXEL_SIZE_UM
        return (given, given) if given else image.pixel_size_um

    def scale_of(self, image: ImageHeader) -> float:
        """The factor by which an image is enlarged for the model; 1 unless RESCALE is set.

        With RESCALE it is the image's pixel size divided by the training data's.

        Raises:
            CellSegError: RESCALE is set and one of the two is not known.
        """
        if not self.cfg.CELLSEG.INFERENCE.RESCALE:
            return 1.0
        scale = self._coarseness(image)
        if scale is None:
            raise CellSegError(
                "to rescale, the pixel size of the images (--pixel-size) and of the training data (config key "
                "CELLSEG.PIXEL_SIZE_UM) must be known"
            )
        return scale

    def _coarseness(self, image: ImageHeader) -> float | None:
        """An image's pixel size divided by that of the training data; None where one of them is not known."""
        size, trained = self.pixel_size_of(image), self.cfg.CELLSEG.PIXEL_SIZE_UM
        return float(np.mean(size)) / trained if size and trained else None

    def warn_of_scale(self, image: ImageRegions, path: Path) -> None:
        """Warns where an image's pixel size is far from the training data's and the image is not resampled."""
        coarseness = None if self.cfg.CELLSEG.INFERENCE.RESCALE else self._coarseness(image)
        if coarseness is not None and not 1 / OTHER_SCALE <= coarseness <= OTHER_SCALE:
            trained = self.cfg.CELLSEG.PIXEL_SIZE_UM
            logger.warning(
                "%s: has %.3g um per pixel, the training data %.3g, so that its cells look %.2g times as large; "
                "--rescale resamples it",
                *(path, coarseness * trained, trained, 1 / coarseness),
            )

    def _batches(self, image: ImageRegions, tiles: Sequence[Tile]) -> Iterator[Batch]:
        """Tiles with their pixels; tiles of a batch have one size, because padding would change group normalisation."""
        step = self.cfg.CELLSEG.INFERENCE.BATCH_SIZE
        by_size = defaultdict(list)
        for tile in tiles:
            x0, y0, x1, y1 = tile.window
            by_size[y1 - y0, x1 - x0].append(tile)
        for alike in by_size.values():
            for first in range(0, len(alike), step):
                yield [(tile, image.read(tile.window)) for tile in alike[first : first + step]]

    def _is_background(self, crop: NDArray[np.uint8]) -> bool:
        """Whether a tile shows nothing and such tiles are skipped."""
        options = self.cfg.CELLSEG.INFERENCE
        return options.SKIP_BACKGROUND and float(crop.std(axis=(0, 1)).max()) <= BACKGROUND_STD


def share_of(tiles: Sequence[Tile], part: int, parts: int) -> list[Tile]:
    """The tiles of one of several processes, as many as those of each other one, give or take a few.

    They are :data:`RUNS` runs of tiles that follow on each other: neighbours show the same pixels, which one process
    then decodes once; and no process gets all tiles of the glass around the tissue.
    """
    runs = parts * RUNS
    bounds = [len(tiles) * number // runs for number in range(runs + 1)]
    return [tile for run in range(part, runs, parts) for tile in tiles[bounds[run] : bounds[run + 1]]]


def selection_of(
    cfg: CfgNode,
    class_names: Sequence[str],
    min_score: float | None = None,
    min_score_of_class: Mapping[str, float] | None = None,
) -> Selection:
    """Which cells a person wants to see, by CELLSEG.INFERENCE; see :meth:`WholeImagePredictor.confident`."""
    options = cfg.CELLSEG.INFERENCE
    lowered = options.SUPPRESS_RESULTS and options.SUPPRESSION == "soft"  # the scores are that already
    known = options.MIN_SCORES if min_score is None else []
    return Selection(
        class_names,
        UNKNOWN if min_score is None else min_score,
        dict(zip(class_names, known)) | dict(min_score_of_class or {}),
        "hard" if lowered else options.SUPPRESSION,
        options.SUPPRESSION_IOU,
        options.SUPPRESSION_COVERED,
    )
