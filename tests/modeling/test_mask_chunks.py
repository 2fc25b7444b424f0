import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

import cellseg_d2
from cellseg_d2.config import get_cfg
from cellseg_d2.modeling import mask_chunks

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.POINT_HEAD.NUM_CLASSES", "2"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32", "MODEL.RESNETS.DEPTH", "50"),
    *("MODEL.RESNETS.NUM_GROUPS", "1", "MODEL.RESNETS.WIDTH_PER_GROUP", "64"),
]


@pytest.fixture(params=["mask_rcnn_R_50_FPN", "cascade_mask_rcnn_X_101_32x8d_FPN", "pointrend_rcnn_X_101_32x8d_FPN"])
def heads(request):
    cellseg_d2.setup()
    torch.manual_seed(0)
    return build_model(get_cfg(request.param, SMALL)).eval().roi_heads


def draw(count):
    """Features of two images and boxes in each: ``count`` and none."""
    features = {f"p{level}": torch.randn(2, 32, 128 // 2**level, 128 // 2**level) for level in range(2, 7)}
    corner = torch.rand(count, 2) * 100
    boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2) * 20], dim=1)
    fields = {"pred_boxes": Boxes(boxes), "pred_classes": torch.arange(count) % 2, "scores": torch.rand(count)}
    found = Instances((128, 128), **fields)
    return features, [found, found[:0]]


@torch.no_grad()
def test_masks_in_groups_are_those_of_all_at_once(heads, monkeypatch):
    features, found = draw(7)
    sizes = []
    heads.mask_head.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[1][0])))
    monkeypatch.setitem(mask_chunks.CHUNK, "cpu", 3)
    grouped = heads.forward_with_given_boxes(features, [instances[:] for instances in found])
    assert sizes == [3, 3, 1, 0]
    monkeypatch.setitem(mask_chunks.CHUNK, "cpu", 100)
    at_once = heads.forward_with_given_boxes(features, [instances[:] for instances in found])
    for one, other in zip(grouped, at_once):
        assert one.image_size == other.image_size and len(one) == len(other)
        torch.testing.assert_close(one.pred_masks, other.pred_masks)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
        torch.testing.assert_close(one.scores, other.scores)
