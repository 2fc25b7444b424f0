"""Trains or evaluates a model, on one CPU or many GPUs, with Detectron2's arguments and launcher."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cellseg_d2
from cellseg_d2.commands.cli import ToolParser

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from cellseg_d2.weights.checkpoint import WeightsFile


def train(args: argparse.Namespace, cfg: CfgNode, opened: WeightsFile | None) -> None:
    """Runs in each process."""
    from detectron2.engine import default_setup
    from detectron2.utils import comm

    from cellseg_d2.engine.run_config import log_to
    from cellseg_d2.engine.trainer import CellTrainer
    from cellseg_d2.weights.checkpoint import CellCheckpointer

    cellseg_d2.setup()
    default_setup(cfg, args)
    log_to(cfg.OUTPUT_DIR)
    if args.eval_only:
        model = CellTrainer.build_model(cfg)
        CellCheckpointer(model, cfg, strict=True, opened=opened).load(cfg.MODEL.WEIGHTS)
        results = CellTrainer.test(cfg, model)
        if comm.is_main_process():
            print(json.dumps(results, indent=1))
        return
    trainer = CellTrainer(cfg, opened)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def build_parser() -> argparse.ArgumentParser:
    """The arguments of ``detectron2.engine.default_argument_parser``, repeated here so that help needs no torch."""
    parser = ToolParser(
        "Trains a model on a converted dataset, on one CPU or on many GPUs, with Detectron2's launcher.",
        epilog="Config keys follow at the end as KEY VALUE, such as CELLSEG.DATASET mine OUTPUT_DIR output/mine.",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="a config file, or the name of a shipped one")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on the validation images, train nothing"
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="GPUs per machine; without GPUs, processes on the CPU"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where machines meet: tcp://HOST:PORT, the same on all",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from cellseg_d2.config import config_path
    from cellseg_d2.engine.launch import launch
    from cellseg_d2.engine.run_config import build_cfg, check_run

    cellseg_d2.setup()
    cfg = build_cfg(args.config_file, args.opts, whole_images=args.eval_only)
    opened = check_run(cfg, args)
    args.config_file = str(config_path(args.config_file))  # Detectron2 opens it as a file
    launch(train, args, args, cfg, opened)
