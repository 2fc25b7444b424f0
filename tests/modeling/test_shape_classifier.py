"""Classes from shapes: nothing is added at first, and round and long cells are soon told apart."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

import cellseg_d2.modeling  # noqa: F401  (registers the laptop model)
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.inference.detect import Detector
from cellseg_d2.modeling.build import build_on_cpu
from cellseg_d2.modeling.roi_heads import check_losses
from cellseg_d2.modeling.shape_classifier import ShapeClassifier

SHARED = ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
SHAPES = ["CELLSEG.SHAPE_CLASSIFIER", "True", *SHARED]


def _cfg(*keys):
    return get_cfg("mask_rcnn_lite0_FPN", ["MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "3", *keys])


def _ellipses(count, ratio, seed):
    """Masks inside boxes of ellipses in all directions, their boxes, from the ratio of their axes."""
    chance = torch.Generator().manual_seed(seed)
    turn = torch.rand(count, generator=chance) * 3.14
    major = 20 + 20 * torch.rand(count, generator=chance)
    a, b = (major / 2).square(), (major / 2 * ratio).square()
    xx, yy = a * turn.cos() ** 2 + b * turn.sin() ** 2, a * turn.sin() ** 2 + b * turn.cos() ** 2
    xy = (a - b) * turn.cos() * turn.sin()
    place = (torch.arange(28) + 0.5) / 14 - 1
    x, y = place * xx.sqrt()[:, None], place * yy.sqrt()[:, None]
    x, y, xx, yy, xy = x[:, None, :], y[:, :, None], xx[:, None, None], yy[:, None, None], xy[:, None, None]
    distance = (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy)
    sides = 2 * torch.stack([xx.flatten().sqrt(), yy.flatten().sqrt()], dim=1)
    return (distance <= 1).float(), torch.cat([torch.zeros(count, 2), sides], dim=1)


def _cells(masks, boxes, classes, shift=0.0, inset=5.0):
    """Proposals, shifted by pixels to the right, whose box head knows nothing of the class.

    The cells lie at a distance of ``inset`` from the image's left and upper edges.
    """
    boxes = boxes + inset
    moved = boxes + torch.tensor([shift, 0, shift, 0])
    logits = torch.zeros(len(boxes), 2)
    fields = {"gt_boxes": Boxes(boxes), "gt_classes": classes, "class_logits": logits}
    return [Instances((64, 64), proposal_boxes=Boxes(moved), **fields)]


def test_it_learns_to_tell_long_cells_from_round_ones():
    torch.manual_seed(0)
    (round_masks, round_boxes), (long_masks, long_boxes) = _ellipses(200, 0.95, 1), _ellipses(200, 0.45, 2)
    masks, boxes = torch.cat([round_masks, long_masks]), torch.cat([round_boxes, long_boxes])
    classes = torch.arange(2).repeat_interleave(200)
    model = ShapeClassifier(2)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    for _ in range(60):
        drawn = torch.randint(0, 400, (64,))
        loss = model.loss(masks[drawn], _cells(masks[drawn], boxes[drawn], classes[drawn]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    others = [_ellipses(50, 0.9, 3), _ellipses(50, 0.5, 4)]
    with torch.no_grad():
        found = [model(*pair, torch.zeros(50, 2)).argmax(dim=1).float().mean() for pair in others]
    assert found[0] < 0.05 and found[1] > 0.95


def test_proposals_that_cut_their_cells_and_cells_that_an_edge_cuts_teach_nothing():
    masks, boxes = _ellipses(8, 0.6, 0)
    classes = torch.zeros(8, dtype=torch.int64)
    model = ShapeClassifier(2)
    assert model.loss(masks, _cells(masks, boxes, classes)).item() == pytest.approx(0.6931, abs=1e-3)
    no_proposals = [Instances((64, 64), proposal_boxes=Boxes(boxes[:0]))]  # of an image without cells
    cut = _cells(masks, boxes, classes, shift=30.0), _cells(masks, boxes, classes, inset=0.0)
    for instances in (*cut, no_proposals):
        model.zero_grad()
        loss = model.loss(masks[: len(instances[0])], instances)
        loss.backward()
        assert loss.item() == 0
        assert all(parameter.grad is not None for parameter in model.parameters())  # several processes wait for each


def test_weights_of_classes_weigh_its_loss_too():
    masks, boxes = _ellipses(4, 0.6, 0)
    model = ShapeClassifier(2, torch.tensor([1.0, 0.0]))
    cells = _cells(masks, boxes, torch.tensor([0, 1, 1, 1]))
    cells[0].class_logits[0, 0] = 5.0
    assert model.loss(masks, cells).item() == pytest.approx(0.0067, abs=1e-3)
    assert model.loss(masks, _cells(masks, boxes, torch.ones(4, dtype=torch.int64))).item() == 0


def test_each_cell_and_class_that_scores_enough_is_a_detection_and_the_scores_of_a_cell_sum_to_its_own():
    model = ShapeClassifier(3)
    masks, boxes = _ellipses(2, 0.6, 0)
    logits = torch.tensor([[2.0, 1.0, -9.0], [0.0, 0.0, 0.0]])
    cells = Instances(
        (64, 64),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([0.9, 0.6]),
        class_logits=logits,
        pred_masks=masks[:, None],
    )
    found = model.classified(cells, 0.05, -1)
    assert len(found) == 5 and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    first = found.pred_boxes.tensor.eq(boxes[0]).all(dim=1)
    assert found.pred_classes[first].tolist() == [0, 1]
    assert found.scores[first].sum().item() == pytest.approx(0.9, abs=1e-4)
    assert torch.equal(found.pred_masks[first], masks[:1, None].repeat(2, 1, 1, 1))
    assert len(model.classified(cells, 0.05, 2)) == 2
    assert len(model.classified(cells[:0], 0.05, -1)) == 0


def _images():
    chance = torch.Generator().manual_seed(0)
    return [{"image": torch.randint(0, 255, (3, 96, 128), generator=chance).float(), "height": 96, "width": 128}]


def test_a_model_without_it_loads_into_one_with_it_and_finds_its_cells_once_more_by_class():
    torch.manual_seed(0)
    plain = build_on_cpu(_cfg(*SHARED)).eval()
    shaped = build_on_cpu(_cfg(*SHAPES)).eval()
    missing, unexpected = shaped.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == [] and all("shape_classifier" in name for name in missing)
    with torch.no_grad():
        (one,), (two,) = (model.inference(_images(), do_postprocess=False) for model in (plain, shaped))
    assert len(two) > 0
    assert set(two.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
    assert set(two.pred_classes.tolist()) <= {0, 1, 2}
    # where one box is found, its scores are those of the box head, as the shape adds nothing yet
    same = torch.cdist(one.pred_boxes.tensor, two.pred_boxes.tensor) + 1e3 * (
        one.pred_classes[:, None] != two.pred_classes
    )
    nearest, place = same.min(dim=1)
    found = nearest < 1e-3
    assert found.any()
    assert torch.allclose(one.scores[found], two.scores[place[found]], atol=1e-5)


def test_one_view_of_test_time_augmentation_finds_what_the_model_finds():
    torch.manual_seed(0)
    cfg = _cfg(*SHAPES, "CELLSEG.INFERENCE.TTA.FLIPS", "False", "CELLSEG.INFERENCE.TTA.QUARTER_TURNS", "False")
    model = build_on_cpu(cfg).eval()
    crop = _images()[0]["image"].permute(1, 2, 0).numpy().astype("uint8")
    (one,) = Detector(model, cfg)([crop])
    cfg.CELLSEG.INFERENCE.TTA.ENABLED, cfg.CELLSEG.INFERENCE.TTA.SCALES = True, [1.0]
    (two,) = Detector(model, cfg)([crop])
    count = min(len(one), len(two))
    assert count > 0
    assert torch.allclose(one.scores[:count], two.scores[:count], atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        (["MODEL.ROI_HEADS.NAME", "CellCascadeROIHeads"], "ROI_HEADS.NAME CellROIHeads"),
        (["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"], "ROI_MASK_HEAD.NAME CellMaskHead"),
        (["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "False"], "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True"),
        (["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "False"], "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True"),
        (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"], "ROI_BOX_HEAD.USE_SIGMOID_CE False"),
    ],
)
def test_models_that_cannot_have_it_are_refused(keys, needed):
    with pytest.raises(CellSegError, match=f"SHAPE_CLASSIFIER needs MODEL.{needed}"):
        check_losses(_cfg(*SHAPES, *keys))
