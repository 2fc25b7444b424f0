"""Suggested settings: worked cases, and every key taken by the real config."""

import pytest
import yaml

import cellseg_d2
from cellseg_d2.cells.tiling import halo_pixels
from cellseg_d2.config import config_names, config_path
from cellseg_d2.conversion.check import SHIPPED_OVERLAP
from cellseg_d2.conversion.suggestions import STRIDES, TOLERANCE, Suggestion, largest_whole, suggest, to_yaml

SIZES = "MODEL.ANCHOR_GENERATOR.SIZES"


def summary(box=(10, 20), longest=40, most=100, shares=(0.9, 0.8), tile_size=512):
    """What suggestions read of a summary."""
    return {
        "cells": {"box_size": {"p5": box[0], "p95": box[1]}, "longest_side": {"p99": longest}},
        "tiles": {
            "tile_size": tile_size,
            "instances": {"max": most},
            "classes": {f"class{n}": {"share": share} for n, share in enumerate(shares, start=1)},
        },
    }


def values(**numbers):
    return {key: suggestion.value for key, suggestion in suggest(summary(**numbers)).items()}


@pytest.mark.parametrize(
    ("box", "sizes"),
    [
        pytest.param((9, 24), [8, 16, 32, 64, 128], id="small nuclei: what the strides allow"),
        pytest.param((32, 200), [32, 52, 80, 128, 200], id="wide: a geometric row from one end to the other"),
        pytest.param((100, 100), [48, 72, 100, 140, 200], id="all alike: steps of the square root of 2"),
        pytest.param((1, 1), [8, 16, 32, 64, 128], id="single pixels"),
        pytest.param((256, 2000), [180, 256, 364, 512, 724], id="many larger than a tile of 512"),
    ],
)
def test_anchor_sizes(box, sizes):
    found = values(box=box)[SIZES]
    assert found == [[size] for size in sizes]
    assert all(size >= 2 * stride for (size,), stride in zip(found, STRIDES))


@pytest.mark.parametrize("low", [0.5, 3, 8, 20, 77, 300, 1500])
@pytest.mark.parametrize("ratio", [1, 1.3, 4, 40])
def test_anchor_sizes_ascend(low, ratio):
    sizes = [size for (size,) in values(box=(low, low * ratio))[SIZES]]
    assert len(sizes) == 5
    assert sizes == sorted(set(sizes))


def test_the_limits_are_left_to_training_and_said():
    suggestion = suggest(summary(most=700))["TEST.DETECTIONS_PER_IMAGE"]
    assert suggestion.value == -1
    reason = "from the data: a tile has up to 700 cells, so 1400 detections, 3000 proposals (1500 in training)"
    assert suggestion.reason == reason
    assert not [key for key in suggest(summary(most=700)) if key.startswith("MODEL.RPN.")]


@pytest.mark.parametrize("tile_size", [64, 256, 512, 1000])
@pytest.mark.parametrize("longest", [3, 20, 47, 118, 300])
def test_the_halo_shows_the_usual_cells_whole_or_is_as_large_as_can_be(tile_size, longest):
    overlap = values(longest=longest, tile_size=tile_size)["CELLSEG.INFERENCE.OVERLAP"]
    enough = longest / 2 + TOLERANCE + 1
    assert overlap == 0.5 or halo_pixels(tile_size, overlap) > enough
    assert overlap == 0.05 or halo_pixels(tile_size, overlap - 0.01) <= enough


def test_the_largest_whole_cell_is_the_one_of_the_stitching_rule():
    shown = largest_whole(512, 0.25)
    assert halo_pixels(512, 0.25) > shown / 2 + TOLERANCE + 1
    assert halo_pixels(512, 0.25) <= (shown + 1) / 2 + TOLERANCE + 1


@pytest.mark.parametrize(
    ("shares", "threshold"),
    [
        pytest.param((0.9, 0.5), None, id="even"),
        pytest.param((0.9, 0.0), None, id="a class in no tile cannot be repeated"),
        pytest.param((0.8, 0.2), 0.8, id="as often as the commonest"),
        pytest.param((0.8, 0.01), 0.16, id="four times, no more"),
    ],
)
def test_tiles_of_rare_classes_are_repeated(shares, threshold):
    found = values(shares=shares)
    assert found.get("DATALOADER.REPEAT_THRESHOLD") == threshold
    assert ("DATALOADER.SAMPLER_TRAIN" in found) == (threshold is not None)


def test_a_dataset_without_cells_gets_no_settings():
    empty = summary()
    empty["tiles"]["instances"] = {}
    assert suggest(empty) == {}


@pytest.mark.parametrize("base", config_names())
def test_the_yaml_is_a_config_file(tmp_path, base):
    suggestions = suggest(summary(shares=(0.8, 0.2), most=700))
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(suggestions, str(config_path(base).resolve())))
    assert path.read_text().startswith("VERSION: 2\n_BASE_: ")
    cfg = cellseg_d2.get_cfg(path)
    for key, suggestion in suggestions.items():
        node = cfg
        for name in key.split("."):
            node = getattr(node, name)
        assert node == suggestion.value
    own, based = cellseg_d2.get_cfg(base), cfg.clone()
    assert based.SOLVER == own.SOLVER and based.MODEL.BACKBONE == own.MODEL.BACKBONE


def test_the_base_may_be_relative_and_reasons_are_comments_of_one_line(tmp_path):
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSOLVER:\n  BASE_LR: 0.5\n")
    text = to_yaml({"TEST.DETECTIONS_PER_IMAGE": Suggestion(7, "a name\nof two lines: {[")}, "base.yaml")
    (tmp_path / "mine.yaml").write_text(text)
    cfg = cellseg_d2.get_cfg(tmp_path / "mine.yaml")
    assert (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.SOLVER.BASE_LR) == (7, 0.5)
    assert "  # a name of two lines: {[\n  DETECTIONS_PER_IMAGE: 7\n" in text
    assert yaml.safe_load(text) == {"VERSION": 2, "_BASE_": "base.yaml", "TEST": {"DETECTIONS_PER_IMAGE": 7}}


def test_constants_are_the_configs():
    cfg = cellseg_d2.get_cfg()
    assert cfg.CELLSEG.INFERENCE.TOLERANCE == TOLERANCE
    assert cfg.CELLSEG.INFERENCE.OVERLAP == SHIPPED_OVERLAP


def test_anchors_at_their_smallest_reach_a_cell_between_them():
    side, off = 2.0, 0.5  # in strides
    overlap = (side - off) ** 2
    assert overlap / (2 * side**2 - overlap) == pytest.approx(0.39, abs=0.005)
