"""Checkpoints that carry their config, and that say what did not fit."""

from __future__ import annotations

import logging
import os
import pickle
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

from cellseg_d2.config import cfg_from_text
from cellseg_d2.errors import CellSegError, one_line

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

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name of the file to resume from, whole or not at all."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        with open(f"{path}.partial", "w", encoding="utf-8") as file:
            file.write(last_filename_basename)
        os.replace(f"{path}.partial", path)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """A file in the form that Detectron2 goes on with; only kinds that cannot run code are opened."""
        if not filename.endswith((".pth", ".pt")):
            content = open_weights(filename)
            if "model" in content and "__author__" in content:
                return content  # Detectron2's model zoo
            weights = content.get("blobs", content)  # Caffe2's and Detectron's, as the zoo's ImageNet weights
            weights = {name: value for name, value in weights.items() if not name.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> dict[str, Any]:
        return open_weights(f)

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


def open_weights(path: str) -> dict[str, Any]:
    """The content of a file of weights of either kind.

    Raises:
        CellSegError: no such file, of another kind, or with more in it than weights.
    """
    if path.endswith(".pkl"):
        return load_pickle(path)
    if not path.endswith((".pth", ".pt")):
        raise CellSegError(f"{path}: only .pth, .pt and .pkl files are opened as weights")
    return load_file(path)


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
            f"{path}: is no checkpoint of tensors ({type(error).__name__}: {one_line(error, 100)})"
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Admits what the model zoo's files are made of, numpy arrays in built-in containers, and nothing else."""

    ALLOWED = frozenset(
        (f"{module}.{name}")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy", "_codecs", "collections")
        for name in ("_reconstruct", "scalar", "ndarray", "dtype", "encode", "OrderedDict")
    )

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that a pickle asks for."""
        if f"{module}.{name}" not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def load_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a ``.pkl`` file of Detectron2's model zoo.

    Raises:
        CellSegError: no such file, or it holds more than numpy arrays and built-in containers.
    """
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise CellSegError(f"{path}: there is no such file") from error
    except Exception as error:  # a damaged pickle raises anything
        raise CellSegError(f"{path}: is no file of weights ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise CellSegError(f"{path}: is no file of weights, but a {type(content).__name__}")
    return content


def checkpoint_cfg(path: str | os.PathLike[str]) -> CfgNode:
    """The config that a checkpoint of ours was trained with.

    Raises:
        CellSegError: the file cannot be read, or carries no config.
    """
    text = load_file(path).get(CONFIG_KEY)
    if not isinstance(text, str):
        raise CellSegError(f"{path}: carries no config; give --config-file, with MODEL.WEIGHTS {path}")
    cfg = cfg_from_text(text)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # this machine's, not the one it was trained on
    return cfg
