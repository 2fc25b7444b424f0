"""Adds images to a converted dataset, or corrected ones in their place; ``convert --add-to`` calls this."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage
from cellseg_d2.cells.coco import Record
from cellseg_d2.conversion.convert import fill
from cellseg_d2.conversion.cut import ConversionInput, open_input, run_in_order
from cellseg_d2.conversion.executors import open_executor
from cellseg_d2.conversion.existing import Existing, read_existing
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.split import SplitFile, read_split_file
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.listing import TEST_FOLDER
from cellseg_d2.outputs import appear_whole

logger = logging.getLogger(__name__)

NUMBERED = re.compile(r"class([1-9][0-9]{0,8})")
"""The name of a class that has none, by its number, as of ``class1.tif``."""


def add_images(
    root: Path,
    dataset: Path,
    changes: Mapping[str, Any],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    skip_errors: bool = False,
    split_file: Path | None = None,
    from_coco: Path | None = None,
    annotation_format: str | None = None,
) -> Record:
    """Converts ``root`` as a dataset was converted, and adds its images to it, which succeeds as a whole or not at all.

    Images that the dataset has are replaced and stay in their part, ``train`` or ``val``. New ones are dealt by
    :func:`cellseg_d2.conversion.split.stratified_split` with the dataset's seed and validation share. The result is
    what one conversion of all images with this split would have written.

    Args:
        root: as of :func:`cellseg_d2.conversion.convert.convert`.
        dataset: its folder.
        changes: fields of :class:`ConvertOptions` that the user gave. ``class_names`` names the classes of ``root``;
            ``max_pixels`` may differ, since it changes no pixel.
        workers: as there.
        scheduler: as there.
        skip_errors: as there; an image that the dataset has stays as it was.
        split_file: the split of the new images; it may name the dataset's too, where they are.
        from_coco: as there.
        annotation_format: as there.

    Returns:
        The content of ``dataset.json``.

    Raises:
        CellSegError: ``dataset`` is none or too old, an option contradicts it, a class is not its, or as ``convert``;
            the dataset is then as it was.
    """
    if scheduler is not None:
        dataset = dataset.absolute()
    if not dataset.parent.is_dir():
        read_existing(dataset)  # says that there is none, before the folder above is made
    with appear_whole(dataset, overwrite=True) as folder:
        old = read_existing(dataset)
        options = _options(old, changes)
        given = open_input(
            root,
            replace(options, class_names=()),
            workers=workers,
            scheduler=scheduler,
            annotation_format=annotation_format,
            annotation_file=from_coco,
        )
        for note in given.notes:
            logger.warning("%s", note)
        if from_coco is None and (root / TEST_FOLDER).is_dir():
            logger.warning("%s: its test images are left out; those of %s stay", root, dataset)
        given = _as_in_dataset(given, old, changes.get("class_names", ()))
        split = None if split_file is None else _read_split(split_file, given, old)
        with open_executor(workers, scheduler) as executor:
            run = partial(run_in_order, executor, given.in_flight)
            return fill(folder, given, options, run, split=split, skip_errors=skip_errors, old=old)


def _options(old: Existing, changes: Mapping[str, Any]) -> ConvertOptions:
    """The dataset's options; ``max_pixels`` is that of the user where given.

    Raises:
        CellSegError: an option was given that contradicts them.
    """
    for field in fields(ConvertOptions):
        before, given = getattr(old.options, field.name), changes.get(field.name)
        given = tuple(given) if isinstance(given, list) else given
        if given not in (None, before) and field.name not in ("class_names", "max_pixels"):
            option = f"--{field.name.replace('_', '-')}"
            how = "without" if before in ("", ()) else f"with {_told(before)!r}"
            raise CellSegError(
                f"{option} {_told(given)}: {old.folder} was converted {how}; leave {option} out, or convert all images "
                "anew"
            )
    return replace(old.options, max_pixels=changes.get("max_pixels") or old.options.max_pixels)


def _told(value: Any) -> Any:
    """An option's value as people type it, where it has several parts."""
    return " ".join(value) if isinstance(value, tuple) else value


