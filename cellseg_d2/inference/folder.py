"""Predicts a folder of images, in one or several processes, and writes the results; an interrupted run can continue."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm

from cellseg_d2.cells.coco import to_results
from cellseg_d2.cells.image_names import IDS_FILE
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.selection import check_least_scores
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.export.coco_dataset import DatasetWriter, to_annotations
from cellseg_d2.export.coco_results import ResultsWriter, check_results, zip_results
from cellseg_d2.export.counts import COUNTS_FILE, ImageCounts, write_counts
from cellseg_d2.export.formats import (
    COCO,
    COCO_DATASET,
    DEFAULT_FORMATS,
    DETECTION,
    ImageCells,
    pixels_for,
    write_image,
)
from cellseg_d2.export.record import RESULTS_FILE, SKIPPED_FILE, Record
from cellseg_d2.files import whole_file, write_json
from cellseg_d2.images.formats import image_header
from cellseg_d2.images.listing import InputImage
from cellseg_d2.images.regions import ImageRegions
from cellseg_d2.inference.predictor import Piece, WholeImagePredictor
from cellseg_d2.inference.region import Region, read_region
from cellseg_d2.progress import track

logger = logging.getLogger(__name__)

T = TypeVar("T")

PARTS_FOLDER = ".parts"
"""The folder for the results of single images, until all images are done."""

PARTS_FORM = 4
"""Parts of another form, of an earlier version, are not taken up."""

SETTINGS_FILE = "settings"
"""In that folder: what the settings of the run are known by."""

SHARED_TILES = 64
"""An image of more tiles than this for each process is shared by all processes, a smaller one is one process's."""


