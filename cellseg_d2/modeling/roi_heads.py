"""RoI heads that leave crowds out of their losses and take the weights of these from CELLSEG.LOSS."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from detectron2.structures import ImageList, Instances, pairwise_iou
from torch import Tensor

from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.box_predictor import CellOutputLayers
from cellseg_d2.modeling.box_size import SizedPooler
from cellseg_d2.modeling.mask_chunks import MasksInChunks
from cellseg_d2.modeling.mask_head import CellMaskHead
from cellseg_d2.modeling.point_rend import CellPointRendMaskHead
from cellseg_d2.modeling.roi_align import ExactBoxes
from cellseg_d2.modeling.rpn import CellRPN, lies_on_crowd
from cellseg_d2.structures import CROWD_CLASS


class IgnoreCrowd:
    """Mixin for Detectron2's RoI heads that removes crowds and the proposals on them before training samples are drawn.

    A proposal that shows a cell stays, wherever it lies.
    """

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """See :meth:`detectron2.modeling.ROIHeads.forward`."""
        if self.training and targets is not None:  # type: ignore[attr-defined]
            pairs = [without_crowds(*pair) for pair in zip(proposals, targets)]
            proposals, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return super().forward(images, features, proposals, targets)  # type: ignore[misc]


def ignores_crowd(cfg: CfgNode) -> bool:
    """Whether a config's RPN and RoI heads treat ``gt_classes`` of -1 as crowds."""
    rpn = PROPOSAL_GENERATOR_REGISTRY.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    return issubclass(rpn, CellRPN) and issubclass(heads, IgnoreCrowd)


def without_crowds(proposals: Instances, targets: Instances) -> tuple[Instances, Instances]:
    """One image's proposals that lie on no crowd or on a cell (IoU at least 0.5), and its targets that are cells."""
    crowd = targets.gt_classes == CROWD_CLASS
    if not crowd.any():
        return proposals, targets
    cells = targets[~crowd]
    away = ~lies_on_crowd(targets.gt_boxes[crowd], proposals.proposal_boxes)
    if len(cells):
        away |= (pairwise_iou(cells.gt_boxes, proposals.proposal_boxes) >= 0.5).any(dim=0)
    return proposals[away], cells


class ConfiguredBoxHead:
    """Mixin for Detectron2's standard and cascade RoI heads: box predictors and poolers as CELLSEG asks for.

    CELLSEG.LOSS sets the losses of the predictors, CELLSEG.BOX_SIZE_INPUT the pooler.

    Detectron2's heads offer no choice of the predictor's class.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        check_losses(cfg)
        return super().from_config(cfg, input_shape)  # type: ignore[misc]

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)  # type: ignore[misc]
        if cfg.CELLSEG.BOX_SIZE_INPUT:
            channels = input_shape[parts["box_in_features"][0]].channels
            parts["box_pooler"] = SizedPooler(parts["box_pooler"], channels)
        if "box_predictor" in parts:
            return {**parts, "box_predictor": CellOutputLayers(cfg, parts["box_head"].output_shape)}
        stages = zip(parts["box_heads"], parts["box_predictors"])
        predictors = [
            CellOutputLayers(cfg, head.output_shape, box2box_transform=predictor.box2box_transform)
            for head, predictor in stages
        ]
        return {**parts, "box_predictors": predictors}


@ROI_HEADS_REGISTRY.register()
class CellCascadeROIHeads(IgnoreCrowd, ConfiguredBoxHead, MasksInChunks, ExactBoxes, CascadeROIHeads):
    """Detectron2's Cascade R-CNN heads (Cai and Vasconcelos, CVPR 2018) without crowds and with the plugin's losses.

    Crowds are removed once, before the first stage: a box that one stage moves onto a crowd is background in the next.
    """


@ROI_HEADS_REGISTRY.register()
class CellROIHeads(IgnoreCrowd, ConfiguredBoxHead, MasksInChunks, ExactBoxes, StandardROIHeads):
    """Detectron2's box and mask heads without crowds and with the plugin's losses.

    With CELLSEG.SHAPE_CLASSIFIER the box head finds cells, and their classes follow from their masks too.
    """

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """See :meth:`detectron2.modeling.ROIHeads.forward`."""
        found, losses = super().forward(images, features, proposals, targets)
        return (found if self.training else self.classified(found)), losses

    def classified(self, found: list[Instances]) -> list[Instances]:
        """The cells of each image, which have masks, with their classes; the same without CELLSEG.SHAPE_CLASSIFIER."""
        predictor = self.box_predictor
        if not predictor.classes_later:
            return found
        limits = predictor.test_score_thresh, predictor.test_topk_per_image
        return [self.mask_head.shape_classifier.classified(cells, *limits) for cells in found]


LOSS_KEYS = {
    "PROPOSAL_GENERATOR": (PROPOSAL_GENERATOR_REGISTRY, (CellRPN,), ("RPN_CLS_WEIGHT",)),
    "ROI_HEADS": (
        ROI_HEADS_REGISTRY,
        (CellROIHeads, CellCascadeROIHeads),
        ("BOX_CLS_WEIGHT", "CLASS_WEIGHTS"),
    ),
    "ROI_MASK_HEAD": (ROI_MASK_HEAD_REGISTRY, (CellMaskHead, CellPointRendMaskHead), ("MASK_WEIGHT", "MASK")),
}
"""Part of a model -> its registry, the classes that use keys of CELLSEG.LOSS, and these keys."""


def check_losses(cfg: CfgNode) -> None:
    """Raises CellSegError where a part of the model does not know what CELLSEG asks of it."""
    heads = cfg.MODEL.ROI_HEADS.NAME
    if cfg.CELLSEG.SHAPE_CLASSIFIER:
        check_shape_classifier(cfg)
    if cfg.CELLSEG.BOX_SIZE_INPUT and not issubclass(ROI_HEADS_REGISTRY.get(heads), ConfiguredBoxHead):
        known = "CellROIHeads or CellCascadeROIHeads"
        raise CellSegError(f"CELLSEG.BOX_SIZE_INPUT needs MODEL.ROI_HEADS.NAME {known}; {heads} does not know it")
    for part, (registry, classes, keys) in LOSS_KEYS.items():
        changed = [key for key in keys if cfg.CELLSEG.LOSS[key] not in (1.0, [], "bce")]
        name = cfg.MODEL[part].NAME
        if changed and not issubclass(registry.get(name), classes):
            known = " or ".join(one.__name__ for one in classes)
            raise CellSegError(f"CELLSEG.LOSS.{changed[0]} needs MODEL.{part}.NAME {known}; {name} does not know it")


def check_shape_classifier(cfg: CfgNode) -> None:
    """Raises CellSegError where CELLSEG.SHAPE_CLASSIFIER lacks the heads, the one mask or the one box that it needs."""
    model = cfg.MODEL
    needed = {
        "ROI_HEADS.NAME CellROIHeads": issubclass(ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME), CellROIHeads),
        "ROI_MASK_HEAD.NAME CellMaskHead": issubclass(
            ROI_MASK_HEAD_REGISTRY.get(model.ROI_MASK_HEAD.NAME), CellMaskHead
        ),
        "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True": model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK,
        "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True": model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG,
        "ROI_BOX_HEAD.USE_SIGMOID_CE False": not model.ROI_BOX_HEAD.USE_SIGMOID_CE,
    }
    for setting, is_there in needed.items():
        if not is_there:
            raise CellSegError(
                f"CELLSEG.SHAPE_CLASSIFIER needs MODEL.{setting}; give that, or CELLSEG.SHAPE_CLASSIFIER False"
            )
