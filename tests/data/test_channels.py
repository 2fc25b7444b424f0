"""What a dataset's channels set in a config, and the samples that training gets of them."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from multiplexed import NAMES, write_multiplexed

import cellseg_d2
from cellseg_d2.config import get_cfg
from cellseg_d2.config_checks import check_config, check_resolved
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.data.catalog import register_all
from cellseg_d2.data.channels import IMAGENET_STD, channels_of, read_tile
from cellseg_d2.data.copy_paste import build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper
from cellseg_d2.data.stream import SEED_KEY
from cellseg_d2.engine.run_config import build_cfg, resolve
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json, write_json
from cellseg_d2.report.augmentation_grid import write_augmentation_grid

LITE = "mask_rcnn_lite0_FPN"
ON_CPU = ["MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("channels")
    write_multiplexed(root / "input", images=5, side=96, columns=3)
    convert(root / "input", root / "datasets" / "four_channels", ConvertOptions(channels=NAMES))
    convert(root / "input", root / "datasets" / "two_channels", ConvertOptions(channels=("3", "0")))
    cellseg_d2.setup(root / "datasets")
    return root / "datasets"


def built(dataset, *opts, config=LITE):
    return build_cfg(config, ["CELLSEG.DATASET", dataset, *ON_CPU, *opts])


@pytest.mark.parametrize("config", [LITE, "mask_rcnn_R_50_FPN"])
def test_the_dataset_sets_channels_and_statistics(folder, config):
    cfg, plain = built("four_channels", config=config), get_cfg(config)
    assert cfg.CELLSEG.CHANNELS == list(NAMES)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.BACKBONE.FREEZE_AT) == ("RGB", 0)
    stated = read_json(folder / "four_channels" / "dataset.json")["channels"]
    assert cfg.MODEL.PIXEL_MEAN == [channel["mean"] for channel in stated]
    spread = IMAGENET_STD / np.mean(plain.MODEL.PIXEL_STD)  # of ImageNet's images in the model's units
    normalised = [channel["std"] / std for channel, std in zip(stated, cfg.MODEL.PIXEL_STD)]
    assert normalised == pytest.approx([spread] * 4, rel=1e-3)
    check_config(cfg)


def test_an_rgb_dataset_leaves_the_config_as_it_is(nuclei):
    cfg, plain = built("nuclei"), get_cfg(LITE)
    assert cfg.CELLSEG.CHANNELS == []
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == (plain.MODEL.PIXEL_MEAN, plain.MODEL.PIXEL_STD)


def test_statistics_of_the_user_are_kept_with_the_channels(folder):
    own = ["CELLSEG.CHANNELS", "['3', '0']", "MODEL.PIXEL_MEAN", "[1.0, 2.0]", "MODEL.PIXEL_STD", "[3.0, 4.0]"]
    cfg = built("two_channels", *own)
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(CellSegError, match=r"CELLSEG\.CHANNELS names 2 channels \(3, 0\), four_channels_train has 4"):
        built("four_channels", *own)


def test_datasets_of_one_training_have_the_same_channels(folder):
    cfg = get_cfg(LITE, [*ON_CPU, "DATASETS.TRAIN", "('four_channels_train', 'two_channels_train')"])
    with pytest.raises(CellSegError, match=r"two_channels_train has 2 channels \(3, 0\), four_channels_train 4 chan"):
        resolve(cfg)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["CELLSEG.BALANCE_KINDS", "2.0"], "BALANCE_KINDS tells kinds of RGB images apart; write 0"),
        (["VIS_PERIOD", "5"], "VIS_PERIOD draws RGB images only; write 0"),
        (["CELLSEG.SHOWN_CHANNELS", "['FOXP3']"], "SHOWN_CHANNELS is .'FOXP3'.; write up to three of DAPI, CD3"),
    ],
)
def test_what_needs_rgb_is_refused(folder, opts, message):
    with pytest.raises(CellSegError, match=message):
        check_resolved(built("four_channels", *opts), 1)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["CELLSEG.CHANNELS", "['a', 'b']"], "PIXEL_MEAN has 3 numbers, one per channel of the model, but .* names 2"),
        (["MODEL.PIXEL_MEAN", "[1.0]"], "PIXEL_MEAN has 1 numbers, .* but images are read as RGB, 3 channels"),
        (["MODEL.PIXEL_STD", "[1.0]"], "PIXEL_STD is .1.0.; write a list of 3"),
        (["CELLSEG.CHANNELS", "[0, 1]"], "CELLSEG.CHANNELS is .0, 1.; write a list of names, or of numbers as text"),
        (["CELLSEG.CHANNELS", str(["x"] * 999)], "has 999 channels; write 256 at most"),
        (["CELLSEG.SHOWN_CHANNELS", "['a', 'b', 'c', 'd']"], "write up to three of"),
    ],
)
def test_channels_that_do_not_fit_are_refused(opts, message):
    with pytest.raises(CellSegError, match=message):
        check_config(get_cfg(LITE, opts))


def test_training_gets_all_channels_and_the_same_for_the_same_seed(folder):
    names = ("AFFINE", "BRIGHTNESS_CONTRAST", "GAMMA", "BLUR", "NOISE", "COPY_PASTE")
    always = [text for name in names for text in (f"CELLSEG.AUG.{name}_PROB", "1.0")]
    cfg = built("four_channels", *always, "CELLSEG.AUG.ZOOM_RANGE", "[0.5, 2.0]")
    dicts = DatasetCatalog.get("four_channels_train")
    mapper = CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, dicts))
    for seed in range(4):
        first, second = (mapper({**dicts[0], SEED_KEY: seed}) for _ in range(2))
        assert first["image"].shape[0] == len(NAMES)
        assert torch.equal(first["image"], second["image"])


def test_tiles_come_to_the_model_as_they_are(folder):
    cfg = built("two_channels")
    sample = DatasetCatalog.get("two_channels_train")[0]
    tile = read_tile(sample["file_name"], cfg.CELLSEG.CHANNELS)
    image = CellDatasetMapper(cfg, is_train=False)(sample)["image"]
    assert np.array_equal(image.numpy(), tile.transpose(2, 0, 1))


def test_cells_are_pasted_with_all_channels(folder):
    cfg = built("four_channels", "CELLSEG.AUG.COPY_PASTE_PROB", "1.0")
    dicts = DatasetCatalog.get("four_channels_train")
    mapper = CellDatasetMapper(cfg, is_train=True, augmentation=None, copy_paste=build_copy_paste(cfg, dicts))
    plain = CellDatasetMapper(cfg, is_train=True, augmentation=None)
    before = plain(dicts[0])["image"]
    changed = [mapper({**dicts[0], SEED_KEY: seed})["image"] != before for seed in range(6)]
    assert any(all(bool(channel.any()) for channel in one) for one in changed)


def test_training_tiles_are_shown_in_three_of_the_channels(folder, tmp_path):
    cfg = built("four_channels", "CELLSEG.SHOWN_CHANNELS", "['Ki67']")
    write_augmentation_grid(cfg, tmp_path / "grid.png", samples=1, augmentations=1)
    assert (tmp_path / "grid.png").is_file()
    assert channels_of(cfg).shown == ("Ki67",)


def test_the_log_says_what_follows_from_the_channels(folder, caplog):
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        built("four_channels", "MODEL.BACKBONE.FREEZE_AT", "2")
    assert "MODEL.BACKBONE.FREEZE_AT is 0, so that the first convolution learns" in caplog.text
    assert "the images have 4 channels (DAPI, CD3, CD8, Ki67); MODEL.PIXEL_MEAN [" in caplog.text


def test_a_description_with_damaged_channels_is_named(folder, tmp_path):
    description = read_json(folder / "two_channels" / "dataset.json")
    description["channels"][0]["mean"] = "much"
    (tmp_path / "damaged").mkdir()
    write_json(tmp_path / "damaged" / "dataset.json", description)
    with pytest.raises(CellSegError, match=r"damaged.*is not what `convert` writes; convert again"):
        register_all(tmp_path)
