"""What a check finds, and the two sides that it compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from detectron2.config import CfgNode

from benchmarks.table import number
from cellseg_d2.config import config_names, get_cfg
from cellseg_d2.errors import one_line

CLASSES, SEED = 2, 1

SAMPLE_ALL = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100_000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 100_000,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    "MODEL.RPN.NMS_THRESH": 1.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100_000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100_000,
}
"""Nothing is drawn at random and nothing suppressed: a last digit must not decide what a loss is the mean of."""


@dataclass(frozen=True)
class Side:
    """Where something runs.

    Attributes:
        device: ``cpu`` or ``cuda``.
        overrides: config keys and values that this side alone has: differences that are to be found.
        onednn: whether models are compared with oneDNN's kernels, where the device is the CPU; without, with torch's.
    """

    device: str
    overrides: tuple[str, ...] = ()
    onednn: bool = True


@dataclass(frozen=True)
class Settings:
    """What is compared, and on what.

    Attributes:
        reference, device: the two sides.
        configs: whose forward passes and losses are compared.
        side: side length of their tiles in pixels.
        step_config: whose steps of mixed precision are tried.
        speed_config: whose speed and memory are measured.
        speed_side, speed_repeats: on tiles of this side length, with so many steps.
        images: test images of the sample that are predicted.
    """

    reference: Side = Side("cpu")
    device: Side = Side("cuda")
    configs: tuple[str, ...] = field(
        default_factory=lambda: tuple(name for name in config_names() if not name.startswith("Base"))
    )
    side: int = 64
    step_config: str = "mask_rcnn_X_101_32x8d_FPN"
    speed_config: str = "mask_rcnn_X_101_32x8d_FPN"
    speed_side: int = 512
    speed_repeats: int = 20
    images: int = 5


def small(reference: Side, device: Side) -> Settings:
    """Tiny sizes, to try the check itself; its speed means nothing."""
    models = ("ablations/laptop_sgd", "ablations/backbone_R50_laptop")
    sizes = Settings(reference, device, models, step_config=models[0], speed_config=models[0])
    return replace(sizes, speed_side=64, speed_repeats=1, images=1)


def model_cfg(name: str, side: Side) -> CfgNode:
    """A config with random weights on a side's device, of which nothing is drawn at random but the weights."""
    keys = {
        **{"MODEL.WEIGHTS": "", "MODEL.DEVICE": side.device},
        **{"MODEL.ROI_HEADS.NUM_CLASSES": CLASSES, "MODEL.POINT_HEAD.NUM_CLASSES": CLASSES, **SAMPLE_ALL},
    }
    return get_cfg(name, [*(str(word) for pair in keys.items() for word in pair), *side.overrides])


@dataclass(frozen=True)
class Finding:
    """A row of the table.

    Attributes:
        check: what was looked at.
        reference, device: what each side gave.
        difference, allowed: between them; empty where nothing was compared.
        ended: ``ok``, ``FAILED``, ``measured``, or why it was not run.
    """

    check: str
    reference: str = "-"
    device: str = "-"
    difference: str = "-"
    allowed: str = "-"
    ended: str = "ok"

    @property
    def failed(self) -> bool:
        """Whether the device does not do what it has to."""
        return self.ended.startswith("FAILED")

    def row(self) -> list[str]:
        """The cells of :data:`COLUMNS`."""
        cells = [self.check, self.reference, self.device, self.difference, self.allowed, self.ended]
        return [cell.replace("|", "/") for cell in cells]


COLUMNS = ("check", "CPU", "device", "difference", "allowed", "ended")


def compared(check: str, given: tuple[str, str], difference: float, allowed: float) -> Finding:
    """The finding of two values, ``given`` as text, whose difference is known; one that is no number is too large."""
    ended = "ok" if difference <= allowed else "FAILED"
    return Finding(check, *given, number(difference), number(allowed), ended)


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """The length of the difference of two tensors by the length of the reference."""
    value, reference = value.detach().double().cpu(), reference.detach().double().cpu()
    return float((value - reference).norm() / reference.norm().clamp(min=1e-30))


def guarded(check: str, work: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check, and a failed one where it ends with an exception: the next check is to be run."""
    try:
        yield from work()
    except Exception as error:  # a device that lacks an operator or memory raises anything
        yield Finding(check, ended=f"FAILED: {type(error).__name__}: {one_line(error)}")


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and products in float32: by default a GPU computes convolutions with TF32's 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def seconds(work: Callable[[], object], device: str) -> float:
    """How long a work takes, until the device is done with it."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
