"""torchvision's side: Mask R-CNN with ResNet-50 and FPN, from random weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from benchmarks.accuracy.job import PATCH, SEED, Budget, Job, LabelledImage, predict, write_result
from benchmarks.accuracy.thresholds import PLAIN, FindCells, best_least_score, label_map_finder
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.build import cpu_computes_bfloat16

BATCH = 4
LEARNING_RATE, WARM_UP = 0.01, 0.05
"""The highest rate, that of ``ablations/laptop_sgd``, and the share of the budget in which it rises to that."""

DEFAULT_SIZE = ((800,), 1333)
"""The smaller side that torchvision resizes images to unless it is told otherwise, and the most of the larger one."""

ANCHORS = ((8,), (16,), (32,), (64,), (128,))
"""As in this package; torchvision's begin at 32 px, where most nuclei fit none."""

MOST_DETECTIONS = 500
MASK_THRESHOLD = 0.5

Target = dict[str, torch.Tensor]


def build_model() -> MaskRCNN:
    """The model at the images' own scale, with this package's anchors and numbers of sampled boxes."""
    return maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        min_size=PATCH,
        max_size=PATCH,
        rpn_anchor_generator=AnchorGenerator(ANCHORS, ((0.5, 1.0, 2.0),) * len(ANCHORS)),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=500,
        box_batch_size_per_image=64,
        box_positive_fraction=0.5,
        box_detections_per_img=MOST_DETECTIONS,
    )


def crops(images: list[LabelledImage], rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, Target]]:
    """Random crops with random flips and quarter turns, without end; a crop without a cell is drawn again."""
    while True:
        image = images[rng.integers(len(images))]
        y, x = (rng.integers(side - PATCH + 1) for side in image.labels.shape)
        pixels, labels = (array[y : y + PATCH, x : x + PATCH] for array in (image.pixels, image.labels))
        turns, flip = rng.integers(4), 1 - 2 * int(rng.integers(2))
        pixels, labels = (np.rot90(array, turns)[::flip] for array in (pixels, labels))
        numbers = np.unique(labels)
        numbers = numbers[numbers > 0]
        if len(numbers):
            yield to_tensor(pixels), to_target(labels, numbers)


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255


def to_target(labels: NDArray[np.int32], numbers: NDArray[np.int32]) -> Target:
    """Boxes, masks and the one class of N cells."""
    masks = labels == numbers[:, None, None]
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    sides = [(flags.argmax(axis=1), flags.shape[1] - flags[:, ::-1].argmax(axis=1)) for flags in (columns, rows)]
    (x0, x1), (y0, y1) = sides
    boxes = torch.from_numpy(np.stack([x0, y0, x1, y1], axis=1)).float()
    ones = torch.ones(len(numbers), dtype=torch.int64)
    return {"boxes": boxes, "labels": ones, "masks": torch.from_numpy(masks.astype(np.uint8))}


def rate(share: float) -> float:
    """The learning rate at a share of the budget: up to the highest, and along a cosine to zero."""
    if share < WARM_UP:
        return LEARNING_RATE * (share + 0.001) / WARM_UP
    return LEARNING_RATE * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def train(model: MaskRCNN, images: list[LabelledImage], budget: Budget) -> None:
    """Trains until the time is up, in bfloat16 where the processor has it, as this package does."""
    stream = crops(images, np.random.default_rng(SEED))
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, rate(0.0), momentum=0.9, weight_decay=1e-4)
    going_on = True
    while going_on:
        inputs, targets = zip(*(next(stream) for _ in range(BATCH)))
        for group in optimizer.param_groups:
            group["lr"] = rate(budget.share)
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_computes_bfloat16()):
            loss = sum(model(list(inputs), list(targets)).values())
        print(f"step {budget.steps + 1}: loss {loss.item():.3f}", flush=True)
        if not loss.isfinite():
            raise CellSegError(f"torchvision's loss is not finite in step {budget.steps + 1}; lower LEARNING_RATE")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        going_on = budget.step()


def cells_finder(model: MaskRCNN, resize: bool) -> FindCells:
    """From an image's pixels to the cells that the model finds, at the image's scale or resized as is the default."""

    def find(pixels: NDArray[np.uint8]) -> CellInstances:
        smaller, larger = sorted(pixels.shape[:2])
        model.transform.min_size, model.transform.max_size = DEFAULT_SIZE if resize else ((smaller,), larger)
        with torch.inference_mode():
            (found,) = model([to_tensor(pixels)])
        masks = (found["masks"][:, 0] >= MASK_THRESHOLD).numpy()
        return to_cells(masks, {name: found[name].numpy() for name in ("boxes", "scores")})

    return find


def to_cells(masks: NDArray[np.bool_], found: dict[str, Any]) -> CellInstances:
    """(N, H, W) masks as cells."""
    count = len(masks)
    cells = CellInstances(
        masks.shape[1:],
        found["boxes"].reshape(-1, 4),
        found["scores"],
        np.zeros(count, np.int64),
        list(masks),
        np.zeros((count, 2), np.int64),
    )
    return cells.trimmed()


def main(job: Job) -> None:
    """Trains, predicts and writes the result."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    images = job.training_images()
    model = build_model()
    budget = Budget(job)
    train(model, images, budget)
    took = budget.training()
    model.eval()
    tests, validation = job.test_images(), job.validation_images()
    plain, full = (cells_finder(model, resize) for resize in (False, True))
    least = best_least_score(full, validation)
    seconds = {
        "plain": predict(job, "plain", tests, label_map_finder(plain, PLAIN)),
        "full": predict(job, "full", tests, label_map_finder(full, least)),
    }
    thresholds = {"plain": f"{PLAIN:.2f}", "full": f"{least:.2f}"}
    write_result(job, took, BATCH, seconds, thresholds, ("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
