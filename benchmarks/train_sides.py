"""The two sides of the training benchmark: one step of this package and of torchvision, on the same drawn tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import cellseg_d2.modeling  # noqa: F401  (registers the RPN and the heads that the configs name)
from benchmarks.mapper import make_label_map_way, make_mask_list_way
from benchmarks.synthetic import dense_cells
from cellseg_d2.config import get_cfg
from cellseg_d2.data.mapper import instances_from_label_maps, to_model_input

CLASSES, SEED = 4, 42
RADIUS = (5.0, 9.0)
POSITIVE_SHARE = 0.25
"""The largest share of positives among the sampled boxes that both libraries come with."""

LEARNING_RATE = 1e-6
"""So little that every step of a run meets the same proposals; a step takes the same time at any rate."""

BRANCH_SCALE = 0.1
"""What the last norm of each residual branch multiplies by, on both sides.

Frozen statistics do not hold random weights' activations: over 33 blocks they would grow until proposals are infinite.
"""

Sample = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is measured, and on what.

    Attributes:
        config: this package's model.
        backbone: torchvision's name of the same backbone.
        side: the tiles' side length in pixels.
        counts: numbers of cells per tile, ascending.
        positives: RoIs an image of the comparison at an equal number of them; no more than the fewest cells.
        repeats: timed steps of each.
        device: ``cpu`` or ``cuda``.
        threads: torch's threads; None leaves them as they are.
        batch: tiles a step.
        boxes: sampled for the heads, an image; a quarter of them at most are positive.
    """

    config: str = "mask_rcnn_X_101_32x8d_FPN"
    backbone: str = "resnext101_32x8d"
    side: int = 512
    counts: tuple[int, ...] = (20, 200, 700)
    positives: int = 16
    repeats: int = 3
    device: str = "cpu"
    threads: int | None = None
    batch: int = 2
    boxes: int = 512


FULL = {"cpu": Settings(), "cuda": Settings(repeats=20, device="cuda")}
"""By device: on a GPU steps are short, and a few of them tell little."""

SHORT = Settings("mask_rcnn_R_50_FPN", "resnet50", side=192, counts=(20, 100), repeats=2, boxes=256)
"""A smaller model and smaller tiles: minutes less, and ratios that mean something."""

QUICK = Settings("mask_rcnn_R_50_FPN", "resnet50", side=64, counts=(4,), positives=2, repeats=1, boxes=32)
"""For a test of the benchmark itself; its figures mean nothing."""


def scale_branches(model: torch.nn.Module) -> None:
    """Multiplies each residual branch by :data:`BRANCH_SCALE`, in place."""
    for name, module in model.named_modules():
        if name.endswith((".conv3.norm", ".bn3")):
            module.weight.data.fill_(BRANCH_SCALE)


