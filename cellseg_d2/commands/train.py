"""Trains or evaluates a model, on one CPU or many GPUs: Detectron2's own arguments and launcher."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cellseg_d2

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def train(args: argparse.Namespace, cfg: CfgNode) -> None:
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
        CellCheckpointer(model, cfg, strict=True).load(cfg.MODEL.WEIGHTS)
        results = CellTrainer.test(cfg, model)
        if comm.is_main_process():
            print(json.dumps(results, indent=1))
        return
    trainer = CellTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def main(argv: Sequence[str] | None = None) -> None:
    from detectron2.engine import default_argument_parser

    from cellseg_d2.config import config_path
    from cellseg_d2.engine.launch import launch
    from cellseg_d2.engine.run_config import build_cfg, check_run

    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    args = parser.parse_args(argv)
    cellseg_d2.setup()
    cfg = build_cfg(args.config_file, args.opts, whole_images=args.eval_only)
    check_run(cfg, args)
    args.config_file = str(config_path(args.config_file))  # Detectron2 opens it as a file
    launch(train, args, args, cfg)
