"""Images and their annotation files, which lie in one folder or beside each other and share their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cellseg_d2.annotations.shapes import named
from cellseg_d2.cells.image_names import plain_name
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import refuse_other_than_utf8, visible_entries
from cellseg_d2.images.formats import is_image


class Pair(NamedTuple):
    """An image and its annotations.

    Attributes:
        id: the image's name without its suffix; with its folder's name in front where two images have one name.
        image: the image.
        annotations: the annotation file.
    """

    id: str
    image: Path
    annotations: Path


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        pairs: sorted by id.
        notes: a line that names the images without annotations, if there are any; for :class:`LabelledSet`.
    """

    pairs: list[Pair]
    notes: list[str]


def find_pairs(root: Path, name_of: Callable[[Path], str | None], kind: str, depth: int = 1) -> Found:
    """The annotation files in a folder and in its subfolders, each with the image of its name, sorted by id.

    The image lies in the same folder or in another of these, such as ``images`` beside ``annotations``; of several of
    its name it is the one in a folder called so. Images without annotations are left out, and noted.

    Args:
        root: the folder.
        name_of: gives an annotation file's image name, with or without its suffix; None for other files.
        kind: what an annotation file is, for messages.
        depth: how many folders deep files are looked for.

    Raises:
        CellSegError: no such folder, no annotation file, or one whose image is missing or not clear.
    """
    files = list_files(root, depth)
    annotations = [(name, path) for path in files if (name := name_of(path)) is not None]
    if not annotations:
        raise CellSegError(f"{root}: holds no {kind}, nor does a folder in it; give the folder of these")
    images = [path for path in files if name_of(path) is None and is_image(path)]
    pairs = match_images(annotations, images)
    return Found(pairs, left_out(root, images, pairs))


def has_files(*patterns: str) -> Callable[[Path], bool]:
    """Whether a folder, or one in it, holds a file of such a name."""
    return lambda root: any(any(root.glob(f"{place}{pattern}")) for pattern in patterns for place in ("", "*/"))


def list_files(root: Path, depth: int = 1) -> list[Path]:
    """What is in a folder and in those below it, ``depth`` deep, sorted; an OME-Zarr image is one entry.

    Raises:
        CellSegError: there is no such folder.
    """
    if not root.is_dir():
        raise CellSegError(f"{root}: there is no such folder; give the one with the images and annotations")
    found = []
    for entry in visible_entries(root):
        if depth and entry.is_dir() and not is_image(entry):
            found += list_files(entry, depth - 1)
        else:
            found.append(entry)
    return found


def match_images(annotations: Sequence[tuple[str, Path]], images: Sequence[Path]) -> list[Pair]:
    """Pairs each annotation file, given with its image's name, with that image, see :func:`find_pairs`; sorted by id.

    Raises:
        CellSegError: an image is missing, is not clear, or has two annotation files.
    """
    by_name: defaultdict[str, set[Path]] = defaultdict(set)
    for image in images:
        by_name[image.name].add(image)
        by_name[image.stem].add(image)  # of x.ome.tif also x.ome
        by_name[plain_name(image)].add(image)
    found = [(_image_of(path, name, by_name[name]), path) for name, path in annotations]
    folders: defaultdict[str, set[Path]] = defaultdict(set)
    for image, _ in found:
        folders[plain_name(image)].add(image.parent)
    pairs: dict[str, Pair] = {}
    for image, path in found:
        name = plain_name(image)
        pair_id = name if len(folders[name]) == 1 else f"{image.parent.name}_{name}"
        if (first := pairs.setdefault(pair_id, Pair(pair_id, image, path))).annotations != path:
            raise CellSegError(
                f"{path}: is of image {pair_id}, as {first.annotations} is; keep or rename one of the two"
            )
    refuse_other_than_utf8(pair.image for pair in pairs.values())
    return [pairs[name] for name in sorted(pairs)]


def left_out(root: Path, images: Sequence[Path], pairs: Sequence[Pair]) -> list[str]:
    """A line that names the images that no pair has; none where there are none."""
    alone = sorted(set(images) - {pair.image for pair in pairs})
    names = named(path.relative_to(root).as_posix() for path in alone)
    return [f"{root}: images without annotations, left out: {names}"] if alone else []


def all_classes(paths: Sequence[Path], classes_in: Callable[[Path], Iterable[str]]) -> tuple[str, ...]:
    """The class names of annotation files, sorted, numbers by their value.

    Files that cannot be read are passed over here; they are reported when their image is read.

    Args:
        paths: the files.
        classes_in: gives the class names of one.

    Raises:
        CellSegError: that of the first file, where none can be read.
    """
    names: set[str] = set()
    errors = []
    for path in paths:
        try:
            names.update(classes_in(path))
        except CellSegError as error:
            errors.append(error)
    if errors and len(errors) == len(paths):
        raise errors[0]
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


def _image_of(path: Path, name: str, candidates: set[Path]) -> Path:
    beside = {image for image in candidates if image.parent == path.parent} or candidates
    if len(beside) > 1:  # such as overlays of the same names
        beside = {image for image in beside if "image" in image.parent.name.lower()} or beside
    if not beside:
        raise CellSegError(f"{path}: there is no image {name} beside it or in a folder beside its own; add it")
    if len(beside) > 1:
        first, second, *_ = sorted(beside)
        raise CellSegError(f"{path}: its image may be {first} or {second}; keep or rename one of the two")
    return min(beside)