def _as_in_dataset(given: ConversionInput, old: Existing, named: Sequence[str]) -> ConversionInput:
    """The same images with the dataset's class names and numbers."""
    if old.options.merge_classes:
        if list(named) not in ([], old.class_names):
            merged = f"all classes of the dataset are merged to {old.options.merge_classes}"
            raise CellSegError(f"--class-names {' '.join(named)}: {merged}; leave --class-names out")
        return given
    numbers = class_numbers(given.class_names, old.class_names, named, str(given.root))
    same = numbers == tuple(range(1, len(numbers) + 1))
    images = given.images if same else [Renumbered(image, numbers) for image in given.images]
    return replace(given, images=images, class_names=old.class_names)


def class_numbers(found: Sequence[str], known: Sequence[str], named: Sequence[str], root: str) -> tuple[int, ...]:
    """The number in the dataset of each class of an input.

    Args:
        found: the input's classes. They are the dataset's of the same name; ``class<k>`` is the dataset's number k.
        known: the dataset's.
        named: what the user calls the input's classes; they are needed where ``found`` are others than the dataset's.
        root: the input, for messages.

    Raises:
        CellSegError: a class is none of the dataset's.

    >>> class_numbers(["stroma"], ["tumour", "stroma"], [], "in"), class_numbers(["class2"], ["A", "B"], [], "in")
    ((2,), (2,))
    >>> class_numbers(["cell"], ["nucleus"], ["nucleus"], "in")
    (1,)
    """
    numbers = {name: number for number, name in enumerate(known, start=1)}
    own = [numbers.get(name) or _numbered(name, len(known)) for name in found]
    unknown = [name for name, number in zip(found, own) if number is None]
    classes = f"the classes of the dataset are {', '.join(known)}"
    if not unknown:
        if list(named) not in ([], list(known), [known[number - 1] for number in own if number]):
            raise CellSegError(f"--class-names {' '.join(named)}: {classes}; leave --class-names out")
        return tuple(number for number in own if number is not None)
    if not named:
        raise CellSegError(
            f"{root}: has the class {unknown[0]!r}; {classes}: say which of these the classes {', '.join(found)} are "
            "with --class-names, or convert all images anew"
        )
    wrong = [name for name in named if name not in numbers]
    if wrong or len(named) != len(found):
        what = f"{wrong[0]!r} is none" if wrong else f"the input has {counted(len(found), 'class', 'classes')}"
        raise CellSegError(
            f"--class-names {' '.join(named)}: {what}, and {classes}; name which of these {', '.join(found)} are"
        )
    return tuple(numbers[name] for name in named)


def _numbered(name: str, count: int) -> int | None:
    """The number of ``class<k>`` where there are so many classes."""
    match = NUMBERED.fullmatch(name)
    return int(match[1]) if match and int(match[1]) <= count else None


@dataclass(frozen=True)
class Renumbered(LabelledImage):
    """A labelled image whose classes have other numbers.

    Attributes:
        inner: the image.
        numbers: the new number of class 1, 2, ...
    """

    inner: LabelledImage
    numbers: tuple[int, ...]

    @property
    def id(self) -> str:  # type: ignore[override]
        """See :class:`LabelledImage`."""
        return self.inner.id

    @property
    def image(self) -> Path:  # type: ignore[override]
        """See :class:`LabelledImage`."""
        return self.inner.image

    @property
    def group(self) -> str:  # type: ignore[override]
        """See :class:`LabelledImage`."""
        return self.inner.group

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; what is ignored for all classes stays so."""
        labels = self.inner.read(rule, max_pixels, class_count)
        every = tuple(range(1, class_count + 1))
        layers = [
            layer
            if layer.crowd and layer.categories == every
            else replace(layer, categories=tuple(self.numbers[number - 1] for number in layer.categories))
            for layer in labels.label_maps
        ]
        return replace(labels, label_maps=layers)


def _read_split(path: Path, given: ConversionInput, old: Existing) -> SplitFile:
    """The user's split of the new images.

    Raises:
        CellSegError: as :func:`read_split_file`, or it moves an image of the dataset.
    """
    new = {image.id for image in given.images} - old.parts.keys()
    split = read_split_file(path, new, old.parts)
    moved = next((name for name, part in split.parts.items() if part != old.parts.get(name, part)), None)
    if moved is not None:
        raise CellSegError(
            f"{path}: puts {moved!r} into {split.parts[moved]}, but the dataset has it in {old.parts[moved]}, where it "
            "stays; correct the row"
        )
    return split
