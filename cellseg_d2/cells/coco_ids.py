"""Ids of COCO files, which people write as whole numbers of any size or as text, as small whole numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Protocol

LARGEST_ID = 2**31 - 1
"""Of categories and annotations."""

FIRST_OF_TEXT = 2**62

NUMBER = re.compile(r"-?[0-9]{1,400}", re.ASCII)


class Finder(Protocol):
    """Whatever knows ids."""

    def find(self, raw: Any) -> int | None:
        """The number of an id; None for what it does not know."""


class Ids:
    """The ids of one kind, of images say, in one file or in several that agree.

    Numbers and their text are the same id, unless that would make one of two: of "1" and "01". Ids that are whole
    numbers of the range asked for stay as they are; others are numbered, numbers in their order and text as it comes.

    Args:
        raws: the ids as a file has them, each one that :func:`is_id` knows.
        least, most: the ends of the range, which belong to it.
        first: what ids that do not stay are numbered from.

    >>> images = Ids(["7", "31"], 0, 99)
    >>> images.find(31), images.find("31"), images.find("a"), images.original(31)
    (31, 31, None, '31')
    >>> Ids([0, 2**70], 1, 99).find(2**70)
    2
    """

    def __init__(self, raws: Iterable[Any], least: float, most: float, first: int = 1) -> None:
        distinct = list(dict.fromkeys(raws))
        numbers = [number for number in map(_number, distinct) if number is not None]
        self._numeric = len(numbers) == len(distinct) and len(set(numbers)) == len(set(map(_text, distinct)))
        keys: list[Any] = numbers if self._numeric else list(map(_text, distinct))
        if self._numeric and all(least <= number <= most for number in numbers):
            self._by_key: dict[Any, int] = {number: number for number in numbers}
        else:
            ordered = sorted(set(numbers)) if self._numeric else dict.fromkeys(keys)
            self._by_key = {key: place for place, key in enumerate(ordered, start=first)}
        self._by_raw = {raw: self._by_key[key] for raw, key in zip(distinct, keys)}
        self._raws = {inner: raw for raw, inner in reversed(self._by_raw.items())}

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, raw: Any) -> int | None:
        """The number of an id; None for an id that is not among these, and for what is none."""
        if type(raw) is int or type(raw) is str:
            found = self._by_raw.get(raw)
            if found is not None:
                return found
        if not is_id(raw):
            return None
        key: Any = _number(raw) if self._numeric else _text(raw)
        return self._by_key.get(key)

    def original(self, number: int) -> Any:
        """The id as it was written first."""
        return self._raws[number]


def image_ids(raws: Iterable[Any]) -> Ids:
    """Ids of images: whole numbers stay, as files beside name them; text gets numbers that none of these has."""
    return Ids(raws, -math.inf, math.inf, FIRST_OF_TEXT)


def category_ids(raws: Iterable[Any]) -> Ids:
    """Ids of categories: whole numbers above 0 that 32 bits hold."""
    return Ids(raws, 1, LARGEST_ID)


def is_id(raw: Any) -> bool:
    """Whether a value can be an id: a whole number or text."""
    return type(raw) is int or type(raw) is str or (type(raw) is float and raw.is_integer())


def _number(raw: Any) -> int | None:
    if type(raw) is str:
        return int(raw) if NUMBER.fullmatch(raw) else None
    return int(raw)


def _text(raw: Any) -> str:
    return raw if type(raw) is str else str(int(raw))
