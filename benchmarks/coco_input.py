"""What reading and checking COCO files costs, against JSON alone and against pycocotools, which checks nothing."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pycocotools.coco import COCO

from benchmarks.evaluate import draw
from benchmarks.table import TIMING_COLUMNS, Table, ratio, timing_cells
from benchmarks.timing import time_in_turn
from cellseg_d2.cells.coco import dataset
from cellseg_d2.cells.coco_input import read_pair


def report(repeats: int = 3, images: int = 250, cells: int = 800) -> str:
    """The benchmark's table as Markdown."""
    return benchmark_reading(repeats, images, cells).markdown()


def benchmark_reading(repeats: int, images: int, cells: int) -> Table:
    """Times reading a ground truth and results of as many records.

    Args:
        repeats: timed runs of each work.
        images: how many; all show the same cells.
        cells: cells per image, and results.
    """
    with tempfile.TemporaryDirectory() as folder:
        truth, results = write(Path(folder), images, cells)
        size = (truth.stat().st_size + results.stat().st_size) / 2**20
        works: dict[str, Callable[[], object]] = {
            "json.load": partial(read_json_alone, truth, results),
            "pycocotools": partial(read_with_pycocotools, truth, results),
            "this loader": partial(read_pair, truth, results),
        }
        timings = time_in_turn(works, repeats, warm_up=False)
    base = timings["json.load"].median
    rows = [[name, *timing_cells(timing), ratio(timing.median, base)] for name, timing in timings.items()]
    text = (
        f"Ground truth of {images * cells:,} cells and as many results, all with RLE masks, in two files of "
        f"{size:.0f} MiB together. Ratios are of medians."
    )
    return Table("Reading COCO files", text, ["work", *TIMING_COLUMNS, "times json.load"], rows)


def write(folder: Path, images: int, cells: int) -> tuple[Path, Path]:
    """The files of a ground truth and of results; the one image that is drawn is there many times."""
    drawn, found = draw(1, cells, cells)
    records = [{**drawn["images"][0], "id": number, "file_name": f"{number}.png"} for number in range(1, images + 1)]
    annotations = [{key: value for key, value in cell.items() if key != "id"} for cell in drawn["annotations"]]
    names = [category["name"] for category in drawn["categories"]]
    truth, results = folder / "gt.json", folder / "results.json"
    truth.write_text(json.dumps(dataset(records, [annotations] * images, names)), encoding="utf-8")
    copies = [{**result, "image_id": number} for number in range(1, images + 1) for result in found]
    results.write_text(json.dumps(copies), encoding="utf-8")
    return truth, results


def read_json_alone(truth: Path, results: Path) -> None:
    """What no reader does without."""
    for path in (truth, results):
        with path.open(encoding="utf-8") as file:
            json.load(file)


def read_with_pycocotools(truth: Path, results: Path) -> None:
    """As every evaluation with it begins."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        known.dataset.setdefault("info", {})
        known.loadRes(str(results))
