"""``prediction.json``: what a folder of results says of itself, so that other formats can be made from it later."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cellseg_d2.cells.selection import DEFAULT_SCORE, Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json, write_json
from cellseg_d2.images.channels import Channels, PixelRule
from cellseg_d2.images.listing import RESULTS_RECORD
from cellseg_d2.images.pixel_size import PixelSize
from cellseg_d2.images.tiff import INTENSITY_RULE

RESULTS_FILE = "test-results.json"
SKIPPED_FILE = "skipped.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What results do not say themselves.

    Attributes:
        class_names: the names of category 1, 2, ...
        selection: which cells people see, as the arguments of :class:`cellseg_d2.cells.selection.Selection`.
        intensity_rule: how images that are not 8 bit were scaled.
        pixel_sizes_um: (x, y) in microns per pixel by file name, of images where that is known.
        region_percents: how much of an image was predicted by file name, of images of which only a region was.
        channels: the channels that the images were read with, and those that overlays show.
    """

    class_names: list[str]
    selection: dict[str, Any] = field(default_factory=dict)
    intensity_rule: str = INTENSITY_RULE
    pixel_sizes_um: Mapping[str, PixelSize] = field(default_factory=dict)
    region_percents: Mapping[str, float] = field(default_factory=dict)
    channels: Channels = field(default_factory=Channels)

    @property
    def pixel_rule(self) -> PixelRule:
        """How the images were read."""
        return PixelRule(self.intensity_rule, self.channels.names)

    @property
    def selected(self) -> Selection:
        """Which cells people see."""
        return Selection(self.class_names, **self.selection)

    def write(self, folder: Path) -> None:
        """Writes it into a folder of results; of RGB images it says nothing of channels."""
        content = asdict(self)
        if not self.channels.names:
            del content["channels"]
        write_json(folder / RESULTS_RECORD, content, indent=1)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """That of a folder of results.

        Raises:
            CellSegError: there is none, or it is of another form.
        """
        path = folder / RESULTS_RECORD
        if not path.is_file():
            raise CellSegError(f"{path}: there is no such file; give --results a folder that predict wrote")
        content = read_json(path)
        try:
            sizes = {str(name): (float(x), float(y)) for name, (x, y) in content["pixel_sizes_um"].items()}
            percents = {str(name): float(percent) for name, percent in content.get("region_percents", {}).items()}
            channels = Channels(*(_texts(content.get("channels", {}).get(key, [])) for key in ("names", "shown")))
            if len(channels.shown) > 3 or not set(channels.shown) <= set(channels.names):
                raise ValueError("the channels shown are not three of its channels")
            names, selection = content["class_names"], dict(content["selection"])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("class names are no list of texts")
            Selection(names, **selection)  # says what is wrong
            return cls(names, selection, str(content["intensity_rule"]), sizes, percents, channels)
        except (KeyError, TypeError, ValueError, AttributeError, CellSegError) as error:
            raise CellSegError(f"{path}: is not what predict writes ({error}); predict again") from error


def selected_cells(results: Path, class_names: Sequence[str], score_threshold: float | None = None) -> Selection:
    """Which cells of COCO results people see: those that ``predict`` counted and exported.

    Args:
        results: COCO results; a :class:`Record` beside them knows.
        class_names: the names of the results' classes, in order.
        score_threshold: the least score instead; None for those of the record, or 0.5 where there is no record, or one
            of several classes of other names.

    Raises:
        CellSegError: the score is not from 0 to 1, or the record is damaged.
    """
    if not (results.parent / RESULTS_RECORD).is_file():
        return Selection(class_names, DEFAULT_SCORE if score_threshold is None else score_threshold)
    known = Record.read(results.parent).selected
    if score_threshold is None and set(known.class_names) == set(class_names):
        return replace(known, class_names=class_names)
    if score_threshold is None:
        same = len(class_names) == len(known.class_names) == 1
        score_threshold = known.least[known.class_names[0]] if same else DEFAULT_SCORE
        logger.warning(
            "%s: is of the classes %s, not %s; predictions of a score from %g on count (--score-threshold)",
            *(results.parent / RESULTS_RECORD, ", ".join(known.class_names), ", ".join(class_names), score_threshold),
        )
    return replace(known, class_names=class_names, min_score=score_threshold, min_score_of_class={})


def picture_rule(results: Path, channels: Sequence[str] = ()) -> PixelRule:
    """How images are read to show them beside their results.

    Args:
        results: COCO results; a :class:`Record` beside them names the channels that overlays show.
        channels: up to three channels to show instead; empty for those, or for RGB.

    Raises:
        CellSegError: more than three channels, or the record is damaged.
    """
    if len(channels) > 3:
        raise CellSegError(f"{len(channels)} channels cannot be shown as red, green and blue; give up to three")
    if not channels and (results.parent / RESULTS_RECORD).is_file():
        known = Record.read(results.parent).channels
        channels = known.shown or known.names[:3]
    return PixelRule(INTENSITY_RULE, tuple(channels))


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("channels are no list of texts")
    return tuple(values)
