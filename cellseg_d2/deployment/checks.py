"""What is checked before a model is exported, while none of what the export itself needs is imported."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode

from cellseg_d2.errors import CellSegError

NEEDED = ("onnx", "onnxruntime")
"""Packages that write an ONNX file, and try it out."""


def check_exportable(cfg: CfgNode) -> None:
    """Raises CellSegError where a package is missing, or the config asks for what the exported model cannot do."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise CellSegError(f"{missing[0]} is not installed; pip install 'cellseg_d2[deploy]'")
    if cfg.CELLSEG.CHANNELS:
        raise CellSegError(
            f"an exported model takes RGB images, not the channels {', '.join(cfg.CELLSEG.CHANNELS)}; use `predict`"
        )
    options = cfg.CELLSEG.INFERENCE
    refused = {
        "CELLSEG.INFERENCE.TTA.ENABLED": (options.TTA.ENABLED, False),
        "CELLSEG.INFERENCE.SUPPRESS_RESULTS": (options.SUPPRESS_RESULTS, False),
        "CELLSEG.INFERENCE.SKIP_BACKGROUND": (options.SKIP_BACKGROUND, False),
        "CELLSEG.INFERENCE.SUPPRESSION": (options.SUPPRESSION, "hard"),
    }
    for key, (value, possible) in refused.items():
        if value not in (possible, "none"):
            raise CellSegError(f"an exported model has no {key} {value}; add {key} {possible} to the command")


def described_name(given: str | None, weights: str) -> str:
    """What bioimage.io shall call a model; None for a name after the file of its weights.

    Raises:
        CellSegError: bioimage.io does not allow the name.
    """
    if given is None:
        return re.sub(r"[^A-Za-z0-9_+() -]", "_", Path(weights).stem)[:100] + " by cellseg_d2"
    if not re.fullmatch(r"[A-Za-z0-9_+() -]{5,128}", given):
        raise CellSegError(f"--name {given!r} is no name for bioimage.io; give 5 to 128 of A-Z a-z 0-9 _ + - ( ) space")
    return given
