"""A folder of images -> ``test-results.json`` and the files that people open next; by several processes, resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm

from cellseg_d2.cells.coco import to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.coco_results import ResultsWriter, check_results, zip_results
from cellseg_d2.export.formats import COCO, DEFAULT_FORMATS, NEEDS_PIXELS, WRITERS, ImageCells
from cellseg_d2.files import whole_file, write_json
from cellseg_d2.images.formats import image_header
from cellseg_d2.images.listing import InputImage
from cellseg_d2.images.regions import ImageRegions
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.progress import track

logger = logging.getLogger(__name__)

RESULTS_FILE = "test-results.json"
IDS_FILE = "image_ids.json"

PARTS_FOLDER = ".parts"
"""Holds the results of each image that is done, until all are."""

SHARED_TILES = 64
"""An image of more tiles than this for each process is shared by all processes, a smaller one is one process's."""

LARGEST_PICTURE = 10**8
"""Pixels of an image of which overlays are drawn and intensities measured, which needs all of it in memory."""


@dataclass(frozen=True)
class Output:
    """Where the results go, and which.

    Attributes:
        folder: the folder for all files.
        formats: some of :data:`cellseg_d2.export.formats.FORMATS`.
        min_score: the least score in all formats but ``coco``. AP needs the many cells with low scores; people do not.
            None for the checkpoint's, see :meth:`WholeImagePredictor.least_scores`.
        min_score_of_class: the same for single classes, by name.
        pack: also make ``test-results.zip``.
        check: read ``test-results.json`` back with pycocotools.

    Raises:
        CellSegError: a score that is none.
    """

    folder: Path
    formats: Collection[str] = DEFAULT_FORMATS
    min_score: float | None = None
    min_score_of_class: Mapping[str, float] = field(default_factory=dict)
    pack: bool = False
    check: bool = True

    def __post_init__(self) -> None:
        for score in (self.min_score, *self.min_score_of_class.values()):
            if score is not None and not 0 <= score <= 1:
                raise CellSegError(f"the least score of a cell is from 0 to 1, not {score}")


def predict_images(predictor: WholeImagePredictor, images: Sequence[InputImage], output: Output) -> dict[str, int]:
    """Predicts images and writes what is asked for.

    - ``coco``: ``test-results.json``, which appears whole or not at all, and ``image_ids.json`` with the id, name and
      size of each image;
    - ``geojson/<name>.geojson``, ``rois/<name>.zip``, ``labels/<name>/*.tif``, ``csv/<name>.csv`` and
      ``overlays/<name>.png``, see the writers in :mod:`cellseg_d2.export`.

    A run that was stopped is taken up: images that are done are not predicted again, as long as they, config, weights
    and output are the same. In several processes each predicts its share of the images, and of large images a share of
    the tiles; all of them call this.

    Returns:
        Class name -> number of cells in ``coco``, or without it in the others; empty on all processes but the first.

    Raises:
        CellSegError: an image cannot be read, or a file cannot be written.
    """
    parts = output.folder / PARTS_FOLDER
    if comm.is_main_process():
        _keep_parts_of(parts, _fingerprint(predictor.cfg, output))
    comm.synchronize()
    waiting = [image for image in images if not _part(parts, image).is_file()]
    if len(waiting) < len(images):
        logger.info("%d of %d images are done already", len(images) - len(waiting), len(images))
    comm.synchronize()  # all have looked before the first new part appears
    shared, single = _share(predictor, waiting)
    for image in shared:
        with image.open(predictor.cfg.CELLSEG.INTENSITY_RULE) as regions:
            own = list(predictor.pieces(regions, comm.get_rank(), comm.get_world_size()))
            comm.synchronize()  # waits as long as the launch allows, which gathering does not
            gathered = comm.gather(own)
            if comm.is_main_process():
                cells = predictor.join([piece for pieces in gathered for piece in pieces], regions.size)
                _write(predictor, cells, image, regions, output)
    for image in track(single, len(single), "prediction") if comm.is_main_process() else single:
        with image.open(predictor.cfg.CELLSEG.INTENSITY_RULE) as regions:
            _write(predictor, predictor.predict(regions), image, regions, output)
    comm.synchronize()
    return _finish(images, predictor.class_names, output) if comm.is_main_process() else {}


