import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from cellseg_d2.config import get_cfg
from cellseg_d2.conversion.suggestions import suggest
from cellseg_d2.data.caps import set_caps


@pytest.fixture
def dataset(request):
    """Registers a dataset of which conversion wrote down the densest tile; its name."""
    name = f"density_{request.node.name}"
    MetadataCatalog.get(name).set(most_cells=700)
    yield name
    MetadataCatalog.remove(name)


def _cfg(name, *overrides):
    return get_cfg("mask_rcnn_R_50_FPN", ["DATASETS.TRAIN", f"('{name}',)", *overrides])


def test_detections_and_proposals_come_from_the_densest_tile(dataset, caplog):
    cfg = _cfg(dataset)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        set_caps(cfg)
    rpn = cfg.MODEL.RPN
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 1400
    assert (rpn.PRE_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TRAIN) == (3000, 1500)
    assert (rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST) == (3000, 3000)
    assert "densest tile has 700 cells" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_sparse_data_keeps_what_ap_wants(dataset):
    MetadataCatalog.remove(dataset)
    MetadataCatalog.get(dataset).set(most_cells=3)
    cfg = _cfg(dataset)
    before = cfg.MODEL.RPN.clone()
    set_caps(cfg)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 500
    assert cfg.MODEL.RPN == before


def test_a_cap_that_is_given_stays_and_warns_where_the_data_exceeds_it(dataset, caplog):
    cfg = _cfg(dataset, "TEST.DETECTIONS_PER_IMAGE", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "600")
    before = cfg.clone()
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        set_caps(cfg)
    assert cfg == before
    assert "TEST.DETECTIONS_PER_IMAGE is 100, but a tile has 700 cells" in caplog.text
    assert "MODEL.RPN.POST_NMS_TOPK_TEST is 600" in caplog.text
    assert len(caplog.records) == 2


def test_a_dataset_that_says_nothing_is_counted(dataset, caplog):
    cell, crowd = {"category_id": 0}, {"category_id": 0, "iscrowd": 1}
    MetadataCatalog.remove(dataset)
    DatasetCatalog.register(dataset, lambda: [{"annotations": [cell] * 3}, {"annotations": [cell, *[crowd] * 9]}, {}])
    try:
        with caplog.at_level(logging.INFO, "cellseg_d2"):
            set_caps(_cfg(dataset))
    finally:
        DatasetCatalog.remove(dataset)
    assert "densest tile has 3 cells" in caplog.text


def test_suggested_settings_leave_the_limits_to_the_data(dataset):
    summary = {
        "cells": {"box_size": {"p5": 10, "p95": 20}, "longest_side": {"p99": 40}},
        "tiles": {"tile_size": 512, "instances": {"max": 100}, "classes": {"nucleus": {"share": 1.0}}},
    }
    suggested = suggest(summary)["TEST.DETECTIONS_PER_IMAGE"].value
    cfg = _cfg(dataset, "TEST.DETECTIONS_PER_IMAGE", str(suggested))
    set_caps(cfg)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 1400
