"""The options that determine the content of a converted dataset."""

from __future__ import annotations

from dataclasses import dataclass

from cellseg_d2.cells.tiling import overlap_pixels
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.intensity import rules_of
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS


@dataclass(frozen=True)
class ConvertOptions:
    """The options that determine the content of a dataset; ``dataset.json`` records them.

    Attributes:
        tile_size: largest side of a tile in pixels.
        overlap: share of the tile size that neighbouring tiles share, in [0, 1).
        val_fraction: share of the images that go to validation, in [0, 1).
        seed: random seed for the split and for which empty tiles are kept.
        class_names: names of class 1, 2, ...; ``class1``, ``class2``, ... where none are given.
        merge_classes: the name of one class that all cells are to be of, whatever theirs; empty keeps the classes.
        min_area: cells with fewer pixels in a tile are left out of it.
        min_visible: a cell becomes ``iscrowd: 1`` in a tile that shows a smaller share of it than this.
        keep_empty: share of the tiles without a cell that are kept, in [0, 1].
        intensity_rule: how images that are not 8 bit are scaled, see :class:`cellseg_d2.images.channels.PixelRule`.
        split_blobs: whether parts of a cell that do not touch become separate cells.
        folds: folds for cross-validation, besides the split; 0 for none.
        max_pixels: images and label maps that declare more pixels are refused from the header.
        channels: the channels of the images to keep, in this order, see
            :class:`cellseg_d2.images.channels.PixelRule`; empty for RGB.
    """

    tile_size: int = 512
    overlap: float = 0.0
    val_fraction: float = 0.2
    seed: int = 42
    class_names: tuple[str, ...] = ()
    merge_classes: str = ""
    min_area: int = 10
    min_visible: float = 0.3
    keep_empty: float = 0.0
    intensity_rule: str = INTENSITY_RULE
    split_blobs: bool = False
    max_pixels: int = MAX_PIXELS
    folds: int = 0
    channels: tuple[str, ...] = ()

    @property
    def pixel_rule(self) -> PixelRule:
        """How images are read."""
        return PixelRule(self.intensity_rule, self.channels)

    def check(self) -> None:
        """Raises CellSegError where a value is out of its range."""
        try:
            overlap_pixels(self.tile_size, self.overlap)
        except ValueError as error:
            raise CellSegError(str(error)) from error
        rules_of(self.pixel_rule)
        if not 0 <= self.val_fraction < 1:
            raise CellSegError(f"val_fraction must be in [0, 1), not {self.val_fraction}")
        if self.seed < 0 or self.min_area < 0:
            raise CellSegError("seed and min_area must not be negative")
        if self.folds != 0 and self.folds < 2:
            raise CellSegError(f"folds must be 0, for none, or at least 2, not {self.folds}")
        if not (0 <= self.min_visible <= 1 and 0 <= self.keep_empty <= 1):
            raise CellSegError("min_visible and keep_empty must be in [0, 1]")
        if self.merge_classes and self.class_names:
            raise CellSegError("merged classes have one name; give either class names or the name to merge them under")
        if len(set(self.channels)) != len(self.channels) or not all(self.channels):
            raise CellSegError(f"channels must differ and have a name or number each: {' '.join(self.channels)}")
        if len(set(self.class_names)) != len(self.class_names):
            raise CellSegError(f"class names must differ: {' '.join(self.class_names)}")
