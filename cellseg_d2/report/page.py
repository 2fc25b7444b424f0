"""HTML pages in a single file, which need no network and no server."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from numpy.typing import NDArray

from cellseg_d2 import __version__
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import whole_file
from cellseg_d2.report.panels import shrunk

INK = "#010203"
"""A colour that only :data:`PAGE_STYLE` uses; in the page it becomes the text colour, light or dark."""

PAGE_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "cellseg_d2",  # the same figure always gives the same text
    "font.family": "sans-serif",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.facecolor": "none",
    "legend.edgecolor": "none",
    "text.parse_math": False,  # names of classes and folders may contain dollar signs
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c8c8c"]),
}
"""matplotlib's settings for figures of a page: put ``@matplotlib.rc_context(PAGE_STYLE)`` on the function that draws.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish, without the ones too pale on white.
"""

LEGIBLE, LARGEST = 0.9, 1.5
"""By how much a page scales figures at the least and at the most; a letter of 10 points gets 9 to 15 pixels high."""

JPEG_QUALITY = 85

JPEG_SIDE = 65_500
"""The largest side in pixels that libjpeg writes."""


def write_page(output: Path, template: str, **content: Any) -> None:
    """Writes a page.

    Args:
        output: the HTML file, written whole or not at all.
        template: a file of ``report/templates``; values are escaped, except :class:`markupsafe.Markup`.
        content: a value for each name in the template.

    Raises:
        CellSegError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("cellseg_d2", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = grouped_number
    environment.globals["version"] = __version__
    text = environment.get_template(template).render(content)
    with whole_file(output) as partial:
        partial.write_text(text, encoding="utf-8")


def figure_svg(figure: Figure) -> Markup:
    """A figure that was drawn in :data:`PAGE_STYLE`, as SVG that fills the width of a page as far as it is legible.

    It is never reduced to less than :data:`LEGIBLE` of its size, and in a narrower page it scrolls.
    """
    buffer = io.StringIO()
    # within the style too, because matplotlib reads some of its settings only here
    with matplotlib.rc_context(PAGE_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # ids of groups are unused, and the same in every figure
    start, rest = svg.split(">", 1)
    start = re.sub(r' (width|height)="[^"]*"', "", start)  # its viewBox keeps its shape
    wide = 72 * figure.get_figwidth()  # in the units of the viewBox, of which a letter has 10 or more
    return Markup(f'{start} style="min-width:{LEGIBLE * wide:.0f}px;max-width:{LARGEST * wide:.0f}px">{rest}')


def picture_uri(picture: NDArray[np.uint8], max_side: int | None = None) -> str:
    """A picture as a ``data:`` address, which contains it.

    Args:
        picture: (H, W, 3) uint8 RGB.
        max_side: larger pictures are reduced so that their larger side is this; None for never.

    Returns:
        A ``data:`` address of a JPEG.

    Raises:
        CellSegError: a side is larger than :data:`JPEG_SIDE`.
    """
    if max_side is not None:
        picture = shrunk(picture, max_side)
    if (side := max(picture.shape[:2])) > JPEG_SIDE:
        raise CellSegError(f"a picture of {side:,} pixels is too large for a page; give a smaller size")
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def grouped_number(value: float | None, digits: int = 1) -> str:
    """A number as tables show it, with a dash for NaN and None.

    >>> grouped_number(12.345), grouped_number(float("nan")), grouped_number(None), grouped_number(12345, 0)
    ('12.3', '-', '-', '12,345')
    """
    return "-" if value is None or value != value else f"{value:,.{digits}f}"
