"""What a training step costs by the number of cells: against torchvision's Mask R-CNN with a stack of masks."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.mapper import write_tile
from benchmarks.table import TIMING_COLUMNS, Table, number, ratio, timing_cells
from benchmarks.timing import peak_memory, time_in_turn
from benchmarks.train_sides import POSITIVE_SHARE, SIDES, Sample, Settings, Training, draw_samples


def report(settings: Settings) -> str:
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
    return "\n".join([f"On {device}.", "", *(table.markdown() for table in tables)])


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
        precision: precision in the forward pass; anything but float32 is automatic mixed precision.
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
        workers: the loader's processes.
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
