"""The parts of the module that runs an exported model do what those of the package do."""

import cv2
import numpy as np
import pytest
import torch
from drawing import discs

from cellseg_d2.cells.hidden import visible
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import Tile, TileGrid
from cellseg_d2.deployment import run
from cellseg_d2.inference.one_image import as_channels
from cellseg_d2.inference.paste import paste_in_boxes
from cellseg_d2.inference.stitch import stitch


@pytest.mark.parametrize("size", [(40, 60), (100, 100), (101, 230), (513, 90)])
def test_tiles_are_those_of_prediction(size):
    for overlap in (0, 0.25, 0.9):
        expected = list(TileGrid(*size, 100, overlap))
        assert [Tile(core, window) for core, window in run.tiles(size, 100, overlap)] == expected


@pytest.mark.parametrize("rule", ["percentile:0.1,99.9", "range:100,3000"])
@pytest.mark.parametrize("shape", [(31, 40), (31, 40, 3), (31, 40, 4)])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_intensities_are_scaled_as_for_prediction(kind, shape, rule):
    image = np.random.default_rng(0).gamma(2, 500, shape).astype(kind)
    np.testing.assert_array_equal(run.as_rgb(image, rule), as_channels(image, rule))
    few = np.zeros((50, 50), kind)
    few[0, 0] = 1  # a smaller share than the percentiles leave out
    np.testing.assert_array_equal(run.as_rgb(few, rule), as_channels(few, rule))


def test_images_of_other_shapes_are_refused():
    for shape in [(4,), (4, 4, 2), (4, 4, 3, 1), (0, 4)]:
        with pytest.raises(ValueError, match="has the shape"):
            run.as_rgb(np.zeros(shape, np.uint8), "range:0,1")
    with pytest.raises(ValueError, match="NaN"):
        run.as_rgb(np.full((4, 4), np.nan), "range:0,1")


@pytest.mark.parametrize("size", [(20, 33), (77, 91), (41, 40)])
def test_images_are_resized_as_opencv_does(size):
    image = np.random.default_rng(0).integers(0, 256, (41, 53, 3), np.uint8)
    way = cv2.INTER_AREA if size[1] < image.shape[1] else cv2.INTER_LINEAR
    expected = cv2.resize(image, size[::-1], interpolation=way)
    difference = np.abs(run.resized(image, *size).astype(int) - expected)
    assert difference.max() <= 1  # OpenCV computes in fixed point


def test_masks_are_pasted_as_for_prediction():
    rng = np.random.default_rng(0)
    masks = rng.random((60, 28, 28)).astype(np.float32)
    corners = rng.uniform(-5, 90, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 30, (60, 2))], axis=1).astype(np.float32)
    expected, origins = paste_in_boxes(torch.from_numpy(masks), torch.from_numpy(boxes), (80, 100), 0.5)
    pasted = 0
    for mask, box, pixels, (x, y) in zip(masks, boxes, expected, origins):
        shown = np.zeros((80, 100), bool)
        shown[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        result = run.paste(mask, box, (80, 100), 0.5)
        if result is None:
            assert not shown.any()
            continue
        (x0, y0, x1, y1), crop = result
        again = np.zeros_like(shown)
        again[y0:y1, x0:x1] = crop
        np.testing.assert_array_equal(again, shown)
        pasted += 1
    assert pasted > len(masks) / 2


def random_cells(seed, count=60, size=(120, 150)):
    """Cells that overlap, as the package and as the module hold them."""
    rng = np.random.default_rng(seed)
    masks, origins = [], []
    for _ in range(count):
        mask = discs(rng, 40, 40, 1, radius=int(rng.integers(4, 12))) > 0
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        masks.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        origins.append([rng.integers(0, size[1] - masks[-1].shape[1]), rng.integers(0, size[0] - masks[-1].shape[0])])
    scores = rng.random(count).astype(np.float32).round(2)  # some are equal
    boxes = rng.random((count, 4)).astype(np.float32)
    cells = CellInstances(size, boxes, scores, rng.integers(0, 3, count), masks, np.array(origins))
    return cells, module_cells(cells)


def module_cells(cells):
    parts = zip(cells.mask_boxes.tolist(), cells.masks, cells.scores, cells.classes.tolist(), cells.boxes)
    return [run._Cell(tuple(bounds), mask, score, number, box) for bounds, mask, score, number, box in parts]


def as_set(cells):
    return {(*cell.bounds, cell.mask.tobytes(), cell.class_number, float(cell.score)) for cell in cells}


@pytest.mark.parametrize("limits", [(0.5, 0.5), (0.2, 0.9), (1.0, 1.0)])
def test_cells_are_hidden_as_in_the_package(limits):
    for seed in range(5):
        cells, same = random_cells(seed)
        assert as_set(run.visible_cells(same, *limits)) == as_set(module_cells(visible(cells, *limits)))


def test_cells_of_several_tiles_are_joined_as_in_the_package():
    size, shifted = (200, 240), 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = discs(rng, *size, 60, radius=7)
        pieces, found = [], []
        for tile in TileGrid(*size, 100, 0.4):
            x0, y0, x1, y1 = tile.window
            dy, dx = rng.integers(-1, 2, 2)  # tiles do not agree to the pixel
            shown = np.roll(labels, (dy, dx), (0, 1))[y0:y1, x0:x1]
            shifted += abs(dy) + abs(dx)
            numbers = np.unique(shown)[1:]
            masks = [shown == number for number in numbers]
            cells = CellInstances(
                shown.shape,
                np.zeros((len(masks), 4), np.float32),
                rng.random(len(masks)).astype(np.float32),
                np.zeros(len(masks), np.int64),
                masks,
                np.zeros((len(masks), 2), np.int64),
            ).trimmed()
            pieces.append((tile, cells.moved(x0, y0, size)))
            found += [cell.of_tile(tile.core, tile.window, size) for cell in module_cells(cells)]
        expected, report = stitch(pieces, size)
        assert report.deduplicated and report.rejected
        assert as_set(run.joined_cells(found, 4)) == as_set(module_cells(expected))
    assert shifted
