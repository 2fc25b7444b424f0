"""Memory and images per second of training steps and of prediction, on the device alone."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu_check.findings import Finding, Settings, seconds
from benchmarks.table import number
from benchmarks.timing import resident_peak
from benchmarks.train_sides import OurTraining, Sample, draw_samples
from benchmarks.train_sides import Settings as StepSettings

CELLS = 100
"""In each tile, and at most so many are found in one: untrained heads find as many as they may."""

WARM_UP = 2
"""Steps before those that are timed, in which cuDNN chooses its ways."""

Work = Callable[[], object]


def measure(settings: Settings) -> Iterator[Finding]:
    """Training steps in each precision, and prediction; convolutions as the user's are, with TF32 where there is."""
    step = StepSettings(config=settings.speed_config, side=settings.speed_side, device=settings.device.device)
    batch = draw_samples(step, CELLS)
    works: dict[str, Callable[[], Work]] = {"training in float32": partial(_training, step, batch, torch.float32)}
    if step.device == "cuda":
        works["training in float16"] = partial(_training, step, batch, torch.float16)
        works["training in bfloat16"] = partial(_training, step, batch, torch.bfloat16)
    works["prediction in float32"] = partial(_prediction, step, batch)
    for name, build in works.items():
        text = _measured(build, step, settings.speed_repeats)
        yield Finding(f"{step.config}, {step.side} px, batch {step.batch}: {name}", device=text, ended="measured")


def _training(step: StepSettings, batch: list[Sample], precision: torch.dtype) -> Work:
    training = OurTraining(step)
    return lambda: training.step(batch, precision)


def _prediction(step: StepSettings, batch: list[Sample]) -> Work:
    model = OurTraining(step).model.eval()
    model.roi_heads.box_predictor.test_topk_per_image = CELLS

    def predict() -> None:
        with torch.no_grad():
            model.inference(batch, do_postprocess=False)

    return predict


def _measured(build: Callable[[], Work], step: StepSettings, repeats: int) -> str:
    gc.collect()
    on_gpu = step.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    work = build()
    for _ in range(WARM_UP if on_gpu else 0):
        work()
    taken = statistics.median(seconds(work, step.device) for _ in range(repeats))
    peak = torch.cuda.max_memory_reserved() if on_gpu else resident_peak()
    return f"{number(step.batch / taken)} images/s, {peak / 1e6:,.0f} MB {'of the GPU' if on_gpu else 'of the process'}"
