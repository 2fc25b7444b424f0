"""Where the time of a prediction goes, and what folding, groups of masks and OpenVINO gain; with random weights."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

import cellseg_d2
from benchmarks.scenes import SEED
from benchmarks.table import TIMING_COLUMNS, Table, number, ratio, timing_cells
from benchmarks.timing import peak_memory, time_in_turn
from cellseg_d2.config import get_cfg
from cellseg_d2.inference.paste import to_cell_instances
from cellseg_d2.inference.prepare import prepare
from cellseg_d2.modeling import mask_chunks
from cellseg_d2.weights.checkpoint import CellCheckpointer

POINT_REND = "pointrend_rcnn_X_101_32x8d_FPN"
STAGES = ("backbone", "FPN", "RPN", "box head", "mask head", "post-processing")
TILES = 4
"""In one call of the model before it was made faster: CELLSEG.INFERENCE.BATCH_SIZE. Now a CPU takes them one by one."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        repeats: timed runs of each way.
        models: names of configs.
        counts: detections in a tile.
        side: side length of a tile in pixels.
        masks: how many masks PointRend predicts when its memory is measured.
        backends: values of CELLSEG.INFERENCE.BACKEND.
        cpu_time: measure the CPU's time, not the clock's: for one thread on a machine that others keep busy.
    """

    repeats: int = 3
    models: tuple[str, ...] = ("mask_rcnn_lite0_FPN", "mask_rcnn_R_50_FPN", "mask_rcnn_X_101_32x8d_FPN")
    counts: tuple[int, ...] = (50, 400)
    side: int = 512
    masks: int = 1000
    backends: tuple[str, ...] = ("torch", "openvino")
    cpu_time: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """What tells the seconds."""
        return time.process_time if self.cpu_time else time.perf_counter


SHORT = Settings(repeats=2, models=("mask_rcnn_lite0_FPN",))
QUICK = Settings(repeats=1, models=("mask_rcnn_lite0_FPN",), counts=(5,), side=64, masks=3, backends=("torch",))


def report(settings: Settings) -> str:
    """The tables as Markdown."""
    shares, ways = [], []
    for name in settings.models:
        for count in settings.counts:
            own_shares, own_ways = measure(name, count, settings)
            shares += own_shares
            ways += own_ways
    seconds = "of the CPU" if settings.cpu_time else "of the clock"
    threads = torch.get_num_threads()
    drawn = (
        f"A drawn tile of {settings.side} x {settings.side} px, random weights (the laptop model's backbone has "
        f"ImageNet's), a fixed number of detections, {threads} thread{'s' if threads > 1 else ''}, seconds {seconds} "
        "a tile."
    )
    tables = [
        Table(
            "Where the time of a prediction goes",
            f"{drawn} Shares of all runs.",
            ["model, detections: way", *(f"{stage} %" for stage in STAGES)],
            shares,
        ),
        Table(
            "Ways to predict",
            f"{drawn} Before: {TILES} tiles in a call, masks all at once, nothing folded. {settings.repeats} runs of "
            "each in turn; ratios are of medians.",
            ["model, detections: way", *TIMING_COLUMNS, "times as fast"],
            ways,
        ),
    ]
    return "\n".join(table.markdown() for table in tables)


def measure(name: str, count: int, settings: Settings) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of both tables for one model and number of detections."""
    model, _ = drawn_model(name, count, settings.side)
    images = [drawn_tile(settings.side, seed) for seed in range(TILES)]
    works: dict[str, Callable[[], object]] = {"before": partial(_all_at_once, model, images)}
    models = {"before": model}
    for backend in settings.backends:
        ready, own = drawn_model(name, count, settings.side)
        own.CELLSEG.INFERENCE.BACKEND = backend
        prepare(ready, own)
        models[backend] = ready
        works[backend] = partial(_one_by_one, ready, images)
    with ExitStack() as stack:
        seconds = {way: stack.enter_context(_stages(models[way], settings.clock)) for way in works}
        watched = {way: _timed(work, seconds[way], "whole", settings.clock) for way, work in works.items()}
        timings = time_in_turn(watched, settings.repeats, clock=settings.clock)
    base = timings["before"].median
    ways, shares = [], []
    for way, timing in timings.items():
        label = f"{name}, {count}: {way}"
        ways.append([label, *timing_cells(timing.divided(TILES)), ratio(base, timing.median)])
        shares.append([label, *_shares(seconds[way])])
    return shares, ways


def _shares(seconds: Mapping[str, float]) -> list[str]:
    """The cells of :data:`STAGES`; OpenVINO's backbone contains the FPN."""
    parts = {stage: seconds[stage] for stage in STAGES if stage in seconds}
    if "bottom up" in seconds:
        parts["backbone"], parts["FPN"] = seconds["bottom up"], seconds["backbone"] - seconds["bottom up"]
    parts["post-processing"] = seconds["whole"] - sum(parts.values())
    return [f"{100 * parts[stage] / seconds['whole']:.1f}" if stage in parts else "-" for stage in STAGES]


