"""Whole numbers as values of config keys that are floats, which yacs refuses: ``SOLVER.BASE_LR 1``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode

Key = tuple[str, ...]

WHOLE = re.compile(r"[+-]?[0-9]{1,300}", re.ASCII)
"""Of digits that a float can hold."""


@contextmanager
def whole_numbers(cfg: CfgNode, given: Iterable[tuple[Key, Any]]) -> Iterator[None]:
    """Lets a merge set float keys to whole numbers; they are floats again at its end, and as before if it fails.

    Args:
        cfg: what is merged into.
        given: keys and values of what is merged, from :func:`in_file` or :func:`in_overrides`.
    """
    keys = [key for key, value in given if type(value) is int and type(_value(cfg, key)) is float]
    before = {key: _value(cfg, key) for key in keys}
    try:
        for key in keys:
            _set(cfg, key, 0)
        yield
        before = {key: float(_value(cfg, key)) for key in keys}
    finally:
        for key, value in before.items():
            _set(cfg, key, value)


def in_file(content: Any, above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """All keys and values of a config file's content.

    >>> list(in_file({"SOLVER": {"BASE_LR": 1, "STEPS": []}}))
    [(('SOLVER', 'BASE_LR'), 1), (('SOLVER', 'STEPS'), [])]
    """
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            yield from in_file(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def in_overrides(overrides: Sequence[Any]) -> Iterator[tuple[Key, Any]]:
    """Those of KEY VALUE KEY VALUE ... whose values are whole numbers.

    >>> list(in_overrides(["SOLVER.BASE_LR", "1", "SOLVER.GAMMA", "0.5"]))
    [(('SOLVER', 'BASE_LR'), 1)]
    """
    for key, text in zip(overrides[::2], overrides[1::2]):
        if isinstance(text, str) and WHOLE.fullmatch(text.strip()):
            yield tuple(str(key).split(".")), int(text)


def _value(cfg: CfgNode, key: Key) -> Any:
    """The value of a key; None where there is no such key."""
    node: Any = cfg
    for name in key:
        node = node.get(name) if isinstance(node, CfgNode) else None
    return node


def _set(cfg: CfgNode, key: Key, value: Any) -> None:
    node = cfg
    for name in key[:-1]:
        node = node[name]
    node[key[-1]] = value
