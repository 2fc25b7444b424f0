"""Box size as an input of the box head: nothing at first, then a function of the box's sides alone."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

import cellseg_d2.modeling  # noqa: F401  (registers the laptop model)
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.box_size import SizedPooler
from cellseg_d2.modeling.build import build_on_cpu
from cellseg_d2.modeling.roi_heads import check_losses

LITE = "mask_rcnn_lite0_FPN"
CASCADE = ["MODEL.ROI_HEADS.NAME", "CellCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]


def _cfg(*keys):
    common = ["MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "CELLSEG.SHAPE_CLASSIFIER", "False"]
    return get_cfg(LITE, [*common, *keys])


def _features():
    return {f"p{level}": torch.rand(1, 96, 256 >> level, 256 >> level) for level in range(2, 6)}


def _proposals(*sides):
    boxes = torch.tensor([[20.0, 30.0, 20.0 + width, 30.0 + height] for width, height in sides])
    return [Instances((256, 256), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))]


@pytest.mark.parametrize("heads", [[], CASCADE], ids=["one stage", "cascade"])
def test_weights_from_before_find_what_they_found(heads):
    torch.manual_seed(0)
    plain = build_on_cpu(_cfg(*heads)).roi_heads.eval()
    sized = build_on_cpu(_cfg(*heads, "CELLSEG.BOX_SIZE_INPUT", "True")).roi_heads.eval()
    missing, unexpected = sized.load_state_dict(
        {name.replace("box_pooler.", "box_pooler.pooler."): value for name, value in plain.state_dict().items()},
        strict=False,
    )
    assert unexpected == [] and {name.split(".")[0] for name in missing} == {"box_pooler"}
    features, proposals = _features(), _proposals((12, 12), (40, 20), (90, 30))
    with torch.no_grad():
        one, two = (heads._forward_box(features, proposals)[0] for heads in (plain, sized))
    assert len(one) > 0
    assert torch.equal(one.scores, two.scores) and torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)


def test_what_is_added_follows_width_and_height():
    pooler = build_on_cpu(_cfg("CELLSEG.BOX_SIZE_INPUT", "True")).roi_heads.box_pooler
    assert isinstance(pooler, SizedPooler)
    torch.nn.init.normal_(pooler.size[2].weight)
    features, boxes = (
        list(_features().values()),
        [own.proposal_boxes for own in _proposals((12, 12), (12, 40), (40, 12))],
    )
    with torch.no_grad():
        added = pooler(features, boxes) - pooler.pooler(features, boxes)
    assert added.shape == (3, 96, 7, 7)
    assert torch.allclose(added, added[:, :, :1, :1].expand_as(added), atol=1e-5)
    first, second, third = added[:, :, 0, 0]
    assert not (torch.allclose(first, second) or torch.allclose(second, third))
    with torch.no_grad():
        assert pooler(features, [Boxes(torch.zeros(0, 4))]).shape == (0, 96, 7, 7)


def test_heads_that_do_not_know_it_are_refused():
    cfg = _cfg("CELLSEG.BOX_SIZE_INPUT", "True", "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    with pytest.raises(CellSegError, match=r"BOX_SIZE_INPUT needs MODEL\.ROI_HEADS\.NAME CellROIHeads or"):
        check_losses(cfg)
