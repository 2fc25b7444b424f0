"""The table of values: it covers the plugin's numbers, admits the shipped configs and refuses what cannot be meant."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from cellseg_d2.cells.selection import METHODS
from cellseg_d2.config import config_names, get_cfg
from cellseg_d2.config_checks import (
    RULES,
    Numbers,
    check_config,
    check_training,
    check_values,
    config_value,
    plugin_keys,
)
from cellseg_d2.data.augmentation import build_augmentation
from cellseg_d2.engine.run_config import AMP_DTYPES, prediction_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.losses import MASK_LOSSES
from cellseg_d2.weights.checkpoint import CellCheckpointer

LITE = "mask_rcnn_lite0_FPN"


@pytest.mark.parametrize("name", config_names())
def test_shipped_configs_are_admitted(name):
    check_training(get_cfg(name))


def test_every_number_of_the_plugin_has_its_rule():
    numbers = {key for key, value in plugin_keys(get_cfg()) if type(value) in (int, float)}
    assert numbers <= RULES.keys()


def test_the_names_are_those_of_the_code():
    assert RULES["CELLSEG.AMP_DTYPE"].names == tuple(AMP_DTYPES)
    assert set(RULES["CELLSEG.INFERENCE.SUPPRESSION"].names) == set(METHODS)
    assert RULES["CELLSEG.LOSS.MASK"].names == MASK_LOSSES


@pytest.mark.parametrize("key", RULES)
def test_every_key_is_there_and_values_outside_are_refused(key):
    cfg, rule = get_cfg(LITE), RULES[key]
    before = config_value(cfg, key)
    outside = [rule.low - 1, float("nan"), float("inf")] if isinstance(rule, Numbers) else ["gentle", -1]
    outside = [value for value in outside if type(value) is type(before) or isinstance(before, float)]
    assert outside
    for value in outside:
        changed = get_cfg(LITE)
        *parents, name = key.split(".")
        node = config_value(changed, ".".join(parents)) if parents else changed
        node[name] = value
        with pytest.raises(CellSegError, match=rf"^{key} is .*; write "):
            check_values(changed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CELLSEG.AUG.AFFINE_PROB", "1.5"),
        ("CELLSEG.AUG.SCALE_LIMIT", "1.2"),
        ("CELLSEG.INFERENCE.TILE_SIZE", "1000000000"),
        ("CELLSEG.INFERENCE.BATCH_SIZE", "1000000"),
        ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "4096"),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "-7"),
        ("CELLSEG.INFERENCE.TTA.SCALES", "[1000.0]"),
        ("CELLSEG.INFERENCE.TTA.SCALES", "[]"),
        ("CELLSEG.AUG.ZOOM_RANGE", "[1.0]"),
        ("CELLSEG.AUG.ZOOM_RANGE", "[0.5, 1.0, 2.0]"),
        ("CELLSEG.INFERENCE.MIN_SCORES", "[1.5]"),
        ("MODEL.PIXEL_STD", "[0.0, 1.0, 1.0]"),
        ("MODEL.PIXEL_STD", "[1.0]"),
        ("MODEL.ROI_HEADS.NAME", "NoHeads"),
        ("MODEL.BACKBONE.NAME", "None"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.CHECKPOINT_PERIOD", "0"),
        ("DATALOADER.NUM_WORKERS", "-1"),
        ("CELLSEG.CLASS_NAMES", "[1, 2]"),
        ("INPUT.FORMAT", "HSV"),
    ],
)
def test_values_that_ended_as_tracebacks_are_refused(key, value):
    with pytest.raises(CellSegError, match=rf"^{key} is .*; write "):
        check_values(get_cfg(LITE, [key, value]))


CROP = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([*CROP, "circle"], "INPUT.CROP.TYPE is circle; write absolute or"),
        ([*CROP, "absolute", "INPUT.CROP.SIZE", "[0, 256]"], "INPUT.CROP.SIZE is .*from 1 to"),
        ([*CROP, "absolute", "INPUT.CROP.SIZE", "[256]"], "INPUT.CROP.SIZE is .*; write a list of 2"),
        ([*CROP, "absolute", "INPUT.CROP.SIZE", "[99.5, 256]"], "needs whole pixels"),
        ([*CROP, "absolute_range", "INPUT.CROP.SIZE", "[256, 128]"], "needs the least first"),
        ([*CROP, "relative", "INPUT.CROP.SIZE", "[256, 256]"], "INPUT.CROP.SIZE is .*above 0 to 1"),
        (["CELLSEG.AUG.ZOOM_RANGE", "[2.0, 0.5]"], "ZOOM_RANGE is .*; write the smallest factor first"),
        (
            [*CROP, "relative", "INPUT.CROP.SIZE", "[0.5, 0.5]", "CELLSEG.AUG.ZOOM_RANGE", "[0.5, 2.0]"],
            "ZOOM_RANGE needs INPUT.CROP.SIZE in pixels",
        ),
        (["MODEL.MASK_ON", "False"], "MODEL.MASK_ON is False; write True"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "2", "CELLSEG.CLASS_NAMES", "['a']"], "CLASS_NAMES has 1 names, but .* is 2"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "1", "CELLSEG.CLASS_NAMES", "['a', 'b']"], "has 2 names, but .* is 1"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, message):
    with pytest.raises(CellSegError, match=message):
        check_training(get_cfg(LITE, keys))


@pytest.mark.parametrize(
    "keys",
    [
        [*CROP, "relative", "INPUT.CROP.SIZE", "[0.5, 1]"],
        [*CROP, "absolute_range", "INPUT.CROP.SIZE", "[128, 256]"],
        [*CROP, "absolute", "INPUT.CROP.SIZE", "[128, 256]", "CELLSEG.AUG.ZOOM_RANGE", "[0.5, 2]"],
        ["INPUT.CROP.ENABLED", "False", "INPUT.CROP.SIZE", "[0, 0]", "CELLSEG.AUG.ZOOM_RANGE", "[0.5, 2.0]"],
    ],
)
def test_keys_that_go_together_build_an_augmentation(keys):
    cfg = get_cfg(LITE, keys)
    check_training(cfg)
    sample = T.AugInput(np.zeros((64, 80, 3), np.uint8), sem_seg=np.zeros((64, 80, 1), np.int32))
    build_augmentation(cfg)(sample)
    assert sample.image.size > 0


def test_no_key_is_none():
    with pytest.raises(CellSegError, match=r"MODEL\.PIXEL_STD is None; write a value"):
        check_config(get_cfg(LITE, ["MODEL.PIXEL_STD", "None"]))


def test_least_scores_are_one_per_class():
    keys = ["CELLSEG.CLASS_NAMES", "['a', 'b']", "CELLSEG.INFERENCE.MIN_SCORES"]
    check_values(get_cfg(LITE, [*keys, "[0.2, 0.3]"]))
    with pytest.raises(CellSegError, match="MIN_SCORES has 1 scores; write one for each of the 2 classes"):
        check_values(get_cfg(LITE, [*keys, "[0.2]"]))


def test_a_checkpoint_asks_for_nothing_absurd(tmp_path):
    cfg = get_cfg(LITE, ["OUTPUT_DIR", str(tmp_path), "CELLSEG.INFERENCE.TILE_SIZE", "1000000000"])
    CellCheckpointer(torch.nn.Linear(2, 2), cfg, strict=False).save_weights("model")
    with pytest.raises(CellSegError, match=r"CELLSEG.INFERENCE.TILE_SIZE is 1000000000; write"):
        prediction_cfg(str(tmp_path / "model.pth"), "", [])


def test_a_checkpoint_names_no_other_place(tmp_path):
    cfg = get_cfg(LITE, ["OUTPUT_DIR", str(tmp_path), "DATASETS.TRAIN", "('theirs',)", "DATASETS.TEST", "('theirs',)"])
    CellCheckpointer(torch.nn.Linear(2, 2), cfg, strict=False).save_weights("model")
    loaded, _ = prediction_cfg(str(tmp_path / "model.pth"), "", [])
    assert loaded.OUTPUT_DIR == get_cfg().OUTPUT_DIR
    assert (loaded.DATASETS.TRAIN, loaded.DATASETS.TEST) == ((), ())
    assert loaded.MODEL.WEIGHTS == str(tmp_path / "model.pth")
