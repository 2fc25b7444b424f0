"""Pictures of a dataset: its images and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellseg_d2.cells.coco import annotate
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.conversion.cut import open_input, read_sample
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.export.overlay import draw_grid, draw_overlay, write_picture
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import as_picture
from cellseg_d2.report.dataset_report import DESCRIPTION
from cellseg_d2.report.panels import legend, shrunk, stacked, titled

LARGEST_SIDE = 1024
"""The largest side of a panel in pixels; larger images are reduced."""


def write_dataset_grid(
    source: Path, output: Path, samples: int = 6, class_names: Sequence[str] = (), channels: Sequence[str] = ()
) -> None:
    """Writes a PNG with one row per image: the image and its cells, coloured by class, below a legend that counts them.

    Args:
        source: the input layout, see :mod:`cellseg_d2.annotations.class_tiffs`, or a converted dataset, whose training
            tiles are drawn.
        output: the PNG.
        samples: number of rows, at least 1; the images are spread evenly over all, in the order of their ids.
        class_names: names of class 1, 2, ...; not needed for a converted dataset.
        channels: those of the images, of which the first three are shown; a converted dataset knows its own.

    Raises:
        CellSegError: there are no images, one cannot be read, or the names are not as many as the classes.
    """
    converted = source / "annotations" / "instances_train.json"
    known = read_json(source / DESCRIPTION).get("channels", ()) if (source / DESCRIPTION).is_file() else ()
    channels = channels or [channel["name"] for channel in known]
    options = ConvertOptions(class_names=tuple(class_names), channels=tuple(channels))
    given = open_input(source, options, annotation_file=converted if converted.is_file() else None)
    sources, names = given.images, given.class_names
    rows = []
    counts = np.zeros(len(names), np.int64)
    for number in np.unique(np.linspace(0, len(sources) - 1, samples).round().astype(int)):
        sample = sources[number]
        image, layers = read_sample(sample, options, len(names))
        image, size = as_picture(image, options.pixel_rule), (image.shape[0], image.shape[1])
        cells = CellInstances.from_annotations(annotate(layers, (0, 0, size[1], size[0])), size)
        row = [(image, sample.id), (draw_overlay(image, cells), f"{len(cells)} cells")]
        rows.append(draw_grid([titled(shrunk(picture, LARGEST_SIDE), text) for picture, text in row], columns=2))
        counts += np.bincount(cells.classes, minlength=len(names))
    key = legend(names, counts.tolist(), max(row.shape[1] for row in rows))
    write_picture(output, stacked([key, *rows]))
