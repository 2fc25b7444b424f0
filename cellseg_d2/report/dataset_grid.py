"""Pictures of a dataset: its images and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellseg_d2.cells.coco import annotate
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.conversion.cut import open_input, read_sample
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.export.overlay import class_keys, write_picture
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import as_picture
from cellseg_d2.report.dataset_report import DESCRIPTION
from cellseg_d2.report.panels import cell_panel, count_text, image_panel
from cellseg_d2.report.sheet import draw_sheet


def write_dataset_grid(
    source: Path, output: Path, samples: int = 6, class_names: Sequence[str] = (), channels: Sequence[str] = ()
) -> None:
    """Writes a PNG of images, each beside its cells, coloured by class, below a legend that counts them.

    Args:
        source: the input layout, see :mod:`cellseg_d2.annotations.class_tiffs`, or a converted dataset, whose training
            tiles are drawn.
        output: the PNG.
        samples: number of images, at least 1; the images are spread evenly over all, in the order of their ids.
        class_names: names of class 1, 2, ...; not needed for a converted dataset.
        channels: the images' channels, of which the first three are shown; a converted dataset knows its channels.

    Raises:
        CellSegError: there are no images, one cannot be read, or the names are not as many as the classes.
    """
    converted = source / "annotations" / "instances_train.json"
    known = read_json(source / DESCRIPTION).get("channels", ()) if (source / DESCRIPTION).is_file() else ()
    channels = channels or [channel["name"] for channel in known]
    options = ConvertOptions(class_names=tuple(class_names), channels=tuple(channels))
    given = open_input(source, options, annotation_file=converted if converted.is_file() else None)
    sources, names = given.images, given.class_names
    groups = []
    counts = np.zeros(len(names), np.int64)
    for number in np.unique(np.linspace(0, len(sources) - 1, samples).round().astype(int)):
        sample = sources[number]
        read = read_sample(sample, options, len(names))
        image, size = as_picture(read.image, options.pixel_rule), (read.image.shape[0], read.image.shape[1])
        cells = CellInstances.from_annotations(annotate(read.label_maps, (0, 0, size[1], size[0])), size)
        groups.append([image_panel(sample.id, image), cell_panel(count_text(len(cells)), image, cells)])
        counts += np.bincount(cells.classes, minlength=len(names))
    write_picture(output, draw_sheet(groups, class_keys(names, counts.tolist())))
