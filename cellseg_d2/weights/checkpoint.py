"""Checkpoints that contain their config; loading one reports which weights did not fit."""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

from cellseg_d2.config import cfg_from_text, get_cfg
from cellseg_d2.config_checks import check_config
from cellseg_d2.errors import CellSegError, counted, one_line
from cellseg_d2.files import whole_file
from cellseg_d2.weights.array_pickle import read_array_pickle
from cellseg_d2.weights.channels import adapted
from cellseg_d2.weights.classes import spread
from cellseg_d2.weights.inspection import check_torch_file
from cellseg_d2.weights.locations import PUBLISHED, local_path
from cellseg_d2.weights.pretrained import CONFIG_KEY, check_origin, match_by_ending, recognise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that has been read, so that it need not be read again.

    Attributes:
        path: the file on this machine.
        content: the result of :func:`open_weights`.
    """

    path: str
    content: dict[str, Any]

    @classmethod
    def read(cls, weights: str | os.PathLike[str]) -> WeightsFile:
        """Reads a value of MODEL.WEIGHTS, a path or URL.

        Raises:
            CellSegError: it is missing, cannot be fetched, or holds more than weights.
        """
        path = local_path(os.fspath(weights))
        return cls(path, open_weights(path))

    def cfg(self) -> CfgNode:
        """The config in a checkpoint of this package, with this file as MODEL.WEIGHTS.

        Raises:
            CellSegError: the file has no config, or one with values that are not allowed.
        """
        text = self.content.get(CONFIG_KEY)
        if not isinstance(text, str):
            raise CellSegError(f"{self.path}: carries no config; give --config-file, with MODEL.WEIGHTS {self.path}")
        cfg = cfg_from_text(text)
        cfg.MODEL.WEIGHTS = self.path
        # These are places of the training run; a prediction reads and writes what its command line names.
        cfg.OUTPUT_DIR, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = get_cfg().OUTPUT_DIR, (), ()
        check_config(cfg)
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # this machine's, not the training machine's
        return cfg

    def class_names(self) -> list[str]:
        """The classes that the weights were trained on; none where the file does not say."""
        cfg = self._known_cfg()
        return [] if cfg is None else list(cfg.CELLSEG.CLASS_NAMES)

    def _known_cfg(self) -> CfgNode | None:
        """The config of the training; None where the file does not say."""
        try:
            return cfg_from_text(str(self.content[CONFIG_KEY])) if CONFIG_KEY in self.content else None
        except CellSegError:  # a config of another version: its weights may still be good to begin from
            return None

    def check_data(self, cfg: CfgNode) -> None:
        """Raises CellSegError where they were trained on other classes or channels than the config has."""
        self.check_classes(cfg)
        known = self._known_cfg()
        if known is not None and list(known.CELLSEG.CHANNELS) != list(cfg.CELLSEG.CHANNELS):
            trained, given = (
                f"{counted(len(one.MODEL.PIXEL_MEAN), 'channel')} ({', '.join(one.CELLSEG.CHANNELS) or 'RGB'})"
                for one in (known, cfg)
            )
            raise CellSegError(
                f"{self.path}: was trained on {trained}, but the dataset has {given}; train anew with these, or "
                "convert with the same --channels"
            )

    def check_resumed(self, cfg: CfgNode, model: torch.nn.Module) -> None:
        """Raises CellSegError where their training, which the config is to continue, has another optimizer or model."""
        known, other = self._known_cfg(), ""
        states = self.content.get("model", {}), model.state_dict()
        saved, built = ({name: tuple(weight.shape) for name, weight in state.items()} for state in states)
        if known is not None and known.CELLSEG.OPTIMIZER != cfg.CELLSEG.OPTIMIZER:
            other = f"with {known.CELLSEG.OPTIMIZER}, whose state {cfg.CELLSEG.OPTIMIZER} cannot use"
        elif saved != built:
            name = min(name for name in {*saved, *built} if saved.get(name) != built.get(name))
            other = f"of another model, see {name}"
        if other:
            settings = Path(cfg.OUTPUT_DIR) / "config.yaml"
            raise CellSegError(
                f"{self.path}: is of a training {other}; go on with its settings, --config-file {settings}"
            )

    def check_classes(self, cfg: CfgNode) -> None:
        """Raises CellSegError where they were trained on other classes than the config has, or in another order."""
        trained, given = self.class_names(), list(cfg.CELLSEG.CLASS_NAMES)
        if trained and given and trained != given:
            raise CellSegError(
                f"{self.path}: was trained on the classes {', '.join(trained)}, but the dataset has "
                f"{', '.join(given)}; train anew with these, or, where classes were only renamed, convert with "
                f"--class-names {shlex.join(trained)}"
            )

    def warn_of_classes(self, cfg: CfgNode) -> None:
        """Warns where weights that a training begins with know as many classes, but others."""
        trained, given = self.class_names(), list(cfg.CELLSEG.CLASS_NAMES)
        if len(trained) == len(given) and trained != given:
            logger.warning(
                "%s was trained on the classes %s; the heads begin with what they know of those, and learn %s",
                *(self.path, ", ".join(trained), ", ".join(given)),
            )

    def warn_of_channels(self, cfg: CfgNode) -> None:
        """Warns where weights that a training begins with know as many channels, but others or in another order."""
        known, given = self._known_cfg(), list(cfg.CELLSEG.CHANNELS)
        trained = [] if known is None else list(known.CELLSEG.CHANNELS)
        if trained and len(trained) == len(given) and trained != given:
            logger.warning(
                "%s was trained on the channels %s; the first convolution begins with what it knows of those, and "
                "learns %s",
                *(self.path, ", ".join(trained), ", ".join(given)),
            )

    def check_origin(self, cfg: CfgNode) -> None:
        """Raises CellSegError where training cannot begin from them: they want other input than the config's."""
        check_origin(recognise(self.content, self.path).origin, cfg, self.path, adapts=True)


