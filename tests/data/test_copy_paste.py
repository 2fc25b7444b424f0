"""Copy-paste of cells, on drawn tiles: several sizes, overlapping layers, crowds, cut cells, and a rare class."""

import logging
import re
from collections import Counter

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data import detection_utils as utils
from drawing import discs, drawn, noise
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from cellseg_d2.cells.coco import annotate
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.config import get_cfg
from cellseg_d2.config_checks import check_values
from cellseg_d2.data.copy_paste import CopyPaste, SourceCells, build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper, paint_tile
from cellseg_d2.errors import CellSegError

SIZES = [(64, 96), (48, 48), (80, 60), (64, 64), (30, 90), (40, 40)]
RARE = 2


def write_tile(folder, name, image, layers):
    """A dataset dict as Detectron2's catalog gives it, with its image on disk; layers are of contiguous classes."""
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), image[..., ::-1])
    height, width = image.shape[:2]
    annotations = annotate(layers, (0, 0, width, height))
    return {"file_name": str(path), "height": height, "width": width, "annotations": annotations}


@pytest.fixture(scope="module")
def dicts(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(8)
    tiles = []
    for number, (height, width) in enumerate(SIZES):
        layers = [LabelMap((0,), discs(rng, height, width, 8)), LabelMap((1,), discs(rng, height, width, 4))]
        if number == 0:
            rare = np.zeros((height, width), np.int32)
            rare[20:26, 30:37] = 1
            layers.append(LabelMap((RARE,), rare))
        layers.append(LabelMap((0, 1), discs(rng, height, width, 2), crowd=True))
        tiles.append(write_tile(folder, number, noise(rng, height, width), layers))
    return DatasetFromList(tiles)


def painted(sample):
    return paint_tile(utils.read_image(sample["file_name"], format="RGB"), sample["annotations"])


def cut_out(mask, image):
    """A cell's shape and pixels, wherever it lies."""
    y, x = np.nonzero(mask)
    own = mask[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return own.shape, own.tobytes(), image[mask].tobytes()


def whole_cells(sample):
    """The class of each cell that may be pasted, by :func:`cut_out`; decoded one by one, by pycocotools."""
    image, found = utils.read_image(sample["file_name"], format="RGB"), {}
    for cell in sample["annotations"]:
        mask = mask_util.decode(cell["segmentation"]).astype(bool)
        if not cell["iscrowd"] and mask[1:-1, 1:-1].sum() == mask.sum():
            found[cut_out(mask, image)] = cell["category_id"]
    return found


def pasted_masks(before, after):
    """The new cells' masks, (M, H, W); each lies in one layer."""
    labels = np.arange(len(before.classes), len(after.classes)) + 1
    masks = after.layers[:, None] == labels[:, None, None]
    assert (masks.any(axis=(2, 3)).sum(axis=0) == 1).all()
    return masks.any(axis=0)


@drawn
@given(seed=st.integers(0, 2**32 - 1), target=st.integers(0, len(SIZES) - 1), most=st.integers(1, 12))
def test_what_is_pasted_is_one_tiles_cells_whole_and_in_their_own_pixels(dicts, seed, target, most):
    before = painted(dicts[target])
    image, layers = before.image.copy(), before.layers.copy()
    np.random.seed(seed)
    after = CopyPaste(dicts, 1.0, most)(before)
    masks = pasted_masks(before, after)
    new = masks.any(axis=0)
    assert len(masks) <= most
    np.testing.assert_array_equal(after.areas, [*before.areas, *masks.sum(axis=(1, 2))])
    np.testing.assert_array_equal(after.layer_of[: len(before.classes)], before.layer_of)
    np.testing.assert_array_equal(after.classes[: len(before.classes)], before.classes)

    pasted = {cut_out(mask, after.image): number for mask, number in zip(masks, after.classes[len(before.classes) :])}
    assert any(pasted.items() <= whole_cells(sample).items() for sample in dicts)

    assert (masks.sum(axis=0) <= 1).all()
    np.testing.assert_array_equal(after.image[~new], image[~new])
    np.testing.assert_array_equal(after.layers[:, ~new], layers[:, ~new])
    assert not new[layers.any(axis=0)].any()

    np.testing.assert_array_equal(before.image, image)  # the input is left as it was
    np.testing.assert_array_equal(before.layers, layers)


def test_most_tiles_get_some(dicts):
    np.random.seed(0)
    paste = CopyPaste(dicts, 1.0, 10)
    tiles = [painted(sample) for sample in dicts] * 20
    assert np.mean([len(paste(tile).classes) > len(tile.classes) for tile in tiles]) > 0.9


def test_the_first_cell_is_any_of_its_class_and_each_class_as_likely(dicts):
    sources = SourceCells(dicts)
    assert sources.counts[RARE] == 1 < sources.counts[1] < sources.counts[0]
    np.random.seed(0)
    draws = ((tile, places[0]) for tile, places in (sources.draw(10) for _ in range(6000)))
    found = Counter(draws)
    assert len(found) == len(sources)
    for (tile, place), count in found.items():
        own = sources.counts[dicts[tile]["annotations"][place]["category_id"]]
        assert count / 6000 == pytest.approx(1 / (3 * own), abs=4 * (3 * own * 6000) ** -0.5)  # 4 standard deviations


def test_further_cells_are_other_cells_of_the_tile_and_rather_of_rare_classes(dicts):
    sources = SourceCells(dicts)
    np.random.seed(0)
    draws = [sources.draw(4) for _ in range(2000)]
    assert {len(places) for _, places in draws} == {1, 2, 3, 4}
    assert all(len(set(places.tolist())) == len(places) for _, places in draws)
    of_first_tile = [places[1:] for tile, places in draws if tile == 0]
    classes = [dicts[0]["annotations"][place]["category_id"] for places in of_first_tile for place in places]
    own = np.bincount(list(whole_cells(dicts[0]).values()), minlength=3)
    expected = own[:2] / [sources.counts[0], sources.counts[1]]
    found = np.bincount(classes, minlength=3)[:2]
    assert found[1] / found[0] == pytest.approx(expected[1] / expected[0], rel=0.35)


def test_the_mean_of_what_is_drawn_is_told_beforehand_and_disturbs_no_random_state(dicts):
    sources = SourceCells(dicts)
    np.random.seed(3)
    told, state = sources.mean_classes(4, 4), np.random.get_state()[1].copy()
    np.random.seed(3)
    assert (np.random.get_state()[1] == state).all()
    draws = [sources.draw(4) for _ in range(2000)]
    classes = [dicts[tile]["annotations"][place]["category_id"] for tile, places in draws for place in places]
    assert told == pytest.approx(np.bincount(classes, minlength=4) / len(draws), abs=0.1)
    assert told[3] == 0 < told[RARE]


@pytest.mark.parametrize(
    ("size", "covered", "count"),
    [
        pytest.param((58, 58), False, 1, id="as large as the cell"),
        pytest.param((57, 80), False, 0, id="too low"),
        pytest.param((80, 57), False, 0, id="too narrow"),
        pytest.param((90, 90), True, 0, id="full of cells"),
    ],
)
def test_a_cell_needs_a_place(size, covered, count, tmp_path):
    rng, large = np.random.default_rng(0), np.zeros((60, 60), np.int32)
    large[1:59, 1:59] = 1
    source = write_tile(tmp_path, "source", noise(rng, 60, 60), [LabelMap((0,), large)])
    target = write_tile(tmp_path, "target", noise(rng, *size), [LabelMap((1,), np.full(size, int(covered), np.int32))])
    tile = painted(target)
    assert len(CopyPaste([source], 1.0, 3)(tile).classes) - len(tile.classes) == count


def test_a_seed_fixes_the_sample(dicts):
    paste = CopyPaste(dicts, 0.7, 10)
    tile = painted(dicts[3])
    results = []
    for seed in (1, 2, 1):
        np.random.seed(seed)
        results.append([paste(tile).image for _ in range(5)])
    np.testing.assert_array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])


