"""MoNuSAC's published files -> the input layout of tools/convert_tifs.py: the library behind tools/import_monusac.py.

The set (Verma et al., IEEE Transactions on Medical Imaging 40, 2021) has one folder a slide, and in it images,
``<name>.svs`` or ``<name>.tif``, each beside ``<name>.xml`` with the outlines that were drawn in Aperio ImageScope::

    <Annotations><Annotation>
      <Attributes><Attribute Name="Epithelial" .../></Attributes>
      <Regions>...<Region ...><Attributes/><Vertices><Vertex X="12.5" Y="30" .../>...</Vertices></Region></Regions>
    </Annotation>...</Annotations>
"""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellseg_d2.annotations.imagescope import Polygon, patient_of, read_layers
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import inside_rings
from cellseg_d2.cells.label_maps import LabelMap, ignore_regions
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.images.channels import Rule, picked_of_rgb
from cellseg_d2.images.stated import RGB_8_BIT
from cellseg_d2.images.tiff import MAX_PIXELS, read_image
from cellseg_d2.outputs import appear_whole
from cellseg_d2.progress import track

logger = logging.getLogger(__name__)

CLASS_NAMES = ("Epithelial", "Lymphocyte", "Neutrophil", "Macrophage")
"""Classes 1 to 4, in the order of the challenge's own mask and metric scripts."""

AMBIGUOUS = "Ambiguous"
"""Regions that the challenge's evaluation leaves out."""

PATIENTS_FILE = "patients.csv"

IMAGE_SUFFIXES = (".svs", ".tif", ".tiff")
"""In the order of choice: the challenge's own script that makes TIFFs of the slides swaps red and blue."""


