"""What lies on a crowd is neither to be found nor learnt as background."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

import cellseg_d2.modeling.rpn as rpn
from cellseg_d2.config import get_cfg
from cellseg_d2.modeling import CellRPN
from cellseg_d2.modeling.roi_heads import without_crowds
from cellseg_d2.structures import CROWD_CLASS

SIZE = (64, 96)


def _instances(boxes, classes):
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def _drawn_boxes(count, seed, side=90.0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * side
    return Boxes(torch.cat([corners, corners + 2 + torch.rand(count, 2, generator=generator) * 30], dim=1))


def _rpns(positives=10**6):
    """Detectron2's RPN and ours on the same anchors, both keeping every label."""
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", str(positives)])
    shapes = {f"p{level}": ShapeSpec(channels=96, stride=2**level) for level in range(2, 7)}
    theirs, ours = RPN(cfg, shapes), CellRPN(cfg, shapes)
    features = [torch.zeros(1, 96, 64 // shape.stride, 96 // shape.stride) for shape in shapes.values()]
    return theirs, ours, ours.anchor_generator(features)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("block", [1, 40, 1000, 10**9])
@pytest.mark.parametrize("targets", [0, 1, 37])
@pytest.mark.parametrize("ordered", [True, False], ids=["anchors in rows", "anchors anywhere"])
def test_matching_in_blocks_gives_the_same_result(ordered, targets, block, low_quality, monkeypatch):
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    cells, anchors = _drawn_boxes(targets, 1), _drawn_boxes(500, 2)
    if ordered:
        anchors = anchors[torch.argsort(anchors.tensor[:, 1])]
    expected = matcher(pairwise_iou(cells, anchors))
    monkeypatch.setattr(rpn, "MATCH_BLOCK", {"cpu": block})
    matches, labels = rpn.match_in_blocks(matcher, cells, anchors)
    assert torch.equal(matches, expected[0])
    assert torch.equal(labels, expected[1])


@pytest.mark.parametrize("low_quality", [True, False])
def test_a_target_far_from_every_anchor_is_treated_as_detectron2_does(low_quality):
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    cells = Boxes(torch.tensor([[500.0, 500.0, 510.0, 510.0], [5.0, 5.0, 20.0, 20.0]]))
    matches, labels = rpn.match_in_blocks(matcher, cells, _drawn_boxes(300, 3))
    expected = matcher(pairwise_iou(cells, _drawn_boxes(300, 3)))
    assert torch.equal(matches, expected[0])
    assert torch.equal(labels, expected[1])


def test_without_crowds_the_labels_are_detectron2s():
    theirs, ours, anchors = _rpns()
    instances = [_instances(_drawn_boxes(9, seed, 60.0).tensor.tolist(), [0] * 9) for seed in range(2)]
    expected, found = (
        theirs.label_and_sample_anchors(anchors, instances),
        ours.label_and_sample_anchors(anchors, instances),
    )
    for a, b in zip(expected, found):
        assert all(torch.equal(one, other) for one, other in zip(a, b))


def test_anchors_on_a_crowd_are_neither():
    _, ours, anchors = _rpns()
    every = Boxes.cat(anchors)
    crowd, cell = [8.0, 8.0, 40.0, 40.0], [60.0, 20.0, 76.0, 36.0]
    (labels,), _ = ours.label_and_sample_anchors(anchors, [_instances([cell, crowd], [1, CROWD_CLASS])])
    on_crowd = rpn.lies_on_crowd(Boxes(torch.tensor([crowd])), every)
    assert on_crowd.sum() > 20
    assert (labels[on_crowd] == -1).all()
    (plain,), _ = ours.label_and_sample_anchors(anchors, [_instances([cell], [1])])
    assert torch.equal(labels[~on_crowd], plain[~on_crowd])
    assert (plain[on_crowd] == 0).any()  # they would have been learnt as background


def test_proposals_on_a_crowd_go_unless_they_show_a_cell():
    targets = _instances([[10, 10, 20, 20], [0, 0, 40, 40]], [2, CROWD_CLASS])
    proposals = Instances(SIZE)
    proposals.proposal_boxes = Boxes(torch.tensor([[10.0, 10, 20, 19], [25, 25, 35, 35], [50, 50, 60, 60]]))
    proposals.objectness_logits = torch.tensor([1.0, 2.0, 3.0])
    kept, cells = without_crowds(proposals, targets)
    assert kept.objectness_logits.tolist() == [1.0, 3.0]
    assert cells.gt_classes.tolist() == [2]


def test_without_a_crowd_nothing_is_taken_away():
    targets, proposals = _instances([[10, 10, 20, 20]], [2]), Instances(SIZE)
    proposals.proposal_boxes = Boxes(torch.tensor([[25.0, 25, 35, 35]]))
    assert without_crowds(proposals, targets) == (proposals, targets)


@pytest.mark.parametrize("classes", [[0, CROWD_CLASS], [CROWD_CLASS, CROWD_CLASS]], ids=["a cell", "crowds only"])
def test_a_model_trains_on_images_with_crowds(classes):
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "4"]
    model = build_model(get_cfg("mask_rcnn_lite0_FPN", [*opts, "MODEL.EFFICIENTNET_LITE.NORM", "BN"])).train()
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 8:24, 8:24] = masks[1, 30:60, 40:90] = True
    instances = Instances(SIZE)
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.tensor(classes)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with EventStorage():
        losses = model([{"image": image, "instances": instances}] * 2)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