class Training(ABC):
    """A model with an optimizer, and what a batch of it is made of.

    Attributes:
        positives: RoIs that the last step trained the mask head on.
    """

    name: str

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(SEED)
        self.device = torch.device(settings.device)
        self.model = self._build(settings).train().to(self.device)
        self.positives = 0
        self.model.roi_heads.mask_head.register_forward_pre_hook(self._count)
        scale_branches(self.model)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
        for parameter in parameters:  # the optimizer's memory is there from the first step on, as in all later ones
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        # from 1 on: the usual first scales overflow, and the optimizer would be left out of these steps
        self.scaler = torch.cuda.amp.GradScaler(init_scale=1.0, enabled=self.device.type == "cuda")

    def _count(self, _: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        self.positives = len(arguments[0])

    @abstractmethod
    def _build(self, settings: Settings) -> torch.nn.Module: ...

    @staticmethod
    @abstractmethod
    def collate(samples: list[Sample]) -> Any:
        """A batch of Detectron2's model inputs, as this side wants it."""

    @staticmethod
    @abstractmethod
    def mapper() -> Callable[[Sample], Sample]:
        """This side's way from a dataset dict to a model input."""

    @abstractmethod
    def limit_positives(self, share: float) -> None:
        """Sets the largest share of positives among the sampled RoIs."""

    @abstractmethod
    def _losses(self, batch: Any) -> dict[str, torch.Tensor]: ...

    def step(self, batch: Any, precision: torch.dtype = torch.float32) -> None:
        """Trains on a batch, the way to the device included, and waits until that is done."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, precision, enabled=precision is not torch.float32):
            loss = sum(self._losses(batch).values())
        if precision is torch.float16:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class OurTraining(Training):
    """This package's model; ground truth is label maps."""

    name = "this package"

    def _build(self, settings: Settings) -> torch.nn.Module:
        cfg = get_cfg(settings.config, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", settings.device])
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = CLASSES
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.boxes
        cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = POSITIVE_SHARE
        return build_model(cfg)

    @staticmethod
    def collate(samples: list[Sample]) -> list[Sample]:
        """The samples as they are."""
        return samples

    @staticmethod
    def mapper() -> Callable[[Sample], Sample]:
        """:class:`cellseg_d2.data.mapper.CellDatasetMapper`."""
        return make_label_map_way()

    def limit_positives(self, share: float) -> None:
        """See :meth:`Training.limit_positives`."""
        self.model.roi_heads.positive_fraction = share

    def _losses(self, batch: list[Sample]) -> dict[str, torch.Tensor]:
        with EventStorage():
            return self.model(batch)


class TorchvisionTraining(Training):
    """torchvision's Mask R-CNN with this package's anchors, proposals and frozen layers; ground truth is stacks."""

    name = "torchvision"

    def _build(self, settings: Settings) -> torch.nn.Module:
        backbone = resnet_fpn_backbone(backbone_name=settings.backbone, weights=None, trainable_layers=3)
        cfg = get_cfg(settings.config)
        sizes = tuple(map(tuple, cfg.MODEL.ANCHOR_GENERATOR.SIZES))
        ratios = tuple(cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0])
        return MaskRCNN(
            backbone,
            num_classes=CLASSES + 1,
            min_size=settings.side,
            max_size=settings.side,
            rpn_anchor_generator=AnchorGenerator(sizes, (ratios,) * len(sizes)),
            rpn_pre_nms_top_n_train=cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN,
            rpn_post_nms_top_n_train=cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN,
            rpn_batch_size_per_image=cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE,
            box_batch_size_per_image=settings.boxes,
            box_positive_fraction=POSITIVE_SHARE,
        )

    @staticmethod
    def collate(samples: list[Sample]) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Images in [0, 1] and targets, with (N, H, W) uint8 masks."""
        batch = []
        for sample in samples:
            truth = sample["instances"]
            masks = truth.gt_masks
            stack = masks.tensor if isinstance(masks, BitMasks) else torch.stack(list(masks))
            labels = truth.gt_classes + 1  # 0 is its background
            target = {"boxes": truth.gt_boxes.tensor, "labels": labels, "masks": stack.view(torch.uint8)}
            batch.append((sample["image"] / 255, target))
        return batch

    @staticmethod
    def mapper() -> Callable[[Sample], Sample]:
        """One ``mask.decode`` a cell and albumentations with ``masks=``."""
        return make_mask_list_way()

    def limit_positives(self, share: float) -> None:
        """See :meth:`Training.limit_positives`."""
        self.model.roi_heads.fg_bg_sampler.positive_fraction = share

    def _losses(self, batch: list[tuple[torch.Tensor, dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
        images = [image.to(self.device) for image, _ in batch]
        targets = [{name: value.to(self.device) for name, value in target.items()} for _, target in batch]
        return self.model(images, targets)


SIDES: tuple[type[Training], ...] = (OurTraining, TorchvisionTraining)


def draw_samples(settings: Settings, count: int) -> list[Sample]:
    """A batch of different tiles, as Detectron2's models take them."""
    samples = []
    for place in range(settings.batch):
        image, maps = dense_cells(settings.side, count, CLASSES, RADIUS, SEED + place)
        layer_of = np.arange(count) % CLASSES
        instances = instances_from_label_maps(np.stack(maps, axis=-1), layer_of, layer_of)
        samples.append({"image": to_model_input(image, "BGR"), "instances": instances})
    return samples
