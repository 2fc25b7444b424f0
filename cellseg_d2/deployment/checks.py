"""What is checked before a model is exported, while none of what the export itself needs is imported."""

from __future__ import annotations

from importlib.util import find_spec

from detectron2.config import CfgNode

from cellseg_d2.errors import CellSegError

NEEDED = ("onnx", "onnxruntime")
"""Packages that write an ONNX file, and try it out."""


def check_exportable(cfg: CfgNode) -> None:
    """Raises CellSegError where a package is missing, or the config asks for what the exported model cannot do."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise CellSegError(f"{missing[0]} is not installed; pip install 'cellseg_d2[deploy]'")
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