LISTED = 12
"""The most layers that a message names for each kind of misfit; it counts the others."""


class CellCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with more care for the files.

    It also

    - writes the config into each file, so that a checkpoint alone is enough to predict with,
    - writes a file whole or not at all,
    - does not let the best checkpoint become the one to resume from,
    - opens ``.pth`` files with ``weights_only=True``, so that a foreign file cannot run code,
    - reads torchvision's networks too, and refuses weights that were trained on other input than the config's,
    - adapts the first convolution to other channels than those that it was trained on, and heads that know one class
      to several, unless ``strict``,
    - names the layers that did not fit, and with ``strict`` refuses them.

    Args:
        model: whose weights are saved and loaded.
        cfg: its config; files go to OUTPUT_DIR.
        strict: refuse a file that lacks weights or whose shapes differ, instead of initialising these randomly.
        opened: a file that was read before; :meth:`load` does not read it again.
        checkpointables: what else is saved, such as the trainer.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        cfg: CfgNode,
        *,
        strict: bool,
        opened: WeightsFile | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, cfg.OUTPUT_DIR, **checkpointables)
        self.opened = opened
        self.cfg = cfg
        self.cfg_text = cfg.dump()
        self.strict = strict

    def save(self, name: str, **kwargs: Any) -> None:
        """Saves everything that training needs to ``OUTPUT_DIR/name.pth``, and makes it the file to resume from."""
        state = {key: value.state_dict() for key, value in self.checkpointables.items()}
        self.save_weights(name, **state, **kwargs)
        if self.save_dir and self.save_to_disk:
            self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Saves what prediction needs to ``OUTPUT_DIR/name.pth``: the model and its config, and ``kwargs``."""
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            with whole_file(path) as partial:
                torch.save({"model": self.model.state_dict(), CONFIG_KEY: self.cfg_text, **kwargs}, partial)
        except RuntimeError as error:
            if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
                raise
            # what torch's writer of archives raises where the disk is full
            raise CellSegError(f"{path}: cannot be written ({one_line(error, 100)}); make room, and go on") from error
        logger.info("saved %s", path)

    def take_back(self, iteration: int, names: Iterable[str]) -> None:
        """Removes the checkpoints of an iteration and later ones, and others by name.

        The newest that is left, if any is, becomes the file to resume from.
        """
        folder = Path(self.save_dir)
        numbered = [path for path in folder.glob("model_*.pth") if path.stem.removeprefix("model_").isdecimal()]
        later = [path for path in numbered if int(path.stem.removeprefix("model_")) >= iteration]
        for path in (*later, *(folder / f"{name}.pth" for name in names)):
            path.unlink(missing_ok=True)
        tag = folder / "last_checkpoint"
        if tag.is_file() and not (folder / tag.read_text(encoding="utf-8").strip()).is_file():
            if left := sorted(path.name for path in folder.glob("model_[0-9]*.pth")):
                self.tag_last_checkpoint(left[-1])
            else:
                tag.unlink()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name of the file to resume from, whole or not at all."""
        with whole_file(Path(self.save_dir) / "last_checkpoint") as partial:
            partial.write_text(last_filename_basename, encoding="utf-8")

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads a file or URL; an empty path loads nothing.

        Raises:
            CellSegError: it cannot be read, or does not go with the config or the model.
        """
        if path:
            local = local_path(path)
            path = local if path in PUBLISHED else path  # Detectron2 finds all others itself
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """A file's content in the form that Detectron2 expects; only kinds that cannot run code are opened."""
        if filename.endswith((".pth", ".pt")):
            content = super()._load_file(filename)  # which looks at the URL's query, and calls _torch_load
        else:
            content = self._torch_load(filename)
        known = recognise(content, filename)
        check_origin(known.origin, self.cfg, filename, adapts=not self.strict)
        if not all_finite(known.weights):
            raise CellSegError(
                f"{filename}: holds weights that are infinite or NaN; give a checkpoint from before that"
            )
        by_ending = known.by_ending or content.get("matching_heuristics", False)
        return {**content, "model": known.weights, "matching_heuristics": by_ending}

    def _torch_load(self, f: str) -> dict[str, Any]:
        return self.opened.content if self.opened is not None and self.opened.path == f else open_weights(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        wanted = set(self.model.state_dict())
        given = set(checkpoint["model"])
        if checkpoint.pop("matching_heuristics", False):
            checkpoint["model"] = match_by_ending(checkpoint["model"], wanted)
        if not self.strict:
            checkpoint["model"] = spread(checkpoint["model"], self.model.state_dict())
        if self.cfg.CELLSEG.CHANNELS and not self.strict:
            channels = len(self.cfg.CELLSEG.CHANNELS)
            checkpoint["model"] = adapted(checkpoint["model"], self.model.state_dict(), channels)
        incompatible = super()._load_model(checkpoint)
        shapes = {name: f"{name} {old} -> {new}" for name, old, new in incompatible.incorrect_shapes}
        missing = set(incompatible.missing_keys) - shapes.keys()
        extra = set(incompatible.unexpected_keys)
        fresh = _listed([*shapes.values(), *_by_layer(missing, wanted - missing)])
        unused = _by_layer({name for name in extra if not name.endswith("num_batches_tracked")}, given - extra)
        rest = f"; not used: {_listed(unused)}" if unused else ""
        loaded = len(wanted) - len(missing) - len(shapes)
        if not loaded:
            raise CellSegError(f"the checkpoint has no weights of this model: {fresh}{rest}; give one of its network")
        if self.strict and fresh:
            raise CellSegError(f"the checkpoint does not fit the model: {fresh}{rest}; give its own config file")
        lost = f"; initialised randomly: {fresh}" if fresh else ""
        level = logging.WARNING if shapes else logging.INFO
        logger.log(level, "loaded %d of the model's %d tensors%s%s", loaded, len(wanted), lost, rest)
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Does nothing, since :meth:`_load_model` has reported by layer what fvcore reports here by name."""


def all_finite(weights: Mapping[str, Any]) -> bool:
    """Whether no number of some tensors or arrays is infinite or NaN."""
    tensors = (torch.as_tensor(weight) for weight in weights.values())
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def _by_layer(names: set[str], others: set[str]) -> list[str]:
    """The outermost layers that contain some of these tensors and none of the others: ``layer (count tensors)``."""
    inner = {layer for name in others for layer in _layers(name)}
    counts = Counter(next((layer for layer in _layers(name) if layer not in inner), name) for name in names)
    return [f"{layer} ({count} tensors)" if count > 1 else layer for layer, count in sorted(counts.items())]


def _layers(name: str) -> Iterator[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``."""
    return accumulate(name.split("."), "{}.{}".format)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more


def open_weights(path: str) -> dict[str, Any]:
    """The content of a file of weights of either kind.

    Raises:
        CellSegError: no such file, of another kind, or with more in it than weights.
    """
    if path.endswith(".pkl"):
        return read_array_pickle(path)
    if not path.endswith((".pth", ".pt")):
        raise CellSegError(f"{path}: only .pth, .pt and .pkl files are opened as weights")
    return load_file(path)


def load_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a ``.pth`` file, on the CPU; an archive's tensors stay on the disk until they are used.

    Raises:
        CellSegError: no such file, or it holds more than tensors and built-in containers.
    """
    try:
        entries = check_torch_file(path)
        if entries and sorted(torch._C.PyTorchFileReader(os.fspath(path)).get_all_records()) != _records(entries):
            raise RuntimeError("torch sees other entries in it than zipfile does")
        content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=bool(entries))
    except CellSegError:
        raise
    except FileNotFoundError as error:
        raise CellSegError(f"{path}: there is no such file") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... by what is wrong
        raise CellSegError(
            f"{path}: is no checkpoint of tensors ({type(error).__name__}: {one_line(error, 100)})"
        ) from error
    if not isinstance(content, dict):
        raise CellSegError(f"{path}: is no checkpoint, but a {type(content).__name__}")
    return content


def _records(entries: list[str]) -> list[str]:
    """The names of an archive's entries as torch gives them, without the folder that contains all of them."""
    return sorted(entry.partition("/")[2] for entry in entries)
