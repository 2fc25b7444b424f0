"""The images of results by their file names: ``image_ids.json``, which ``predict`` writes beside ``test-results.json``.

Ids alone say little: each prediction numbers its images from 1.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.coco_ids import Finder, Ids, image_ids, is_id
from cellseg_d2.cells.coco_masks import Size
from cellseg_d2.cells.coco_records import short
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import read_json, write_json

logger = logging.getLogger(__name__)

IDS_FILE = "image_ids.json"

Entry = tuple[str, int, Size | None]
"""File name, image id and (height, width) of an image; a size may be left out."""


def ids_file_of(results: Path) -> Path:
    """Where results that may lie beside others name their images, such as ``merged.image_ids.json``."""
    return results.with_name(f"{results.stem}.{IDS_FILE}")


def plain_name(path: PurePath) -> str:
    """The name of an image's results: its file's name without ``.tif``, ``.ome.tif`` and the like."""
    return path.name.removesuffix(path.suffix).removesuffix(".ome")


class Names:
    """Finds the images that a name may mean, which others may state with more or fewer folders, or another suffix.

    >>> Names(["plate1/a.tif", "plate2/a.tif", "b.png"]).find("data/plate2/a.tif")
    [1]
    >>> Names(["plate1/a.tif", "plate2/a.tif", "b.png"]).find("a.tif")
    [0, 1]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._whole: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        self._ends: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            tails = _tails(name)
            self._whole[tails[0]].append(place)
            for tail in tails:
                self._ends[tail].append(place)

    def find(self, name: str) -> list[int]:
        """The places of all images that a name may mean; where some are called just so, of these alone."""
        tails, last = _tails(name), PurePosixPath(name).name
        places = [*self._ends.get(tails[0], ()), *(place for tail in tails[1:] for place in self._whole.get(tail, ()))]
        same = [place for place in places if self._names[place] == name]
        return same or [place for place in places if PurePosixPath(self._names[place]).name == last] or places


def _tails(name: str) -> list[tuple[str, ...]]:
    """A path and its ends down to the file's name, as parts, without its suffix."""
    path = PurePosixPath(name)
    parts = (*path.parts[:-1], plain_name(path))
    return [parts[start:] for start in range(len(parts))]


@dataclass(frozen=True)
class NamedIds:
    """The ids of results whose images have names, as the numbers that these images have elsewhere.

    Attributes:
        path: the file with the names.
        ids: its ids.
        numbers: number by id.
    """

    path: Path
    ids: Ids
    numbers: Mapping[int, int]

    def find(self, raw: object) -> int | None:
        """The number of an image; None for what is no id.

        Raises:
            CellSegError: an id that the file does not list.
        """
        number = self.ids.find(raw)
        if number is None and is_id(raw):
            raise CellSegError(f"{self.path}: lacks the image {short(raw)}, of which the results beside it are; add it")
        return None if number is None else self.numbers[number]

    def predicted(self, dataset: Record, path: Path, alone: bool) -> Record:
        """The part of a dataset that was predicted, or all of it; then a log line counts the images that were not.

        Args:
            dataset: a COCO dataset with annotations, whose image ids are the numbers.
            path: its file.
            alone: whether the part is wanted.
        """
        numbers = set(self.numbers.values())
        count, absent = len(dataset["images"]), len(dataset["images"]) - len(numbers)
        if alone:
            images = [image for image in dataset["images"] if image["id"] in numbers]
            cells = [cell for cell in dataset["annotations"] if cell["image_id"] in numbers]
            return {**dataset, "images": images, "annotations": cells}
        if absent:
            logger.warning(
                "%s: %d of %d images were not predicted, so all their cells count as missed; "
                "--only-predicted scores the others alone",
                *(path, absent, count),
            )
        return dataset


