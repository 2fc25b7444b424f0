"""A small set in the form in which MoNuSAC is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

Corners = Sequence[tuple[float, float]]


def box(x0: float, y0: float, x1: float, y1: float) -> Corners:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def xml(outlines: Mapping[str, Sequence[Corners]]) -> str:
    """What ImageScope writes, one Annotation a class."""
    layers = []
    for number, (name, polygons) in enumerate(outlines.items(), start=1):
        regions = "".join(
            f'<Region Id="{place}" Type="0" Zoom="1" NegativeROA="0" Analyze="1"><Attributes/><Vertices>'
            + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
            + "</Vertices></Region>"
            for place, corners in enumerate(polygons, start=1)
        )
        layers.append(
            f'<Annotation Id="{number}" Name="" ReadOnly="0" Type="4" LineColor="65280" Visible="1">'
            f'<Attributes><Attribute Name="{name}" Id="0" Value=""/></Attributes><Regions><RegionAttributeHeaders>'
            '<AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/></RegionAttributeHeaders>'
            f"{regions}</Regions><Plots/></Annotation>"
        )
    return f'<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>\n'


def write_pair(
    folder: Path, name: str, image: NDArray[Any], outlines: Mapping[str, Sequence[Corners]], suffix: str = ".svs"
) -> Path:
    """Writes an image and its XML into a slide's folder, and gives the image's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    if suffix == ".svs":  # tiled pages, each with Aperio's description; the second is the thumbnail
        with tifffile.TiffWriter(path) as file:
            settings = {"photometric": "rgb", "compression": "lzw", "metadata": None}
            file.write(image, tile=(64, 64), description="Aperio Image Library v11\nAppMag = 40", **settings)
            file.write(np.ascontiguousarray(image[::2, ::2]), description="Aperio Image Library v11", **settings)
    else:
        tifffile.imwrite(path, image, photometric="rgb")
    (folder / f"{name}.xml").write_text(xml(outlines))
    return path
