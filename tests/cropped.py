"""Corners of the sample's images, where a test needs real cells but few pixels."""

from __future__ import annotations

from pathlib import Path

from drawing import write_sample

from cellseg_d2.images.tiff import read_image, read_label_map


def write_corners(sample: Path, output: Path, count: int, side: int) -> None:
    """Writes the input layout of the first images by name, cut to their first ``side`` pixels."""
    for folder in sorted((sample / "train").iterdir())[:count]:
        maps = {int(path.stem[5:]): read_label_map(path)[:side, :side] for path in folder.glob("class*.tif")}
        write_sample(output, folder.name, read_image(folder / "image.tif")[:side, :side], maps, photometric="rgb")