@dataclass(frozen=True)
class NamedImages:
    """The images that were predicted.

    Attributes:
        path: the file that lists them.
        entries: name, id and size of each; no two have one name or one id.
    """

    path: Path
    entries: Sequence[Entry]

    @classmethod
    def beside(cls, results: Path) -> NamedImages | None:
        """Those of a results file; None where no file beside it names them.

        Raises:
            CellSegError: that file is of another form.
        """
        for path in (ids_file_of(results), results.with_name(IDS_FILE)):
            if path.is_file():
                return cls(path, read_image_ids(path))
        return None

    def among(self, records: Sequence[Record], source: Path) -> NamedIds:
        """Finds each image in a dataset: by its name, or by its id where the dataset has no names.

        Args:
            records: the dataset's images with ``id``, a whole number, and ``file_name``, the id if there is none.
            source: the dataset, for messages.

        Raises:
            CellSegError: the dataset has no such image, several, or one of another size; or two images are the same.
        """
        names, by_id = Names([record["file_name"] for record in records]), {record["id"]: record for record in records}
        numbers: dict[int, int] = {}
        taken: dict[int, str] = {}
        for name, number, size in self.entries:
            found = [records[place] for place in names.find(name)]
            at_id = by_id.get(number)
            if at_id is not None and (at_id in found if _alike(found) else not found and _is_unnamed(at_id)):
                found = [at_id]
            record = self._only(name, found, source)
            stated = (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None
            _check_sizes(self.path, name, size, source, stated)
            if record["id"] in taken:
                first = taken[record["id"]]
                raise CellSegError(
                    f"{self.path}: {first!r} and {name!r} are both {record['file_name']!r} of {source}; leave one out"
                )
            numbers[number], taken[record["id"]] = record["id"], name
        return NamedIds(self.path, image_ids(numbers), numbers)

    def add_sizes(self, records: Sequence[Record], ids: Finder) -> None:
        """Writes the sizes of images that a dataset's records do not tell into these; ``ids`` finds their numbers."""
        sizes = {ids.find(number): size for _, number, size in self.entries if size is not None}
        for record in records:
            if "height" not in record and record["id"] in sizes:
                record["height"], record["width"] = sizes[record["id"]]

    def _only(self, name: str, found: Sequence[Record], source: Path) -> Record:
        if not found:
            raise CellSegError(
                f"{self.path}: has {name!r}, which {source} does not list; predict the images that it lists, or "
                "correct the names"
            )
        if len(found) > 1:
            raise CellSegError(
                f"{self.path}: {name!r} may be {found[0]['file_name']!r} or {found[1]['file_name']!r} of {source}; "
                "write the name as it stands there"
            )
        return found[0]


def _alike(records: Sequence[Record]) -> bool:
    """Whether several images have one name, so that only their ids tell them apart."""
    return len(records) > 1 and len({record["file_name"] for record in records}) == 1


def _is_unnamed(record: Record) -> bool:
    return bool(record["file_name"] == str(record["id"]))


def _check_sizes(path: Path, name: str, size: Size | None, other: Path, stated: Size | None) -> None:
    if size is not None and stated is not None and tuple(size) != stated:
        raise CellSegError(
            f"{path}: {name!r} is {size_text(size)}, and {size_text(stated)} in {other}; give files of the same images"
        )


def common_ids(paths: Sequence[Path]) -> tuple[list[NamedIds], list[Entry] | None]:
    """Images of several results that have a name in common become one; ids of the first results stay.

    Returns:
        The ids of the results that name their images as the common numbers, and all images with these; None for them
        where not all results name theirs, so that ids alone count.

    Raises:
        CellSegError: an image differs in its size between two results, or its name may mean several; ids alone count,
            and names contradict them.
    """
    beside = {path: NamedImages.beside(path) for path in paths}
    named, entries = _joined([images for images in map(beside.get, paths) if images is not None])
    if len(named) == len(paths):
        return named, entries
    for ids in named:
        if changed := [number for number, common in ids.numbers.items() if number != common]:
            bare = next(path for path in paths if beside[path] is None)
            raise CellSegError(
                f"{ids.path}: its image {changed[0]} is another one in the other results, and no {IDS_FILE} "
                f"beside {bare} says which it means there; add it"
            )
    return named, None


def _joined(files: Sequence[NamedImages]) -> tuple[list[NamedIds], list[Entry]]:
    entries: list[Entry] = []
    sources: list[Path] = []
    named = []
    for file in files:
        names, used = Names([name for name, _, _ in entries]), {number for _, number, _ in entries}
        fresh = max([*used, *(number for _, number, _ in file.entries)], default=0) + 1
        numbers: dict[int, int] = {}
        taken: set[int] = set()
        for name, number, size in file.entries:
            places = names.find(name)
            if len(places) > 1 or (places and places[0] in taken):
                raise CellSegError(
                    f"{file.path}: {name!r} may be another image too than {entries[places[0]][0]!r} of "
                    f"{sources[places[0]]}; write both names with their folders"
                )
            if places:
                taken.add(places[0])
                _, numbers[number], known = entries[places[0]]
                _check_sizes(file.path, name, size, sources[places[0]], known)
                continue
            numbers[number], fresh = (fresh, fresh + 1) if number in used else (number, fresh)
            entries.append((name, numbers[number], size))
            sources.append(file.path)
        named.append(NamedIds(file.path, image_ids(numbers), numbers))
    return named, entries


def write_image_ids(results: Path, entries: Sequence[Entry] | None) -> None:
    """Writes a file that names the images of results beside them; None removes one of earlier results.

    Raises:
        CellSegError: it cannot be written.
    """
    path = ids_file_of(results)
    if entries is None:
        path.unlink(missing_ok=True)
        return
    content = [
        {"file_name": name, "id": number, **({} if size is None else {"height": size[0], "width": size[1]})}
        for name, number, size in entries
    ]
    write_json(path, content, indent=1)


def read_image_ids(path: Path) -> list[Entry]:
    """File name, image id and (height, width) of each entry, in the file's order; a size may be left out.

    Raises:
        CellSegError: no such file, not JSON, of another form, a name or id twice, or a name that leads elsewhere.
    """
    try:
        content = read_json(path)
        entries = [(entry["file_name"], entry["id"], entry.get("height"), entry.get("width")) for entry in content]
    except (TypeError, KeyError, AttributeError) as error:
        raise CellSegError(f'{path}: is not a JSON list of {{"file_name": ..., "id": ...}} entries') from error
    for name, number, height, width in entries:
        if not isinstance(name, str) or type(number) is not int or not _is_below(name):
            raise CellSegError(
                f"{path}: entry {name!r}: {number!r} is not a plain file name, or a path below the folder of the "
                "images, with a whole-number id"
            )
        if not all(side is None or (type(side) is int and side > 0) for side in (height, width)):
            raise CellSegError(f"{path}: {name!r} has the height {height!r} and width {width!r}; write whole numbers")
    for kind, values in ("file name", [name for name, *_ in entries]), ("id", [number for _, number, *_ in entries]):
        twice = next((value for value, count in Counter(values).items() if count > 1), None)
        if twice is not None:
            raise CellSegError(f"{path}: has the {kind} {twice!r} twice; write one entry and another id for each image")
    return [(name, number, (height, width) if height and width else None) for name, number, height, width in entries]


def _is_below(name: str) -> bool:
    """Whether a stated name is that of a file in a folder or below it, written plainly."""
    path = PurePosixPath(name)
    return str(path) == name and not path.is_absolute() and path.parts != () and ".." not in path.parts
