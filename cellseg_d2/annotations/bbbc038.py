"""BBBC038 (Data Science Bowl 2018): ``<id>/images/<id>.png`` beside ``<id>/masks/*.png``, one nucleus per file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader, problem_of
from cellseg_d2.annotations.shapes import Shape, paint_shapes
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import refuse_other_than_utf8, visible_entries
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_whole, read_with_header
from cellseg_d2.images.label_files import LABEL_SUFFIXES, read_label_file


@dataclass(frozen=True)
class MaskFolder(LabelledImage):
    """One image with a mask per nucleus.

    Attributes:
        id: the folder's name.
        image: the only file in ``images``.
        masks: the files in ``masks``, by name; what is not 0 is the nucleus.
    """

    id: str
    image: Path
    masks: tuple[Path, ...]

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; a nucleus's label is the place of its file, from 1."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        size = (image.shape[0], image.shape[1])
        shapes = [_read_mask(path, size, max_pixels) for path in self.masks]
        return ImageLabels(image, paint_shapes(self.image.parent.parent / "masks", shapes, size), stated)

    def problems(self, rule: Rule, max_pixels: int, class_count: int) -> list[str]:
        """A line for the image or, where it can be read, for each mask that cannot be used."""
        if found := problem_of(partial(read_whole, self.image, rule, max_pixels)):
            return found
        height, width = read_whole(self.image, rule, max_pixels).shape[:2]
        return [
            line for path in self.masks for line in problem_of(partial(_read_mask, path, (height, width), max_pixels))
        ]


def _read_mask(path: Path, size: tuple[int, int], max_pixels: int) -> Shape:
    labels = read_label_file(path, max_pixels)
    if labels.shape != size:
        raise CellSegError(
            f"{path}: is {size_text(labels.shape)}, its image {size_text(size)}; they must be of one size"
        )
    return Shape.of_mask(path.name, 1, labels > 0, size)


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images of a folder that have masks, sorted by id; of one class. What is left out is noted.

    Raises:
        CellSegError: no such folder, none is found, or a folder that holds not exactly one image.
    """
    if not root.is_dir():
        raise CellSegError(f"{root}: there is no such folder; give the one that BBBC038 was unpacked to")
    samples: list[MaskFolder] = []
    notes: list[str] = []
    for folder in visible_entries(root):
        if (folder / "masks").is_dir() and (folder / "images").is_dir():
            samples.append(_sample(folder, notes))
        elif (folder / "images").is_dir():
            notes.append(f"{folder}: has no masks folder, it is left out")
    if not samples:
        raise CellSegError(f"{root}: holds no <id>/images with an <id>/masks beside it; give the folder of these")
    refuse_other_than_utf8(sample.image.parent.parent for sample in samples)
    return LabelledSet(samples, ["nucleus"], notes)


def _sample(folder: Path, notes: list[str]) -> MaskFolder:
    """A folder's sample; files that are no masks are added to the notes."""
    images = [path for path in visible_entries(folder / "images") if is_image(path)]
    if len(images) != 1:
        raise CellSegError(f"{folder / 'images'}: holds {len(images)} images; keep the one that the masks belong to")
    masks = []
    for path in visible_entries(folder / "masks"):
        if path.suffix.lower() in LABEL_SUFFIXES:
            masks.append(path)
        else:
            notes.append(f"{path}: is neither PNG nor TIFF, it is left out")
    return MaskFolder(folder.name, images[0], tuple(masks))


READER = Reader(
    "bbbc038",
    "BBBC038's <id>/images/<id>.png with a PNG per nucleus in <id>/masks",
    lambda root: any((path.parent / "images").is_dir() for path in root.glob("*/masks") if path.is_dir()),
    find_labelled,
)