def _fingerprint(cfg: CfgNode, output: Output) -> str:
    """Differs where a part of an earlier run would not be a part of this one."""
    weights = Path(cfg.MODEL.WEIGHTS)
    state = weights.stat() if weights.is_file() else None
    known = [cfg.dump(), sorted(output.formats), output.min_score, sorted(output.min_score_of_class.items())]
    known += [state.st_size, state.st_mtime_ns] if state else []
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _keep_parts_of(parts: Path, fingerprint: str) -> None:
    """Makes the folder of parts, and empties it of those of another run."""
    settings = parts / "settings"
    if parts.is_dir() and not (settings.is_file() and settings.read_text(encoding="utf-8") == fingerprint):
        shutil.rmtree(parts)
    try:
        parts.mkdir(parents=True, exist_ok=True)
        settings.write_text(fingerprint, encoding="utf-8")
    except OSError as error:
        raise CellSegError(f"{parts.parent}: cannot be written to ({error.strerror}); give another --output") from error


def _part(parts: Path, image: InputImage) -> Path:
    """Where the results of an image lie until all are done: of this file, as it is now, under this id."""
    state = image.path.stat()
    source = f"{image.path.absolute()} {state.st_size} {state.st_mtime_ns}"
    return parts / f"{image.id}_{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"


def _share(
    predictor: WholeImagePredictor, images: Sequence[InputImage]
) -> tuple[Sequence[InputImage], Sequence[InputImage]]:
    """Images that all processes predict together, and this process's share of the others."""
    processes = comm.get_world_size()
    if processes == 1:
        return [], images
    looked_at = {}
    for number in range(comm.get_rank(), len(images), processes):
        tiles = len(predictor.grid(image_header(images[number].path)))  # no pixel is decoded for that
        looked_at[number] = tiles > SHARED_TILES * processes
    known = {number: is_large for own in comm.all_gather(looked_at) for number, is_large in own.items()}
    large = [known[number] for number in range(len(images))]
    single = [image for image, is_large in zip(images, large) if not is_large]
    own = [single[number] for number in InferenceSampler(len(single))] if single else []
    return [image for image, is_large in zip(images, large) if is_large], own


def _write(
    predictor: WholeImagePredictor, cells: CellInstances, image: InputImage, regions: ImageRegions, output: Output
) -> None:
    """Writes all files of one image, its part last: an image with a part is done."""
    sure = predictor.confident(cells, output.min_score, output.min_score_of_class)
    predictor.warn_of_scale(regions, image.path)
    height, width = regions.size
    pixels = None
    if set(NEEDS_PIXELS) & set(output.formats):
        if height * width <= LARGEST_PICTURE:
            pixels = regions.read((0, 0, width, height))
        else:
            logger.warning("%s: is too large for an overlay and for mean intensities", image.path)
    names, pixel_size = predictor.class_names, predictor.pixel_size_of(regions)
    shown = ImageCells(output.folder, image.name, sure, names, pixels, pixel_size)
    for name, write in WRITERS.items():
        if name in output.formats:
            write(shown)
    entry = {"file_name": image.path.name, "id": image.id, "height": height, "width": width}
    with whole_file(_part(output.folder / PARTS_FOLDER, image)) as partial:
        results = to_results(cells, image.id) if COCO in output.formats else []
        counts = Counter((cells if results else sure).classes.tolist())
        partial.write_text(json.dumps({"image": entry, "counts": counts, "results": results}), encoding="utf-8")


def _finish(images: Sequence[InputImage], names: Sequence[str], output: Output) -> dict[str, int]:
    """Puts the parts together, and takes them away."""
    entries: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    unchecked = output.folder / f"{RESULTS_FILE}.unchecked"
    with ResultsWriter.open(unchecked) as writer:
        for image in images:
            part = json.loads(_part(output.folder / PARTS_FOLDER, image).read_text(encoding="utf-8"))
            writer.append(part["results"])
            entries.append(part["image"])
            counts.update({names[int(number)]: count for number, count in part["counts"].items()})
    if COCO in output.formats:
        if output.check:
            sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in entries}
            check_results(unchecked, sizes, len(names))
        unchecked.replace(output.folder / RESULTS_FILE)
        write_json(output.folder / IDS_FILE, entries, indent=1)
        if output.pack:
            zip_results(output.folder / RESULTS_FILE)
    else:
        unchecked.unlink()
    shutil.rmtree(output.folder / PARTS_FOLDER)
    return dict(counts)
