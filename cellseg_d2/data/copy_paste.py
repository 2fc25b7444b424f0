"""Pastes cells of other tiles into training tiles, so that the model sees rare classes more often.

After Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (CVPR 2021),
with three changes for cells: classes, not tiles, are drawn with equal probability; each cell goes to a new random place
instead of its old one; and it covers no other cell.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from numpy.typing import NDArray

from cellseg_d2.cells.rle import Rle, decode_runs
from cellseg_d2.data.channels import read_tile
from cellseg_d2.data.class_shares import cells_by_tile_and_class, share_changes
from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

TRIES = 10
"""Random places that are tried for a cell before it is left out."""


@dataclass(frozen=True)
class PaintedTile:
    """A training tile before augmentation, with N cells and crowds; cell i has the value i + 1 in its label map.

    Attributes:
        image: (H, W, C) uint8, RGB or other channels.
        layers: (L, H, W) int32, label maps; cells that overlap lie in different ones.
        layer_of: (N,) int64, the label map of each cell.
        classes: (N,) int64, contiguous, or -1 for a crowd.
        areas: (N,) int64, pixels of each cell, including those that a pasted cell covers.
    """

    image: NDArray[np.uint8]
    layers: NDArray[np.int32]
    layer_of: NDArray[np.int64]
    classes: NDArray[np.int64]
    areas: NDArray[np.int64]


class SourceCells:
    """The cells of a dataset that can be pasted: no crowds, and no cells at a tile's edge, which may have cut them.

    It keeps only numbers, in arrays that worker processes share, for M cells in T tiles, sorted by tile.

    Args:
        dicts: dataset dicts in Detectron2's format, masks as compressed RLEs; each is read once.

    Attributes:
        bounds: (T + 1,) int64, the index of each tile's first cell.
        annotation: (M,) int32, each cell's index among its tile's annotations.
        counts: number of cells per class that has any, by contiguous class number.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]]) -> None:
        whole = [_whole_cells(dicts[number]) for number in range(len(dicts))]
        self.bounds = np.cumsum([0, *(len(places) for places, _ in whole)])
        self.annotation = np.concatenate([np.zeros(0, np.int32), *(places for places, _ in whole)])
        classes = np.concatenate([np.zeros(0, np.int32), *(of_tile for _, of_tile in whole)])
        present, rank, counts = np.unique(classes, return_inverse=True, return_counts=True)
        self.counts = dict(zip(present.tolist(), counts.tolist()))
        self._classes = classes
        self._of_class = np.split(np.argsort(rank, kind="stable"), np.cumsum(counts)[:-1])
        self._commonness = counts[rank].astype(np.float32)

    def __len__(self) -> int:
        return len(self.annotation)

    def draw(self, most: int) -> tuple[int, NDArray[np.int32]]:
        """Draws a tile and 1 to ``most`` of its cells, as indices of its annotations, from numpy's global state.

        First a class is drawn, all with the same probability, then a cell of this class; its tile is taken. From this
        tile, cells are drawn one after another with a probability inverse to the number of cells of their class in the
        dataset, so that the first cell, too, is of each class equally often (weighted sampling without replacement by
        exponential keys: Efraimidis and Spirakis, Information Processing Letters 97, 2006).
        """
        tile, chosen = self._draw(most)
        return tile, self.annotation[chosen]

    def mean_classes(self, most: int, classes: int, draws: int = 2000) -> NDArray[np.float64]:
        """An estimate of how many cells of each of K classes :meth:`draw` gives; numpy's global state is restored."""
        state = np.random.get_state()
        np.random.seed(0)
        chosen = np.concatenate([self._draw(most)[1] for _ in range(draws)])
        np.random.set_state(state)
        return np.bincount(self._classes[chosen], minlength=classes) / draws

    def _draw(self, most: int) -> tuple[int, NDArray[np.int64]]:
        """A tile and the cells drawn from it, as indices among all M cells."""
        of_class = self._of_class[np.random.randint(len(self._of_class))]
        tile = int(np.searchsorted(self.bounds, of_class[np.random.randint(len(of_class))], side="right")) - 1
        low, high = self.bounds[tile : tile + 2]
        keys = np.random.exponential(self._commonness[low:high])
        return tile, low + np.argsort(keys)[: np.random.randint(1, most + 1)]


