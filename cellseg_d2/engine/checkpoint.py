"""Checkpoints that carry their config, and that say what did not fit."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

from cellseg_d2.config import cfg_from_text
from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

CONFIG_KEY = "cellseg_d2_config"
BEST_NAME = "model_best"


class CellCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with more care for the files.

    It also

    - writes the config into each file, so that a checkpoint alone is enough to predict with,
    - writes a file whole or not at all,
    - never lets the best checkpoint become the one to resume from,
    - opens ``.pth`` files with ``weights_only=True``, so that a foreign file cannot run code,
    - names the layers that did not fit, and with ``strict`` refuses them.

    Args:
        model: whose weights are saved and loaded.
        cfg: its config; files go to OUTPUT_DIR.
        strict: refuse a file that lacks weights or whose shapes differ, instead of beginning these afresh.
        checkpointables: what else is saved, such as the trainer.
    """

    def __init__(self, model: torch.nn.Module, cfg: CfgNode, *, strict: bool, **checkpointables: Any) -> None:
        super().__init__(model, cfg.OUTPUT_DIR, **checkpointables)
        self.cfg_text = cfg.dump()
        self.strict = strict

    def save(self, name: str, **kwargs: Any) -> None:
        """Saves to ``OUTPUT_DIR/name.pth``."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), CONFIG_KEY: self.cfg_text, **kwargs}
        for key, value in self.checkpointables.items():
            data[key] = value.state_dict()
        path = os.path.join(self.save_dir, f"{name}.pth")
        torch.save(data, f"{path}.partial")
        os.replace(f"{path}.partial", path)
        logger.info("saved %s", path)
        if name != BEST_NAME:
            self.tag_last_checkpoint(f"{name}.pth")

    def _torch_load(self, f: str) -> dict[str, Any]:
        return load_file(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        shapes = [f"{name} {old} -> {new}" for name, old, new in incompatible.incorrect_shapes]
        if self.strict and (shapes or incompatible.missing_keys):
            first = (shapes or [f"{name} is missing" for name in incompatible.missing_keys])[0]
            count = len(shapes) + len(incompatible.missing_keys)
            raise CellSegError(
                f"the checkpoint does not fit the model: {first} ({count} such); give its own config file"
            )
        if shapes:
            logger.warning("begun afresh, since their shapes differ from the checkpoint's: %s", "; ".join(shapes))
        return incompatible


def load_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a ``.pth`` file, on the CPU.

    Raises:
        CellSegError: no such file, or it holds more than tensors and built-in containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CellSegError(f"{path}: there is no such checkpoint") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... by what is wrong
        raise CellSegError(
            f"{path}: is no checkpoint of tensors ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        ) from error


def checkpoint_cfg(path: str | os.PathLike[str]) -> CfgNode:
    """The config that a checkpoint of ours was trained with.

    Raises:
        CellSegError: the file cannot be read, or carries no config.
    """
    text = load_file(path).get(CONFIG_KEY)
    if not isinstance(text, str):
        raise CellSegError(f"{path}: carries no config; give --config-file, with MODEL.WEIGHTS {path}")
    return cfg_from_text(text)