@dataclass(frozen=True)
class Pair(LabelledImage):
    """One image and its outlines.

    Attributes:
        id: the sample's name, made of its folder's name and the file's.
        image: the SVS or TIFF.
        outlines: the XML.
        group: the patient. In TCGA names it is a part of the slide's name, since a patient may have several slides.
    """

    id: str
    image: Path
    outlines: Path
    group: str

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; ambiguous regions are ignored for all classes.

        Outlines that overlap, reach outside the image or lose all their pixels are counted in a warning.
        """
        image = picked_of_rgb(self.image, _read_pixels(self.image), rule)
        painted = _paint_outlines(self, (image.shape[0], image.shape[1]), unknown_is_ambiguous=False)
        numbers = {name: (number,) for number, name in enumerate(CLASS_NAMES, start=1)}
        maps = [
            ignore_regions(labels.labels, class_count) if name == AMBIGUOUS else LabelMap(numbers[name], labels.labels)
            for name, labels in painted.items()
            if labels.count
        ]
        return ImageLabels(image, maps, RGB_8_BIT)


@dataclass
class Painted:
    """A label map of outlines, and what became of them.

    Attributes:
        labels: (H, W) int32; outline i has the value i + 1.
        count: outlines with at least one pixel.
        clipped: outlines that reach outside the image.
        overlapping: outlines that share pixels with another one.
        lost: outlines without a pixel left: smaller ones cover it, it lies outside, or between the pixels.
    """

    labels: NDArray[np.int32]
    count: int = 0
    clipped: int = 0
    overlapping: int = 0
    lost: int = 0


@dataclass
class Imported:
    """What was written: images, patients, and outlines by class name."""

    images: int = 0
    patients: int = 0
    outlines: Counter[str] = field(default_factory=Counter)


def import_monusac(
    root: Path, output: Path, *, overwrite: bool = False, unknown_is_ambiguous: bool = False
) -> Imported:
    """Writes ``output/train/<id>/{image,class<k>,ignore}.tif`` and ``output/patients.csv``, all or nothing.

    Args:
        root: the set, one of its parts, or one folder of it.
        output: the folder to make.
        overwrite: replace what an earlier import made.
        unknown_is_ambiguous: take outlines of other classes than the five for ambiguous ones.

    Raises:
        CellSegError: nothing is found, a file is damaged, or a class is unknown.
    """
    pairs = find_pairs(root)
    done = Imported(len(pairs), len({pair.group for pair in pairs}))
    with appear_whole(output, overwrite, PATIENTS_FILE) as folder:
        for pair in track(pairs, len(pairs), "import"):
            done.outlines.update(_write_sample(pair, folder / "train" / pair.id, unknown_is_ambiguous))
        with (folder / PATIENTS_FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "split", "group"])
            writer.writerows([pair.id, "", pair.group] for pair in pairs)
    return done


def find_pairs(root: Path) -> list[Pair]:
    """The images with outlines in and below a folder, sorted by id; warns of images without.

    Raises:
        CellSegError: no such folder, none is found, outlines without an image, or two of one name.
    """
    if not root.is_dir():
        raise CellSegError(f"{root}: there is no such folder; give the one that MoNuSAC was unpacked to")
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    images: dict[Path, Path] = {}
    for suffix in reversed(IMAGE_SUFFIXES):
        images |= {path.with_suffix(""): path for path in files if path.suffix.lower() == suffix}
    pairs: dict[str, Pair] = {}
    for path in files:
        if path.suffix.lower() != ".xml":
            continue
        image = images.pop(path.with_suffix(""), None)
        if image is None:
            raise CellSegError(f"{path}: has no image beside it; put {path.stem}.svs or {path.stem}.tif there")
        slide = path.parent.resolve().name
        name = path.stem if path.stem.startswith(slide) else f"{slide}_{path.stem}"
        pair = Pair(name, image, path, patient_of(slide) or slide)
        if (first := pairs.setdefault(name, pair)) is not pair:
            raise CellSegError(f"{path}: would be sample {name}, as {first.outlines} is; rename one of the two")
    if not pairs:
        raise CellSegError(f"{root}: holds no image with an XML of the same name beside it; is this MoNuSAC's folder?")
    for image in sorted(images.values()):
        logger.warning("%s: has no XML beside it, it is left out", image)
    return [pairs[name] for name in sorted(pairs)]


def _write_sample(pair: Pair, folder: Path, unknown_is_ambiguous: bool) -> Counter[str]:
    """Writes one sample, warns of what its outlines lose, and counts them by class name."""
    image = _read_pixels(pair.image)
    height, width = image.shape[:2]
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "image.tif", image, photometric="rgb", compression="lzw", predictor=True)
    files = {name: f"class{number}.tif" for number, name in enumerate(CLASS_NAMES, start=1)} | {AMBIGUOUS: "ignore.tif"}
    counts: Counter[str] = Counter()
    for name, painted in _paint_outlines(pair, (height, width), unknown_is_ambiguous).items():
        counts[name] = painted.count
        if painted.count:
            is_small = painted.labels.max() <= np.iinfo(np.uint16).max
            labels = painted.labels.astype(np.uint16) if is_small else painted.labels
            tifffile.imwrite(folder / files[name], labels, compression="lzw")
    return counts


def _paint_outlines(pair: Pair, size: tuple[int, int], unknown_is_ambiguous: bool) -> dict[str, Painted]:
    """The label map of each class by its name; warns of what its outlines lose."""
    painted = {
        name: paint_polygons(polygons, size)
        for name, polygons in read_outlines(pair.outlines, unknown_is_ambiguous).items()
    }
    notes = [
        f"{number} {name} {what}"
        for name, labels in painted.items()
        for number, what in (
            (labels.overlapping, "overlap"),
            (labels.clipped, "reach outside the image and are clipped"),
            (labels.lost, "have no pixel of their own and are left out"),
        )
        if number
    ]
    if notes:
        logger.warning("%s: of its outlines %s", pair.outlines, ", ".join(notes))
    return painted


def _read_pixels(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; of a slide its first page, which SVS gives the full resolution."""
    if path.suffix.lower() != ".svs":
        return read_image(path)
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if not isinstance(page, tifffile.TiffPage) or page.imagewidth * page.imagelength > MAX_PIXELS:
                raise CellSegError(f"{path}: declares more than {MAX_PIXELS} pixels; cut it into images first")
            pixels: NDArray[np.uint8] = page.asarray()
    except CellSegError:
        raise
    except Exception as error:  # the decoders of damaged files raise anything from struct.error to their own types
        raise CellSegError(f"{path}: cannot be read as SVS ({one_line(error)}); copy it again") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise CellSegError(
            f"{path}: holds {pixels.dtype} {pixels.shape}, not 8-bit RGB; save it as a TIFF beside the XML"
        )
    return np.ascontiguousarray(pixels[..., :3])