def _whole_cells(sample: dict[str, Any]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The annotations of a tile that can be pasted: their indices and their classes."""
    cells = [place for place, cell in enumerate(sample["annotations"]) if not cell.get("iscrowd", 0)]
    size = sample["height"], sample["width"]
    rles = [sample["annotations"][place]["segmentation"] for place in cells]
    x0, y0, x1, y1 = decode_runs(rles, size).boxes.T
    whole = (x0 > 0) & (y0 > 0) & (x1 < size[1]) & (y1 < size[0])  # a mask without a pixel has a box of zeros
    places = np.array(cells, np.int32)[whole]
    return places, np.array([sample["annotations"][place]["category_id"] for place in places], np.int32)


class CopyPaste:
    """Pastes cells of one tile of a dataset into another tile, or the same one, without a change of scale.

    Each cell, the pixels under its mask, goes to a random place where it lies wholly inside the tile, on no other cell
    and on no crowd. It is left out if :data:`TRIES` places do not fit. Everything is drawn from numpy's global state,
    as in Detectron2's augmentations. The cost is one image read and the pixels of the pasted cells.

    Args:
        dicts: dataset dicts in Detectron2's format; not copied, so that workers share a serialised list.
        probability: the probability that a tile gets any cell.
        max_cells: the most cells drawn for a tile; each number from 1 on is equally likely.
        channels: names of the images' channels; empty for RGB.

    Raises:
        CellSegError: no cell can be pasted.
    """

    def __init__(
        self, dicts: Sequence[dict[str, Any]], probability: float, max_cells: int, channels: Sequence[str] = ()
    ) -> None:
        self.dicts = dicts
        self.sources = SourceCells(dicts)
        if not len(self.sources):
            raise CellSegError(
                "no training tile has a cell clear of its edge to paste; write CELLSEG.AUG.COPY_PASTE_PROB 0"
            )
        self.probability = probability
        self.max_cells = max_cells
        self.channels = channels

    def __call__(self, tile: PaintedTile) -> PaintedTile:
        """The tile with more cells on its background; the input is not changed."""
        if np.random.random() >= self.probability:
            return tile
        number, places = self.sources.draw(self.max_cells)
        source = self.dicts[number]
        cells = [source["annotations"][place] for place in places]
        source_image = read_tile(source["file_name"], self.channels)
        utils.check_image_size(source, source_image)

        image, layers, count = tile.image.copy(), tile.layers.copy(), len(tile.classes)
        blocked = layers.any(axis=0)
        classes, areas = [], []
        pixels = _pixels([cell["segmentation"] for cell in cells], (source["height"], source["width"]))
        for cell, (source_rows, source_columns) in zip(cells, pixels):
            place = _free_place(blocked, source_rows - source_rows.min(), source_columns - source_columns.min())
            if place is None:
                continue
            rows, columns = place
            classes.append(cell["category_id"])
            areas.append(len(source_rows))
            image[rows, columns] = source_image[source_rows, source_columns]
            layers[0, rows, columns] = count + len(classes)
            blocked[rows, columns] = True
        return PaintedTile(
            image,
            layers,
            np.append(tile.layer_of, np.zeros(len(classes), np.int64)),
            np.append(tile.classes, np.array(classes, np.int64)),
            np.append(tile.areas, np.array(areas, np.int64)),
        )


def _pixels(rles: Sequence[Rle], size: tuple[int, int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns of each cell's pixels; all cells are decoded at once."""
    runs = decode_runs(rles, size)
    columns, rows = np.divmod(runs.pixels(), size[0])
    ends = np.cumsum(runs.areas)[:-1]
    return zip(np.split(rows, ends), np.split(columns, ends))


def _free_place(
    blocked: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """A random place where a cell covers no blocked pixel, as its rows and columns there; None after :data:`TRIES`.

    Args:
        blocked: (H, W) bool; a cell that is higher or wider fits nowhere.
        rows: (P,) rows of the cell's pixels, counted from 0.
        columns: (P,) columns of the cell's pixels, counted from 0.
    """
    room = blocked.shape[0] - rows.max(), blocked.shape[1] - columns.max()
    if min(room) < 1:
        return None
    y, x = (np.random.randint(size, size=(TRIES, 1)) for size in room)
    free = np.flatnonzero(~blocked[y + rows, x + columns].any(axis=1))
    return (y[free[0]] + rows, x[free[0]] + columns) if free.size else None


def build_copy_paste(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> CopyPaste | None:
    """The copy-paste of CELLSEG.AUG.COPY_PASTE_*, or None where its probability is 0; a log line says what it will do.

    Args:
        cfg: DATASETS.TRAIN gives the names of the classes.
        dicts: where cells are taken from: :attr:`StreamDataset.dicts`, which workers share.

    Raises:
        CellSegError: no cell can be pasted.
    """
    aug = cfg.CELLSEG.AUG
    if aug.COPY_PASTE_PROB == 0:
        return None
    copy_paste = CopyPaste(dicts, aug.COPY_PASTE_PROB, aug.COPY_PASTE_MAX_CELLS, cfg.CELLSEG.CHANNELS)
    sources, names = copy_paste.sources, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    before = cells_by_tile_and_class(dicts, len(names)).sum(axis=0)
    pasted = len(dicts) * aug.COPY_PASTE_PROB * sources.mean_classes(aug.COPY_PASTE_MAX_CELLS, len(names))
    logger.info(
        "copy-paste: %g %% of the tiles get 1 to %d cells of one tile as far as there is room, the first of each class "
        "equally often; cells to paste, and a class's share of all cells if there is room for all and no tile is "
        "repeated: %s",
        100 * aug.COPY_PASTE_PROB,
        aug.COPY_PASTE_MAX_CELLS,
        ", ".join(
            f"{name} {sources.counts.get(number, 0)}, {share}"
            for (number, name), share in zip(enumerate(names), share_changes(before, before + pasted))
        ),
    )
    return copy_paste
