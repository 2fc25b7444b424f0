"""Detectron2's trainer, with the plugin's mapper, evaluator, checkpoints and hooks."""

from __future__ import annotations

import logging
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.utils import comm

from cellseg_d2.data.mapper import CellDatasetMapper
from cellseg_d2.engine.checkpoint import CellCheckpointer
from cellseg_d2.engine.hooks import BestCheckpoint
from cellseg_d2.evaluation.coco import CellCOCOEvaluator

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
        return build_detection_train_loader(cfg, mapper=CellDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Images of a dataset as they are, each once."""
        mapper = CellDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> CellCOCOEvaluator:
        """Scores as many detections an image as the model gives."""
        return CellCOCOEvaluator(dataset_name, max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE)

    def build_hooks(self) -> list[hooks.HookBase]:
        """Detectron2's hooks and the best checkpoint, before the periodic checkpointer, so that it saves their state."""
        default = super().build_hooks()
        if not comm.is_main_process():
            return default
        periodic = [hook for hook in default if isinstance(hook, hooks.PeriodicCheckpointer)]
        evaluation = [hook for hook in default if isinstance(hook, hooks.EvalHook)]
        writers = [hook for hook in default if isinstance(hook, hooks.PeriodicWriter)]
        rest = [hook for hook in default if hook is not None and hook not in periodic + evaluation + writers]
        best = BestCheckpoint(self.cfg.TEST.EVAL_PERIOD, self.checkpointer, self.cfg.CELLSEG.BEST_METRIC)
        return [*rest, *evaluation, best, *periodic, *writers]


def count_parameters(model: torch.nn.Module) -> int:
    """All parameters of a model, frozen ones and frozen statistics among them."""
    return sum(parameter.numel() for parameter in model.parameters())
