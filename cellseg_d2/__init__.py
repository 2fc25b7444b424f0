"""A Detectron2 plugin for cells: label TIFFs in, a trained Mask R-CNN and whole-image results out.

``import cellseg_d2`` is cheap: it loads neither torch nor Detectron2. The names below do, when they are first used.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

# albumentations asks the package index for a newer version of itself at import; clusters without a network hang on it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# Newer releases of torch warn of two functions that Detectron2 calls; nobody can do anything about it here.
warnings.filterwarnings("ignore", "`torch.jit.script(_method)?` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", "`torch.jit.script(_method)?` is deprecated", DeprecationWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cellseg_d2.config import add_cellseg_config, get_cfg
    from cellseg_d2.plugin import setup

__all__ = ["add_cellseg_config", "get_cfg", "setup"]

_HOMES = {"add_cellseg_config": "config", "get_cfg": "config", "setup": "plugin"}


def __getattr__(name: str) -> Any:
    """Loads a public name's module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cellseg_d2.{_HOMES[name]}"), name)
