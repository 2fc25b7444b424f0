"""What a training step costs by the number of cells: against torchvision's Mask R-CNN with a stack of masks."""

from __future__ import annotations

import gc
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch.utils.data import DataLoader
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import cellseg_d2.modeling  # noqa: F401  (registers the RPN and the heads that the configs name)
from cellseg_d2.benchmark.mapper import make_label_map_way, make_mask_list_way, write_tile
from cellseg_d2.benchmark.synthetic import dense_cells
from cellseg_d2.benchmark.table import TIMING_COLUMNS, Table, machine, number, ratio, timing_cells
from cellseg_d2.benchmark.timing import peak_memory, time_in_turn
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
        side: of the tiles, in pixels.
        counts: of cells in a tile, in growing order.
        positives: RoIs an image of the comparison at an equal number of them; no more than the fewest cells.
        repeats: timed steps of each.
        device: ``cpu`` or ``cuda``.
        threads: of torch; None leaves them as they are.
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

QUICK = Settings("mask_rcnn_R_50_FPN", "resnet50", side=64, counts=(4,), positives=2, repeats=1, boxes=32)
"""For a test of the benchmark itself; its figures mean nothing."""


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
        for name, module in self.model.named_modules():
            if name.endswith((".conv3.norm", ".bn3")):
                module.weight.fill_(BRANCH_SCALE)
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


def report(settings: Settings = Settings()) -> str:
    """The benchmark's tables as Markdown."""
    use_threads(settings)
    on_gpu = settings.device == "cuda"
    precisions = [torch.float32, torch.float16, torch.bfloat16] if on_gpu else [torch.float32]
    memory = {precision: measure_memory(settings, precision) for precision in precisions}
    trainings = [side(settings) for side in SIDES]
    tables = [compare_steps(trainings, settings, precision, memory[precision]) for precision in precisions]
    tables.append(compare_equal_positives(trainings, settings))
    if on_gpu:
        tables.append(compare_streams(trainings, settings, torch.float16))
    device = torch.cuda.get_device_name() if on_gpu else f"CPU with {torch.get_num_threads()} threads"
    about = f"On {device}, Detectron2 {detectron2.__version__}. {machine('torch', 'torchvision')}"
    return "\n".join([about, "", *(table.markdown() for table in tables)])


def use_threads(settings: Settings) -> None:
    """Sets torch's threads in this process."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)


def train_once(place: int, count: int, settings: Settings, precision: torch.dtype) -> None:
    """One step of one of :data:`SIDES` with its own model and batch."""
    use_threads(settings)
    side = SIDES[place]
    batch = side.collate(draw_samples(settings, count))
    side(settings).step(batch, precision)


def measure_memory(settings: Settings, precision: torch.dtype) -> dict[tuple[str, int], int]:
    """Bytes at a step's peak, by side and number of cells: of a fresh process less its imports, or of the GPU."""
    measured = {}
    for place, side in enumerate(SIDES):
        for count in settings.counts:
            work = (train_once, place, count, settings, precision)
            if settings.device == "cuda":
                measured[side.name, count] = _peak_on_gpu(*work)
            else:
                memory = peak_memory(*work)
                measured[side.name, count] = memory.peak - memory.before
    return measured


def _peak_on_gpu(work: Callable[..., object], *arguments: Any) -> int:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work(*arguments)
    return torch.cuda.max_memory_allocated() - before


def compare_steps(
    trainings: list[Training], settings: Settings, precision: torch.dtype, memory: dict[tuple[str, int], int]
) -> Table:
    """Time and peak memory of a step, each side with the positive RoIs that it samples by default.

    Args:
        trainings: one of each side.
        settings: what is measured.
        precision: of the forward pass; other than float32 it is automatic mixed precision.
        memory: from :func:`measure_memory`.
    """
    name = str(precision).removeprefix("torch.")
    rows = _time_steps(trainings, settings, precision, settings.repeats)
    keys = [(training.name, count) for count in settings.counts for training in trainings]
    for row, (side, count) in zip(rows, keys):
        place = settings.counts.index(count)
        fewer = memory[side, settings.counts[max(place - 1, 0)]]
        row += [number(memory[side, count] / 1e6), ratio(memory[side, count], fewer)]
    text = (
        f"Seconds of a step on {settings.batch} drawn tiles of {settings.side} x {settings.side} in {name}: the batch "
        "to the device, forward, losses, backward, SGD. Both sides: the same backbone from random weights with frozen "
        "statistics, stem and first stage frozen, the same anchors, proposals and sampled boxes, no resizing "
        "(torchvision interpolates its masks at a scale of 1 nevertheless). "
        f"{settings.repeats} steps of each in turn after a first one; ratios are of medians. Positive RoIs are those "
        "of the batch that the mask head is trained on. Memory is the peak of one step with model, optimizer and "
        f"batch{'' if settings.device == 'cuda' else ', of a fresh process, less that of its imports'}; its ratio is "
        "to the same side's row before."
    )
    columns = [*STEP_COLUMNS, "MB", "times fewer cells'"]
    return Table(f"Training step, {name}", text, columns, rows)


