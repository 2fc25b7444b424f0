"""Training tiles beside augmented copies of them."""

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from drawing import places

from cellseg_d2.cells.rle import column_runs
from cellseg_d2.config import get_cfg
from cellseg_d2.export.lettering import LINE_HEIGHT, lettering
from cellseg_d2.export.overlay import WIDEST, class_color
from cellseg_d2.report.augmentation_grid import OUTSIDE, write_augmentation_grid
from cellseg_d2.report.sheet import GAP

NAME = "drawn_tiles_train"


def tile(folder, number, background, foreground):
    """A dataset dict, with its image on disk, of 9 cells that are brighter or darker than what is around them."""
    labels = np.zeros((96, 128), np.int32)
    for cell in range(9):
        cv2.circle(labels, (20 + 40 * (cell % 3), 16 + 32 * (cell // 3)), 9, cell + 1, -1)
    image = np.where(labels[..., None] > 0, np.uint8(foreground), np.uint8(background)).repeat(3, axis=2)
    path = folder / f"tile{number}.png"
    cv2.imwrite(str(path), image)
    annotations = [{"segmentation": rle, "category_id": 0, "iscrowd": 0} for rle in column_runs(labels)[1].rles()]
    return {"file_name": str(path), "height": 96, "width": 128, "image_id": number, "annotations": annotations}


@pytest.fixture
def draw(tmp_path):
    def run(background, foreground, samples=1, augmentations=4, **probabilities):
        cfg = get_cfg("mask_rcnn_lite0_FPN", ["INPUT.CROP.ENABLED", "False", "CELLSEG.CLASS_NAMES", "('round',)"])
        for key in [key for key in cfg.CELLSEG.AUG if key.endswith("_PROB")]:
            cfg.CELLSEG.AUG[key] = probabilities.get(key, 0.0)
        cfg.DATASETS.TRAIN = (NAME,)
        tiles = [tile(tmp_path, number, background, foreground) for number in range(3)]
        DatasetCatalog.register(NAME, lambda: tiles)
        try:
            write_augmentation_grid(cfg, tmp_path / "grid.png", samples, augmentations)
        finally:
            DatasetCatalog.remove(NAME)
        return cv2.imread(str(tmp_path / "grid.png"))[..., ::-1]

    return run


def outlines(grid):
    """How many outlines of the class's colour there are; the legend's square counts too."""
    return cv2.connectedComponents((grid == class_color(0)).all(axis=2).astype(np.uint8))[0] - 1


@pytest.mark.parametrize(("samples", "augmentations"), [(1, 1), (2, 5), (3, 10)])
def test_the_original_is_named_and_every_copy_is_there(draw, samples, augmentations):
    grid = draw(200, 120, samples, augmentations)
    assert grid.shape[1] <= WIDEST
    assert outlines(grid) == 9 * samples * (augmentations + 1) + 1
    names = [f"original: tile{number}, 9 cells" for number in range(samples)]
    titles = [place for name in names for place in places(grid, lettering(name))]
    assert len(titles) == samples and {x for x, _ in titles} == {GAP}
    copied = "1 augmented copy" if augmentations == 1 else f"{augmentations} augmented copies"
    assert len(places(grid, lettering(f"{copied} ({OUTSIDE})"))) == samples
    assert places(grid, lettering("round"))


def test_corners_outside_of_a_turned_tile_are_not_black(draw):
    grid = draw(200, 120, AFFINE_PROB=1.0)
    pictures = grid[2 * LINE_HEIGHT + 3 * GAP :]
    assert pictures.min(axis=2).max() == 255 and pictures.max(axis=2).min() > 100


def test_a_dark_tile_is_brightened_and_its_copies_alike(draw):
    grid = draw(4, 40, BRIGHTNESS_CONTRAST_PROB=1.0)
    shown = grid[2 * LINE_HEIGHT + 3 * GAP :]
    cells = shown[(shown.max(axis=2) > 200) & (shown.min(axis=2) < 250)]
    assert len(cells)
    # with the range of each copy by itself, all would look alike
    row = len(shown) // 2
    assert len(np.unique(shown[row].reshape(-1, 3), axis=0)) > 6
