"""What a training says: some lines on the terminal, all of them in ``log.txt``."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

logger = logging.getLogger(__name__)

SHOWN = (
    "cellseg_d2",
    "detectron2.engine.hooks",
    "detectron2.engine.train_loop",
    "detectron2.evaluation.coco_evaluation",
    "detectron2.utils.events",
)
"""Loggers whose lines people want to see; of all others, their warnings."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Plain(logging.Formatter):
    """Lines without the colours that Detectron2 gives configs."""

    def format(self, record: logging.LogRecord) -> str:
        return _COLOURS.sub("", super().format(record))


class _Important(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.startswith(SHOWN)


def log_to(output_dir: str, *, verbose: bool) -> None:
    """Sends log lines to ``log.txt`` in a folder, and those that matter to the terminal of the first process.

    Args:
        output_dir: the folder.
        verbose: all lines to the terminal too.
    """
    rank = comm.get_rank()
    ours = logging.getLogger("cellseg_d2")
    ours.handlers.clear()
    # Detectron2's own set-up, called as its default_setup calls it: that finds it done and adds no handlers
    loggers = [setup_logger(output_dir, distributed_rank=rank)]
    loggers += [setup_logger(output_dir, distributed_rank=rank, name=name) for name in ("fvcore", "cellseg_d2")]
    ours.setLevel(logging.INFO)  # Detectron2 asks for everything, a line for each image predicted among it
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(_Plain("[%(asctime)s] %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    if not verbose:
        terminal.addFilter(_Important())
    for package in loggers:
        for handler in list(package.handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                package.removeHandler(handler)
            else:
                handler.setFormatter(_Plain("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        if rank == 0:
            package.addHandler(terminal)


def describe(cfg: CfgNode, config_file: str) -> None:
    """Logs what a training is about to do: data, model, schedule, and where things go."""
    solver, test = cfg.SOLVER, cfg.TEST
    parts = [f"{name} ({_tiles(name)})" for name in cfg.DATASETS.TRAIN]
    logger.info("data: %s; classes: %s", ", ".join(parts), ", ".join(cfg.CELLSEG.CLASS_NAMES))
    every = f"every {test.EVAL_PERIOD} iterations" if test.EVAL_PERIOD > 0 else "at the end"
    validated = ", ".join(f"{name} ({_tiles(name)}) {every}" for name in cfg.DATASETS.TEST)
    logger.info("validation: %s", validated or "none")
    device = torch.cuda.get_device_name() if cfg.MODEL.DEVICE.startswith("cuda") else "CPU"
    logger.info("model: %s on %d x %s", Path(config_file).stem, comm.get_world_size(), device)
    logger.info("begins with: %s", cfg.MODEL.WEIGHTS or "random weights")
    logger.info(
        "schedule: %d iterations of %d tiles, learning rate %g (SOLVER.MAX_ITER, IMS_PER_BATCH, BASE_LR); a checkpoint "
        "every %d iterations",
        *(solver.MAX_ITER, solver.IMS_PER_BATCH, solver.BASE_LR, solver.CHECKPOINT_PERIOD),
    )
    logger.info("limits: %d cells a tile, %d proposals", test.DETECTIONS_PER_IMAGE, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    logger.info("output: %s; all lines are in its log.txt, and with --verbose here", cfg.OUTPUT_DIR)


def _tiles(dataset: str) -> str:
    count = MetadataCatalog.get(dataset).get("image_count")
    return "images" if count is None else f"{count} tiles"
