import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling import build_model
from detectron2.structures import Boxes

import cellseg_d2.modeling  # noqa: F401  (registers the laptop model)
from cellseg_d2.config import get_cfg
from cellseg_d2.modeling.roi_align import ExactROIAlign


@pytest.fixture(scope="module")
def heads():
    keys = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    return build_model(get_cfg("mask_rcnn_lite0_FPN", keys)).roi_heads


def _inputs():
    """Features of 0 and 1, which every type holds, and small boxes far from the corner."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 96, 512 >> level, 512 >> level) for level in range(2, 6)]
    features = [torch.randint(2, shape, generator=generator).float() for shape in shapes]
    corners = torch.rand(40, 2, generator=generator) * 200 + 290
    return features, [Boxes(torch.cat([corners, corners + 11.3], dim=1))]


def test_every_pooler_of_the_heads_is_exact(heads):
    kinds = {type(module) for module in heads.modules() if isinstance(module, ROIAlign)}
    assert kinds == {ExactROIAlign}


def test_boxes_are_not_rounded_with_the_features(heads):
    features, boxes = _inputs()
    exact = heads.box_pooler(features, boxes)
    pooled = heads.box_pooler([level.bfloat16() for level in features], boxes)
    assert pooled.dtype == torch.bfloat16
    assert (pooled.float() - exact).abs().max() < 0.004  # the result's own rounding
    rois = torch.cat([torch.zeros(40, 1), boxes[0].tensor], dim=1)
    theirs = ROIAlign((7, 7), 0.25, 0, True)
    assert (theirs(features[0], rois.bfloat16().float()) - theirs(features[0], rois)).abs().max() > 0.1


def test_in_full_precision_it_is_detectron2s(heads):
    features, boxes = _inputs()
    rois = torch.cat([torch.zeros(40, 1), boxes[0].tensor], dim=1)
    theirs, ours = ROIAlign((7, 7), 0.25, 0, True), ExactROIAlign((7, 7), 0.25, 0, True)
    assert torch.equal(ours(features[0], rois), theirs(features[0], rois))