def drawn_tile(side: int, seed: int = SEED) -> dict[str, Any]:
    """A model's input: smooth spots with some noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, side // 8, side // 8)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, 10, (3, side, side)).astype(np.float32))
    image = F.interpolate(coarse, (side, side), mode="bilinear")[0] + noise
    return {"image": image.clamp(0, 255).byte(), "height": side, "width": side}


def drawn_model(name: str, count: int, side: int, overrides: Sequence[str] = ()) -> tuple[nn.Module, CfgNode]:
    """A model that finds ``count`` cells in any tile, and its config without weights.

    Where there are no weights, frozen batch statistics are those of a drawn tile: with others, features would vanish or
    overflow, and a CPU computes such numbers at another speed.
    """
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.ROI_HEADS.NUM_CLASSES": "4",
        "MODEL.POINT_HEAD.NUM_CLASSES": "4",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
        "TEST.DETECTIONS_PER_IMAGE": str(count),
    }
    cellseg_d2.setup()
    cfg = get_cfg(name, [*(text for option in options.items() for text in option), *overrides])
    torch.manual_seed(SEED)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS.startswith("package://"):
        CellCheckpointer(model, cfg, strict=False).load(cfg.MODEL.WEIGHTS)
    else:
        norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
        hooks = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
        with torch.no_grad():
            model.backbone(model.preprocess_image([drawn_tile(side)]).tensor)
        for hook in hooks:
            hook.remove()
    cfg.MODEL.WEIGHTS = ""
    return model, cfg


def _take_statistics(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)).clamp(min=1e-4))


@torch.inference_mode()
def _one_by_one(model: nn.Module, images: list[dict[str, Any]]) -> None:
    for image in images:
        for found in model.inference([image], do_postprocess=False):
            to_cell_instances(found, 0.5)


@torch.inference_mode()
def _all_at_once(model: nn.Module, images: list[dict[str, Any]]) -> None:
    step = mask_chunks.CHUNK["cpu"]
    mask_chunks.CHUNK["cpu"] = 10**6
    try:
        for found in model.inference(images, do_postprocess=False):
            to_cell_instances(found, 0.5)
    finally:
        mask_chunks.CHUNK["cpu"] = step


@contextmanager
def _stages(model: nn.Module, clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Sums the seconds of a model's parts while the context lasts, warming up included."""
    seconds: dict[str, float] = defaultdict(float)
    heads, backbone = model.roi_heads, model.backbone
    watched = [
        (backbone, "forward", "backbone"),
        (model.proposal_generator, "forward", "RPN"),
        (heads, "_forward_box", "box head"),
        (heads, "forward_with_given_boxes", "mask head"),
    ]
    if hasattr(backbone, "bottom_up"):
        watched.append((backbone.bottom_up, "forward", "bottom up"))
    for module, method, name in watched:
        setattr(module, method, _timed(getattr(module, method), seconds, name, clock))
    try:
        yield seconds
    finally:
        for module, method, _ in watched:
            delattr(module, method)  # the class's shows again


def _timed(work: Callable[..., Any], seconds: dict[str, float], name: str, clock: Callable[[], float]) -> Any:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = clock()
        result = work(*args, **kwargs)
        seconds[name] += clock() - started
        return result

    return timed


def report_memory(settings: Settings) -> str:
    """The memory of PointRend's masks as a table."""
    memory = peak_memory(draw_masks, settings.masks, settings.side)
    text = (
        f"Masks of {POINT_REND}'s heads for boxes of one tile of {settings.side} px, in groups of "
        f"{mask_chunks.CHUNK['cpu']}: the peak of a fresh process, and what it had when all was imported."
    )
    row = [f"{settings.masks:,} masks", number(memory.peak / 1e6), number(memory.before / 1e6)]
    table = Table("Memory of PointRend", text, ["work", "peak MB", "before MB"], [row])
    return table.markdown()


@torch.inference_mode()
def draw_masks(count: int, side: int) -> None:
    """Masks for drawn boxes and features, by PointRend's head."""
    model, _ = drawn_model(POINT_REND, count, side)
    features = {f"p{level}": torch.randn(1, 256, side // 2**level, side // 2**level) for level in range(2, 7)}
    corner = torch.rand(count, 2) * side / 2
    boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2) * side / 8], dim=1)
    classes = torch.zeros(count, dtype=torch.int64)
    found = Instances((side, side), pred_boxes=Boxes(boxes), pred_classes=classes, scores=torch.ones(count))
    model.roi_heads.forward_with_given_boxes(features, [found])
