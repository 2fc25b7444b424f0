"""COCO files that were damaged at random, the same for the same seed."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**32 + 4096, 2**63, 10**299, 0.5, 1e30, -1e30, 1e308),
    *(float("nan"), float("inf"), "", "0", "1", "x", "\ud800", "\x00", "../../x", "9" * 300, "o" * 5000, "~"),
    *([], {}, [[]], [None], [[1, 2, 3]], [1, 2, 3, 4], [[0, 0, 5, 0, 5, 5, 0, 5]], [0, 0, 9, 0, 9, 9]),
    *([[1e30, 0, 5, 0, 5, 5]], [[float("nan")] * 6], [[0, 0, 10**6, 10**6, 0, 1] * 4], [-5, 0, 1, -1]),
    *({"size": [64, 64], "counts": [4096]}, {"size": [64, 64], "counts": [2**32 + 4096]}, {"counts": "0"}),
    *({"size": [10**6, 10**6], "counts": [10**12]}, {"size": [64, 64], "counts": [-1, 4097]}, {"size": [0, 0]}),
    *({"size": [10**6, 10**6], "counts": "PPPPPPPP0"}, {"size": ["64", "64"], "counts": "a"}),
]
"""What takes the place of something in a file."""


def mutated(content: Any, rng: np.random.Generator) -> bytes:
    """A JSON file of ``content`` with one to three things replaced, removed or doubled, or with a damaged text."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        _mutate(content, rng)
    data = bytearray(json.dumps(content).encode("utf-8", "surrogatepass"))
    kind = rng.random()
    if kind < 0.05:
        del data[int(rng.integers(len(data))) :]
    elif kind < 0.15:
        for place in rng.integers(len(data), size=4).tolist():
            data[place] = int(rng.integers(256))
    elif kind < 0.2:
        data[:0] = b"\xef\xbb\xbf"
    elif kind < 0.23:
        data = bytearray(b"[" * 100_000 + data)
    return bytes(data)


def _mutate(content: Any, rng: np.random.Generator) -> None:
    """Changes one thing at a random depth of lists and objects."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(content[key], (dict, list)) or rng.random() < 0.05:
            break
        content = content[key]
    value, kind = content[key], rng.random()
    if kind < 0.15:
        del content[key]
    elif kind < 0.25 and isinstance(content, list):
        content.append(copy.deepcopy(value))
    elif kind < 0.5 and isinstance(value, str) and value:
        cut = int(rng.integers(len(value)))
        content[key] = [value[:cut], value * 2, value[:cut] + chr(int(rng.integers(30, 130))) + value[cut:]][
            int(rng.integers(3))
        ]
    else:
        content[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