def test_probability_is_that_of_a_tile_getting_any(dicts):
    np.random.seed(0)
    tile = painted(dicts[0])
    paste = CopyPaste(dicts, 0.25, 10)
    assert np.mean([paste(tile) is not tile for _ in range(1000)]) == pytest.approx(0.25, abs=0.04)


def _cfg(*opts):
    return get_cfg("mask_rcnn_lite0_FPN", ["DATASETS.TRAIN", "('nuclei_train',)", *opts])


def test_by_default_nothing_is_pasted(dicts):
    assert build_copy_paste(_cfg(), dicts) is None


def test_a_dataset_without_a_whole_cell_is_refused(dicts, tmp_path):
    labels = np.zeros((20, 20), np.int32)
    labels[0:8, 5:9] = 1  # cut by the tile's edge
    labels[10:14, 10:14] = 2
    layers = [LabelMap((0,), labels * (labels == 1)), LabelMap((0,), labels * (labels == 2), crowd=True)]
    sample = write_tile(tmp_path, "edge", noise(np.random.default_rng(0), 20, 20), layers)
    for tiles in ([sample], [{**sample, "annotations": []}]):
        with pytest.raises(CellSegError, match=r"no training tile .*COPY_PASTE_PROB 0"):
            build_copy_paste(_cfg("CELLSEG.AUG.COPY_PASTE_PROB", "0.5"), tiles)


@pytest.mark.parametrize(("key", "value"), [("PROB", "1.5"), ("PROB", "-0.1"), ("MAX_CELLS", "0")])
def test_values_that_cannot_be_meant_are_refused(key, value):
    with pytest.raises(CellSegError, match=rf"COPY_PASTE_{key} is {value}; write"):
        check_values(_cfg(f"CELLSEG.AUG.COPY_PASTE_{key}", value))


def test_what_it_will_do_is_said_once(nuclei, caplog):
    tiles = DatasetCatalog.get("nuclei_train")
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        paste = build_copy_paste(_cfg("CELLSEG.AUG.COPY_PASTE_PROB", "0.5"), tiles)
    (record,) = caplog.records
    assert "50 % of the tiles get 1 to 10 cells" in record.message
    rarest = min(paste.sources.counts, key=paste.sources.counts.get)
    number = paste.sources.counts[rarest]
    before, after = re.search(rf"class{rarest + 1} {number}, ([\d.]+) -> ([\d.]+) %", record.message).groups()
    assert float(after) > float(before) > 0


def test_real_tiles_get_real_cells(nuclei):
    tiles = DatasetFromList(DatasetCatalog.get("nuclei_train"))
    cfg = _cfg("CELLSEG.AUG.COPY_PASTE_PROB", "1.0")
    mapper = CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, tiles))
    mapper.augmentation = None
    cells = {key: number for sample in tiles for key, number in whole_cells(sample).items()}
    np.random.seed(4)
    pasted = 0
    for sample in tiles[0], tiles[7], tiles[11]:
        result = mapper(sample)
        image, instances = result["image"].numpy().transpose(1, 2, 0), result["instances"]
        image = image[..., ::-1] if cfg.INPUT.FORMAT == "BGR" else image
        shown = len(paint_tile(image, sample["annotations"]).classes)
        masks = list(instances.gt_masks)[shown:]
        assert all(cut_out(mask.numpy(), image) in cells for mask in masks)
        assert (instances.gt_masks.get_bounding_boxes().tensor == instances.gt_boxes.tensor).all()
        pasted += len(masks)
    assert pasted > 3