STEP_COLUMNS = ("side, cells", *TIMING_COLUMNS, "times its first", "times this package", "positive RoIs")
"""What :func:`_time_steps` fills."""


def _time_steps(trainings: list[Training], settings: Settings, precision: torch.dtype, repeats: int) -> list[list[str]]:
    positives: dict[str, int] = {}
    works = {}
    for count in settings.counts:
        samples = draw_samples(settings, count)
        for training in trainings:
            name = f"{training.name}, {count}"
            works[name] = partial(_step, training, training.collate(samples), precision, positives, name)
    timings = time_in_turn(works, repeats)
    rows = []
    for count in settings.counts:
        for training in trainings:
            name = f"{training.name}, {count}"
            timing, first = timings[name], timings[f"{training.name}, {settings.counts[0]}"]
            by_first = ratio(timing.median, first.median)
            by_ours = ratio(timing.median, timings[f"{trainings[0].name}, {count}"].median)
            rows.append([name, *timing_cells(timing), by_first, by_ours, str(positives[name])])
    return rows


def _step(training: Training, batch: Any, precision: torch.dtype, positives: dict[str, int], name: str) -> None:
    training.step(batch, precision)
    positives[name] = training.positives


def compare_equal_positives(trainings: list[Training], settings: Settings) -> Table:
    """Time of a step where every row trains the mask head on the same number of RoIs, whatever the number of cells."""
    for training in trainings:
        training.limit_positives(settings.positives / settings.boxes)
    repeats = max(settings.repeats - 1, 1)
    rows = _time_steps(trainings, settings, torch.float32, repeats)
    for training in trainings:
        training.limit_positives(POSITIVE_SHARE)
    text = (
        f"The same steps in float32 with at most {settings.positives} positive RoIs an image, which all these tiles "
        f"have: what is left is what the number of cells costs by itself. {repeats} of each."
    )
    return Table("Training step, equal positive RoIs", text, STEP_COLUMNS, rows)


def compare_streams(
    trainings: list[Training], settings: Settings, precision: torch.dtype, batches: int = 30, workers: int = 2
) -> Table:
    """Images per second from PNG tiles on, each side with its own mapper in a loader's workers.

    Args:
        trainings: one of each side.
        settings: what is measured.
        precision: as in :func:`compare_steps`.
        batches: timed ones, after as many as the workers hold ready at first.
        workers: of the loader.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in settings.counts:
            sample = write_tile(Path(folder), count)
            rates = [
                _images_per_second(training, sample, settings.batch, precision, batches, workers)
                for training in trainings
            ]
            for training, rate in zip(trainings, rates):
                rows.append([f"{training.name}, {count}", number(rate), ratio(rate, rates[0])])
    text = (
        f"Steps in {str(precision).removeprefix('torch.')} on tiles that a loader of {workers} workers reads from PNG "
        f"and COCO annotations and augments with the recipe: label maps against a list of masks. {batches} steps."
    )
    return Table("Training with a loader", text, ["side, cells", "images/s", "times this package"], rows)


def _images_per_second(
    training: Training, sample: Sample, size: int, precision: torch.dtype, batches: int, workers: int
) -> float:
    ahead = 2 * workers  # what the loader's workers hold ready by default
    stream = MappedTile(sample, training.mapper(), size * (batches + ahead))
    loader: Iterable[Any] = DataLoader(stream, size, num_workers=workers, collate_fn=training.collate)
    works = iter(loader)
    for _ in range(ahead):
        training.step(next(works), precision)
    timing = time_in_turn({"rest": lambda: [training.step(batch, precision) for batch in works]}, 1, warm_up=False)
    return size * batches / timing["rest"].best


class MappedTile(torch.utils.data.Dataset[Sample]):
    """One tile, mapped again and again."""

    def __init__(self, sample: Sample, mapper: Callable[[Sample], Sample], length: int) -> None:
        self.sample = sample
        self.mapper = mapper
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, _: int) -> Sample:
        return self.mapper(self.sample)
