"""Detectron2's trainer, with the plugin's mapper, evaluator, checkpoints and hooks."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from cellseg_d2.data.mapper import CellDatasetMapper, from_model_input
from cellseg_d2.engine.checkpoint import CellCheckpointer
from cellseg_d2.engine.hooks import BestCheckpoint
from cellseg_d2.evaluation.coco import CellCOCOEvaluator
from cellseg_d2.inference.predictor import WholeImagePredictor

logger = logging.getLogger(__name__)


class CellTrainer(DefaultTrainer):
    """``DefaultTrainer`` for cells. The loop, the solver, the loggers and the default hooks are Detectron2's."""

    def __init__(self, cfg: CfgNode) -> None:
        """Builds model, optimizer, data loader and hooks, in Detectron2's order.

        ``DefaultTrainer.__init__`` is not called: its DistributedDataParallel names a device even on a CPU, which torch
        refuses, and it makes its own checkpointer.
        """
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = CellCheckpointer(model, cfg, strict=False, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Detectron2's ``build_model``, and a line that says how large the model is."""
        model = super().build_model(cfg)
        logger.info("the model has %.1f M parameters", count_parameters(model) / 1e6)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Training tiles through :class:`CellDatasetMapper`."""
        cv2.setNumThreads(0)  # the loader's workers are forked: one thread each, and no lock of OpenCV's pool
        return build_detection_train_loader(cfg, mapper=CellDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Images of a dataset as they are, each once."""
        mapper = CellDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> CellCOCOEvaluator:
        """Mask and box AP, with as many detections as the model gives in a tile, or an image has cells."""
        return CellCOCOEvaluator(dataset_name, max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates on DATASETS.TEST the way images are predicted: in tiles where they are large, masks in their boxes.

        Args:
            cfg: its DATASETS.TEST and CELLSEG.INFERENCE are used.
            model: of these weights; in training mode or not, it is left as it was.
            evaluators: one a dataset; None for those of :meth:`build_evaluator`.
        """
        network = model.module if isinstance(model, DistributedDataParallel) else model
        with inference_context(network):
            return super().test(cfg, _Predict(WholeImagePredictor(network, cfg), cfg.INPUT.FORMAT), evaluators)

    def build_hooks(self) -> list[hooks.HookBase]:
        """Detectron2's hooks and the best checkpoint, before the periodic checkpointer, which saves their state."""
        default = super().build_hooks()
        if not comm.is_main_process():
            return default
        periodic = [hook for hook in default if isinstance(hook, hooks.PeriodicCheckpointer)]
        evaluation = [hook for hook in default if isinstance(hook, hooks.EvalHook)]
        writers = [hook for hook in default if isinstance(hook, hooks.PeriodicWriter)]
        rest = [hook for hook in default if hook is not None and hook not in periodic + evaluation + writers]
        best = BestCheckpoint(self.cfg.TEST.EVAL_PERIOD, self.checkpointer, self.cfg.CELLSEG.BEST_METRIC)
        return [*rest, *evaluation, best, *periodic, *writers]


class _Predict:
    """What Detectron2's evaluation loop calls: model inputs -> cells."""

    def __init__(self, predictor: WholeImagePredictor, image_format: str) -> None:
        self.predictor = predictor
        self.image_format = image_format

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        images = [from_model_input(sample["image"], self.image_format) for sample in inputs]
        return [{"cells": self.predictor.predict(image)} for image in images]


def count_parameters(model: torch.nn.Module) -> int:
    """All parameters of a model, frozen ones and frozen statistics among them."""
    return sum(parameter.numel() for parameter in model.parameters())