@dataclass(frozen=True)
class Output:
    """The results to write, and where.

    Attributes:
        folder: the folder for all files.
        formats: some of :data:`cellseg_d2.export.formats.FORMATS`.
        min_score: the least score in all formats but ``coco``. AP needs the many cells with low scores; people do not.
            None for the checkpoint's, see :meth:`WholeImagePredictor.selection`.
        min_score_of_class: the same for single classes, by name.
        pack: also make ``test-results.zip``.
        check: read ``test-results.json`` back with pycocotools.
        skip_errors: go on where an image cannot be read, and list it in ``skipped.json``.
        object_type: what cells are in QuPath, of :data:`cellseg_d2.export.formats.OBJECT_TYPES`.

    Raises:
        CellSegError: a score that is none.
    """

    folder: Path
    formats: Collection[str] = DEFAULT_FORMATS
    min_score: float | None = None
    min_score_of_class: Mapping[str, float] = field(default_factory=dict)
    pack: bool = False
    check: bool = True
    skip_errors: bool = False
    object_type: str = DETECTION

    def __post_init__(self) -> None:
        known = [] if self.min_score is None else [self.min_score]
        check_least_scores([*known, *self.min_score_of_class.values()])


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why; ``id`` is the one that its results would have."""

    file_name: str
    id: int
    reason: str


@dataclass(frozen=True)
class Summary:
    """What a prediction found.

    Attributes:
        images: how many were predicted.
        counts: class name -> number of cells that people see, the same as in all files but ``test-results.json``.
        results: number of results in ``test-results.json``, which has cells of all scores; None without it.
        skipped: images that could not be read.
        region_percent: how much of all images together their regions are; None where all of them was predicted.
    """

    images: int
    counts: dict[str, int]
    results: int | None
    skipped: list[Skipped]
    region_percent: float | None = None


@dataclass(frozen=True)
class Opened(Generic[T]):
    """An image that is open, its region, and what was found in it."""

    pixels: ImageRegions
    region: Region | None
    found: T


def predict_images(predictor: WholeImagePredictor, images: Sequence[InputImage], output: Output) -> Summary | None:
    """Predicts images and writes what is asked for.

    - always ``counts.csv``, the cells of each image and class, and ``prediction.json``, see
      :mod:`cellseg_d2.export.record`;
    - ``coco``: ``test-results.json``, which appears whole or not at all, and ``image_ids.json`` with the id, name and
      size of each image;
    - ``coco-dataset``: ``annotations/instances_default.json``;
    - ``geojson/<name>.geojson``, ``rois/<name>.zip``, ``labels/<name>/*.tif``, ``labelme/<name>.json``,
      ``cellpose/<class>/<name>_seg.npy``, ``csv/<name>.csv`` and ``overlays/<name>.png``, see the writers in
      :mod:`cellseg_d2.export`.

    Of an image with a region only the cells in it are predicted, see :mod:`.region`.

    The same run can continue after an interruption: finished images are not predicted again if image, region, config,
    weights and output are the same. With several processes, all call this function; each predicts a share of the
    images, and a share of the tiles of large images.

    Returns:
        What was found; None on all processes but the first.

    Raises:
        CellSegError: an image cannot be read, with ``skip_errors`` none can, or a file cannot be written.
    """
    parts = output.folder / PARTS_FOLDER
    if comm.is_main_process():
        _keep_parts_of(parts, _fingerprint(predictor.cfg, output, any(image.region for image in images)))
    comm.synchronize()
    waiting = [image for image in images if not _part(parts, image).is_file()]
    if len(waiting) < len(images):
        logger.info("%d of %d images are done already", len(images) - len(waiting), len(images))
    comm.synchronize()  # all have looked before the first new part appears
    skipped: list[Skipped] = []
    shared, single = _share(predictor, waiting, output)

    def predict_share(pixels: ImageRegions, region: Region | None) -> list[Piece]:
        return list(predictor.pieces(pixels, region, comm.get_rank(), comm.get_world_size()))

    for image in shared:
        with ExitStack() as stack:
            opened = _try(predictor, image, output, stack, predict_share)
            comm.synchronize()  # waits as long as the launch allows, which gathering does not
            gathered = comm.gather(opened if isinstance(opened, Skipped) else opened.found)
            unread = [found for found in gathered if isinstance(found, Skipped)]
            skipped += unread[:1]
            if comm.is_main_process() and not unread and not isinstance(opened, Skipped):
                pieces = [piece for pieces in gathered for piece in pieces]
                cells = predictor.join(pieces, opened.pixels.size, opened.region)
                _write(predictor, Opened(opened.pixels, opened.region, cells), image, output)
    for image in track(single, len(single), "prediction") if comm.is_main_process() else single:
        with ExitStack() as stack:
            predicted = _try(predictor, image, output, stack, predictor.predict)
            if isinstance(predicted, Skipped):
                skipped.append(predicted)
            else:
                _write(predictor, predicted, image, output)
    comm.synchronize()
    unread = [image for part in comm.gather(skipped) for image in part]
    return _finish(images, predictor, output, unread) if comm.is_main_process() else None


def _try(
    predictor: WholeImagePredictor,
    image: InputImage,
    output: Output,
    stack: ExitStack,
    find: Callable[[ImageRegions, Region | None], T],
) -> Opened[T] | Skipped:
    """An image, open for as long as the stack is, its region, and what is found in it; or that it was skipped."""
    try:
        pixels = stack.enter_context(image.open(predictor.pixel_rule))
        region = read_region(image.region, pixels.size) if image.region else None
        return Opened(pixels, region, find(pixels, region))
    except (CellSegError, OSError) as error:
        if not output.skip_errors:
            raise
        return Skipped(image.file_name, image.id, one_line(error))


def _fingerprint(cfg: CfgNode, output: Output, has_regions: bool) -> str:
    """A fingerprint of the run; it differs from an earlier run's if that run's parts must not be used."""
    weights = Path(cfg.MODEL.WEIGHTS)
    state = weights.stat() if weights.is_file() else None
    known = [
        PARTS_FORM,
        cfg.dump(),
        sorted(output.formats),
        output.min_score,
        sorted(output.min_score_of_class.items()),
        output.object_type,
        has_regions,
    ]
    known += [state.st_size, state.st_mtime_ns] if state else []
    return hashlib.sha256(repr(known).encode()).hexdigest()


def is_unfinished(folder: Path) -> bool:
    """Whether a prediction into this folder was stopped, so that a run of the same settings goes on with it."""
    return (folder / PARTS_FOLDER / SETTINGS_FILE).is_file()


def _keep_parts_of(parts: Path, fingerprint: str) -> None:
    """Makes the folder of parts.

    Raises:
        CellSegError: it holds those of another run, or something else, or cannot be written.
    """
    settings = parts / SETTINGS_FILE
    known = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    if known != fingerprint and parts.is_dir() and any(path != settings for path in parts.iterdir()):
        if not known:
            raise CellSegError(f"{parts}: is no part of a prediction; remove it, or give another --output")
        raise CellSegError(
            f"{parts.parent}: holds an unfinished prediction of other settings or weights; repeat its command to go on "
            "with it, give another --output, or --overwrite to replace it"
        )
    try:
        parts.mkdir(parents=True, exist_ok=True)
        settings.write_text(fingerprint, encoding="utf-8")
    except OSError as error:
        raise CellSegError(f"{parts.parent}: cannot be written to ({error.strerror}); give another --output") from error


def _part(parts: Path, image: InputImage) -> Path:
    """Where the results of an image lie until all are done: of its file and region, as they are now, under this id."""
    source = " ".join(_state(path) for path in (image.path, image.region) if path)
    return parts / f"{image.id}_{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:  # it is gone; reading it says so
        return str(path.absolute())
    return f"{path.absolute()} {state.st_size} {state.st_mtime_ns}"


def _share(
    predictor: WholeImagePredictor, images: Sequence[InputImage], output: Output
) -> tuple[Sequence[InputImage], Sequence[InputImage]]:
    """Images that all processes predict together, and this process's share of the others."""
    processes = comm.get_world_size()
    if processes == 1:
        return [], images
    looked_at = {}
    for number in range(comm.get_rank(), len(images), processes):
        try:
            tiles = len(predictor.grid(image_header(images[number].path)))  # no pixel is decoded for that
        except (CellSegError, OSError):
            if not output.skip_errors:
                raise
            tiles = 0  # the process that gets it skips it
        looked_at[number] = tiles > SHARED_TILES * processes
    known = {number: is_large for part in comm.all_gather(looked_at) for number, is_large in part.items()}
    large = [known[number] for number in range(len(images))]
    single = [image for image, is_large in zip(images, large) if not is_large]
    mine = [single[number] for number in InferenceSampler(len(single))] if single else []
    return [image for image, is_large in zip(images, large) if is_large], mine


def _write(predictor: WholeImagePredictor, opened: Opened[CellInstances], image: InputImage, output: Output) -> None:
    """Writes all files of one image, its part last: an image with a part is done."""
    sure = predictor.confident(opened.found, output.min_score, output.min_score_of_class)
    predictor.warn_of_scale(opened.pixels, image.path)
    names, pixel_size = predictor.class_names, predictor.pixel_size_of(opened.pixels)
    pixels = pixels_for(output.formats, opened.pixels, image.path)
    shown = ImageCells(
        *(output.folder, image.name, sure, names, pixels, pixel_size, image.file_name),
        *(image.path, output.object_type, predictor.channels),
    )
    write_image(shown, output.formats)
    height, width = opened.pixels.size
    part = {
        "image": {"file_name": image.file_name, "id": image.id, "height": height, "width": width},
        "counts": asdict(ImageCounts.of(image.file_name, sure, len(names), pixel_size)),
        "results": to_results(opened.found, image.id) if COCO in output.formats else [],
        "annotations": to_annotations(sure) if COCO_DATASET in output.formats else [],
        "region": opened.region.share if opened.region else None,
    }
    with whole_file(_part(output.folder / PARTS_FOLDER, image)) as partial:
        partial.write_text(json.dumps(part), encoding="utf-8")


def _finish(
    images: Sequence[InputImage], predictor: WholeImagePredictor, output: Output, skipped: Sequence[Skipped]
) -> Summary:
    """Puts the parts together, and takes them away."""
    reasons = {image.id: image for image in skipped}
    if images and len(reasons) == len(images):
        raise CellSegError(f"none of the {len(images)} images can be read; the first: {reasons[images[0].id].reason}")
    entries: list[dict[str, Any]] = []
    counts: list[ImageCounts] = []
    shares: dict[str, float] = {}
    unchecked = output.folder / f"{RESULTS_FILE}.unchecked"
    names = predictor.class_names
    wanted = COCO_DATASET in output.formats
    annotated = DatasetWriter.open(output.folder, names) if wanted else nullcontext()
    with ResultsWriter.open(unchecked) as writer, annotated as dataset:
        for image in images:
            if image.id in reasons:
                continue
            part = json.loads(_part(output.folder / PARTS_FOLDER, image).read_text(encoding="utf-8"))
            writer.append(part["results"])
            if dataset is not None:
                dataset.append(part["image"], part["annotations"])
            entries.append(part["image"])
            counts.append(ImageCounts(**part["counts"]))
            if part["region"] is not None:
                shares[image.file_name] = part["region"]
    if COCO in output.formats:
        if output.check:
            sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in entries}
            check_results(unchecked, sizes, range(1, len(names) + 1))
        unchecked.replace(output.folder / RESULTS_FILE)
        write_json(output.folder / IDS_FILE, entries, indent=1)
        if output.pack:
            zip_results(output.folder / RESULTS_FILE)
    else:
        unchecked.unlink()
    write_counts(output.folder / COUNTS_FILE, counts, names)
    in_order = [reasons[image.id] for image in images if image.id in reasons]
    _write_skipped(output.folder / SKIPPED_FILE, in_order)
    _record(predictor, output, counts, shares).write(output.folder)
    shutil.rmtree(output.folder / PARTS_FOLDER)
    sums = {name: sum(image.cells[number] for image in counts) for number, name in enumerate(names)}
    results = writer.count if COCO in output.formats else None
    return Summary(len(entries), sums, results, in_order, _region_percent(entries, shares))


def _region_percent(entries: Sequence[Mapping[str, Any]], shares: Mapping[str, float]) -> float | None:
    """How much of all images together their regions are."""
    if not shares:
        return None
    pixels = [entry["height"] * entry["width"] for entry in entries]
    inside = sum(count * shares[entry["file_name"]] for count, entry in zip(pixels, entries))
    return 100 * float(inside) / sum(pixels)


def _write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """Lists the images that were skipped; without any, a list that an earlier run left goes."""
    if skipped:
        write_json(path, [asdict(image) for image in skipped], indent=1)
    else:
        path.unlink(missing_ok=True)


def _record(
    predictor: WholeImagePredictor, output: Output, counts: Sequence[ImageCounts], shares: Mapping[str, float]
) -> Record:
    selection = asdict(predictor.selection(output.min_score, output.min_score_of_class))
    names = list(selection.pop("class_names"))
    sizes = {image.image: image.pixel_size_um for image in counts if image.pixel_size_um}
    percents = {name: round(100 * share, 3) for name, share in shares.items()}
    return Record(names, selection, predictor.cfg.CELLSEG.INTENSITY_RULE, sizes, percents, predictor.channels)