def read_outlines(path: Path, unknown_is_ambiguous: bool = False) -> dict[str, list[Polygon]]:
    """The outlines of an ImageScope XML by class name, those of one class in the file's order.

    Raises:
        CellSegError: not such a file, damaged, or with outlines of an unknown class.
    """
    outlines: dict[str, list[Polygon]] = {name: [] for name in (*CLASS_NAMES, AMBIGUOUS)}
    for name, polygons in read_layers(path):
        if name not in outlines and not unknown_is_ambiguous:
            known = ", ".join(outlines)
            raise CellSegError(
                f"{path}: has {len(polygons)} outlines of the class {name!r}; known are {known}. Rename it "
                "there, or take such outlines for ambiguous ones with --unknown ambiguous"
            )
        outlines[name if name in outlines else AMBIGUOUS] += polygons
    return outlines


def paint_polygons(polygons: Sequence[Polygon], size: tuple[int, int]) -> Painted:
    """Paints outlines as a label map.

    The pixel in column x and row y belongs to an outline if the point (x, y) lies inside it, by the even-odd rule; of
    points on the outline those on its left and upper side do. This is how the challenge's own script asks (by
    ``skimage.draw.polygon``), and unlike ``cv2.fillPoly``, which adds the border's pixels, it keeps the area: a square
    from 2 to 6 has 4 x 4 pixels. Where outlines overlap, a pixel goes to the smaller one, or the earlier of two of one
    size, so that one is lost only where smaller ones cover all of it.

    >>> square = np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]])
    >>> paint_polygons([square, square + (1.0, 1.0)], (3, 4)).labels.tolist()
    [[0, 1, 1, 0], [0, 1, 1, 2], [0, 0, 2, 2]]
    """
    painted = Painted(np.zeros(size, np.int32))
    places = [inside_rings([polygon], size, centre=0.0) for polygon in polygons]
    covered = np.zeros(size, np.uint16)
    for number in sorted(range(len(places)), key=lambda number: (-len(places[number][0]), -number)):
        painted.labels[places[number]] = number + 1
        covered[places[number]] += 1
    alive = np.unique(painted.labels)
    painted.count = int((alive > 0).sum())
    painted.lost = len(polygons) - painted.count
    painted.overlapping = sum(bool((covered[place] > 1).any()) for place in places)
    limits = np.array([size[1], size[0]], np.float64)
    painted.clipped = sum(bool((polygon < 0).any() or (polygon > limits).any()) for polygon in polygons)
    return painted


def class_counts(counts: Mapping[str, int]) -> str:
    """``12 Epithelial, 3 Lymphocyte, ...``, without classes that are not there."""
    return ", ".join(f"{counts[name]} {name}" for name in (*CLASS_NAMES, AMBIGUOUS) if counts[name])


def _looks_like_monusac(root: Path) -> bool:
    """Whether slides' folders hold an XML beside an image of the same name; a few levels are looked at."""
    return any(
        path.with_suffix(suffix).is_file()
        for pattern in ("*.xml", "*/*.xml", "*/*/*.xml")
        for path in root.glob(pattern)
        for suffix in IMAGE_SUFFIXES
    )


READER = Reader(
    "monusac",
    "MoNuSAC's folders: an SVS or TIFF per image, with outlines from ImageScope in an XML",
    _looks_like_monusac,
    lambda root, annotation_file: LabelledSet(find_pairs(root), list(CLASS_NAMES)),
)
