"""Pages of HTML, read back by Python's own parser."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

LOADING = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background"}
"""Attributes whose value a browser may go and fetch."""

WITHOUT_END = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page shows.

    Attributes:
        text: all that is to be read, without styles and scripts.
        tables: rows of cells' texts.
        attributes: (tag, name, value) of all tags.
        open: tags that were not closed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in WITHOUT_END:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if not {"style", "script"} & set(self.open):
            self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        """An attribute of all tags of a kind that have it."""
        return [value for own, key, value in self.attributes if (own, key) == (tag, name)]

    def loaded(self) -> list[str]:
        """Addresses that the browser would go and fetch, those inside the page left out."""
        found = [value for _, name, value in self.attributes if name in LOADING]
        found += re.findall(r"url\(([^)]*)\)|@import", self.source)
        return [address for address in found if not address.strip("'\" ").startswith(("#", "data:"))]


def addresses(page: Page) -> set[str]:
    """Web addresses anywhere in the source but the names of SVG's namespaces."""
    return set(re.findall(r"https?://[^\s\"'<>]+", page.source)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def read_picture(address: str) -> NDArray[np.uint8]:
    """The RGB picture that a ``data:`` address of a JPEG is."""
    start, _, content = address.partition(",")
    assert start == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def read_whole_page(path: Path) -> Page:
    """A page that is well formed and that needs nothing but itself, with a text for each picture."""
    page = Page(path)
    assert page.open == []
    assert page.loaded() == [] and addresses(page) == set()
    pictures = [tag for tag, name, _ in page.attributes if (tag, name) == ("img", "src")]
    assert len([text for text in page.values("img", "alt") if text]) == len(pictures)
    plots = [value for value in page.values("div", "role") if value == "img"]
    assert len([text for text in page.values("div", "aria-label") if text]) >= len(plots) == page.source.count("<svg ")
    return page
