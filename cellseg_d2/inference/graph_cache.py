"""Keeps a model's graphs in files, known by a fingerprint of the weights and the config they were made from."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from cellseg_d2.errors import one_line
from cellseg_d2.weights.locations import PUBLISHED, local_path

logger = logging.getLogger(__name__)

FORM = 1
"""Graphs of another form, of an earlier version, are not taken up."""

SUFFIX = ".openvino"


@dataclass(frozen=True)
class GraphCache:
    """The places where a model's graphs may be.

    Attributes:
        folders: one for this model's graphs in each place, the preferred one first.
    """

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, model: nn.Module, cfg: CfgNode, version: str) -> GraphCache:
        """The cache of a model: beside its checkpoint, and where that cannot be written, in the user's cache folder.

        Weights of this package and random ones are kept in the user's cache folder only.

        Args:
            model: with its weights, as the graphs are made from it.
            cfg: its config.
            version: OpenVINO's.
        """
        known = fingerprint(model, cfg, version)
        places = [user_cache_folder()]
        weights = cfg.MODEL.WEIGHTS
        if weights and weights not in PUBLISHED and local_path(weights) not in map(str, PUBLISHED.values()):
            places.insert(0, Path(local_path(weights) + SUFFIX))
        return cls(tuple(place / known for place in places))

    def read(self, openvino: ModuleType, names: Sequence[str]) -> dict[str, Any] | None:
        """The graphs by name; None where there are none, or some cannot be read."""
        core = openvino.Core()
        for folder in self.folders:
            if not folder.is_dir():
                continue
            try:
                return {name: core.read_model(_file(folder, name)) for name in names}
            except RuntimeError as error:  # what OpenVINO raises for files that are missing or damaged
                logger.warning("%s: cannot be used and is made anew (%s)", folder, one_line(error, 100))
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def write(self, openvino: ModuleType, graphs: Mapping[str, Any]) -> None:
        """Writes the graphs into the first place where that is possible; all of them appear at once.

        Graphs of what the same checkpoint was before go.
        """
        for folder in self.folders:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as name:
                    partial = Path(name) / "graphs"
                    partial.mkdir()
                    for part, graph in graphs.items():
                        openvino.save_model(graph, _file(partial, part), compress_to_fp16=False)
                    if not folder.exists():  # else another process was first
                        os.replace(partial, folder)
            except (OSError, RuntimeError) as error:
                logger.info("%s: graphs cannot be kept there (%s)", folder.parent, one_line(error, 100))
            else:
                if folder.parent.name.endswith(SUFFIX):
                    for other in folder.parent.iterdir():
                        if len(other.name) == len(folder.name) and other != folder:
                            shutil.rmtree(other, ignore_errors=True)
                return


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part.replace(' ', '_')}.xml"


def fingerprint(model: nn.Module, cfg: CfgNode, version: str) -> str:
    """Differs wherever a model's graphs may differ: by weights, by the config of the model, and by versions."""
    known = hashlib.sha256(repr((FORM, version, torch.__version__, cfg.MODEL.dump())).encode())
    for name, tensor in model.state_dict().items():
        known.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        known.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return known.hexdigest()[:32]


def user_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/cellseg_d2/openvino``, in ``~/.cache`` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellseg_d2" / "openvino"
