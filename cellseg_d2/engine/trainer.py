"""Detectron2's trainer, with the plugin's mapper, evaluator, checkpoints and hooks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from cellseg_d2.data.copy_paste import build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper, from_model_input
from cellseg_d2.data.stream import build_stream
from cellseg_d2.engine.averaging import WeightAverage
from cellseg_d2.engine.evaluator import CellCOCOEvaluator
from cellseg_d2.engine.hooks import BestCheckpoint, EarlyStopping, Evaluation, ProgressBar
from cellseg_d2.engine.run_config import AMP_DTYPES
from cellseg_d2.engine.schedule import ExpectedTime
from cellseg_d2.engine.validation import validation_losses
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.evaluation.thresholds import least_scores
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.modeling.build import check_size, count_parameters
from cellseg_d2.report.validation_overlays import validation_overlays
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.pretrained import CONFIG_KEY

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"
BEST_AVERAGE_NAME = f"{BEST_NAME}_ema"


class CellTrainer(DefaultTrainer):
    """``DefaultTrainer`` for cells. The loop, the solver, the loggers and the default hooks are Detectron2's."""

    def __init__(self, cfg: CfgNode, opened: WeightsFile | None = None) -> None:
        """Builds model, optimizer and hooks, in Detectron2's order; the data loader follows in :meth:`before_train`.

        ``DefaultTrainer.__init__`` is not called: its DistributedDataParallel names a device even on a CPU, which torch
        refuses, and it makes its own checkpointer.

        Args:
            cfg: the frozen config.
            opened: the file of MODEL.WEIGHTS where it has been read already.
        """
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.stream_seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.stream_start = 0
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        device_ids = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = build_loop(cfg, model, None, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = CellCheckpointer(model, cfg, strict=False, opened=opened, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.stopping = False
        network = _without_ddp(model)
        self.average = WeightAverage(network, cfg.CELLSEG.EMA_DECAY) if cfg.CELLSEG.EMA_DECAY > 0 else None
        self.evaluated: dict[str, Sequence[DatasetEvaluator]] = {}
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Detectron2's ``build_model``, and lines that say how large the model is and how it weighs the classes.

        Raises:
            CellSegError: it has more than CELLSEG.MAX_PARAMETERS.
        """
        model = super().build_model(cfg)
        logger.info("the model has %.1f M parameters", count_parameters(model) / 1e6)
        if weights := cfg.CELLSEG.LOSS.CLASS_WEIGHTS:
            named = zip([*cfg.CELLSEG.CLASS_NAMES, "background"], weights)
            logger.info("weights in the box loss: %s", ", ".join(f"{name} {weight:g}" for name, weight in named))
        check_size(model, cfg)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int = 0, start: int = 0):
        """Training tiles through :class:`CellDatasetMapper`.

        Args:
            cfg: DATASETS.TRAIN, DATALOADER, INPUT and CELLSEG are used.
            seed: random seed for the order of the tiles and their augmentations.
            start: tiles that were trained on before, over all processes.
        """
        cv2.setNumThreads(0)  # the loader's workers are forked: one thread each, and no lock of OpenCV's pool
        dataset, sampler = build_stream(cfg, seed, start)
        mapper = CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, dataset.dicts))
        # a seed of its own: else the loader would draw one from the state that the model's sampling draws from
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler, seed=seed)

    def resume_or_load(self, resume: bool = True) -> None:
        """Loads weights, and on a resume all that makes the run go on as if it had not been stopped.

        With one process on a CPU that is exact: the order of the tiles, their augmentations and torch's random state
        are those of the unbroken run. Further processes draw their random numbers anew.
        """
        super().resume_or_load(resume)
        if len(starts := set(comm.all_gather(self.start_iter))) > 1:
            raise CellSegError(
                f"the processes would go on at iterations {sorted(starts)}; all machines need one OUTPUT_DIR"
            )
        if self.start_iter:
            logger.info("going on at iteration %d, after %d tiles", self.start_iter, self.stream_start)

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's state, and what the stream of samples and the random numbers go on from."""
        used = self.stream_start + (self.iter + 1 - self.start_iter) * self.cfg.SOLVER.IMS_PER_BATCH
        stream = {"stream_seed": self.stream_seed, "stream_position": used}
        random = {"torch_rng": torch.get_rng_state()}
        if self.cfg.MODEL.DEVICE.startswith("cuda"):
            random["cuda_rng"] = torch.cuda.get_rng_state()
        return {**super().state_dict(), **stream, **random}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up from a checkpoint; one of Detectron2's own has no stream to go on from."""
        loop = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and not loop.get("grad_scaler"):  # the run had another precision
            loop["grad_scaler"] = self._trainer.grad_scaler.state_dict()
        super().load_state_dict(state_dict)
        self.stream_seed = state_dict.get("stream_seed", self.stream_seed)
        self.stream_start = state_dict.get("stream_position", 0)
        if comm.is_main_process():  # the others were seeded apart, and stay so
            if "torch_rng" in state_dict:
                torch.set_rng_state(state_dict["torch_rng"])
            if "cuda_rng" in state_dict and self.cfg.MODEL.DEVICE.startswith("cuda"):
                torch.cuda.set_rng_state(state_dict["cuda_rng"])

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
            model: the model to evaluate; its training mode is restored.
            evaluators: one a dataset; None for those of :meth:`build_evaluator`.
        """
        network = _without_ddp(model)
        with inference_context(network):
            return super().test(cfg, _Predict(WholeImagePredictor(network, cfg), cfg.INPUT.FORMAT), evaluators)

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the weights, as ``ema`` those of their average, and as ``validation`` the losses."""
        results = dict(self._test_as(BEST_NAME))
        self._put_overlays(self.evaluated[BEST_NAME])
        if self.average is not None:
            with self.average.applied():
                results["ema"] = self._test_as(BEST_AVERAGE_NAME)
        if self.cfg.CELLSEG.VALIDATION_LOSS and self.cfg.DATASETS.TEST:
            network = _without_ddp(self.model)
            results["validation"] = validation_losses(network, self.cfg, self.cfg.DATASETS.TEST[0])
        self._last_eval_results = results  # what Detectron2 compares with TEST.EXPECTED_RESULTS
        return results

    def _test_as(self, name: str) -> dict[str, Any]:
        """The metrics of the model as it is; its evaluators are kept for when it is saved under this name."""
        self.evaluated[name] = [self.build_evaluator(self.cfg, dataset) for dataset in self.cfg.DATASETS.TEST]
        return self.test(self.cfg, self.model, self.evaluated[name])

    def _put_overlays(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        """Pictures of the first validation dataset for TensorBoard, from what was just predicted.

        What cannot be drawn is a line in the log: no picture is worth a training.
        """
        evaluator, count = evaluators[0] if evaluators else None, self.cfg.CELLSEG.VALIDATION_OVERLAYS
        # a subclass may evaluate otherwise; and what has no annotations has no ground truth to draw
        if not isinstance(evaluator, CellCOCOEvaluator) or "annotations" not in evaluator.truth:
            return
        if count > 0 and comm.is_main_process():
            pictures = validation_overlays(evaluator.truth, evaluator.results, evaluator.image_root, count)
            try:
                for name, picture in pictures:
                    self.storage.put_image(name, picture.transpose(2, 0, 1))
            except (CellSegError, OSError) as error:
                logger.warning("no picture of this evaluation: %s", one_line(error))

    def build_hooks(self) -> list[hooks.HookBase]:
        """Detectron2's hooks and the plugin's, the periodic checkpointer after all whose state it is to save."""
        default = [hook for hook in super().build_hooks() if hook is not None]
        periodic = [hook for hook in default if isinstance(hook, hooks.PeriodicCheckpointer)]
        writers = [hook for hook in default if isinstance(hook, hooks.PeriodicWriter)]
        replaced = (hooks.EvalHook, hooks.PeriodicCheckpointer, hooks.PeriodicWriter)
        ours: list[hooks.HookBase] = [hook for hook in default if not isinstance(hook, replaced)]
        if self.average is not None:
            ours.append(self.average)
        period, metric = self.cfg.TEST.EVAL_PERIOD, self.cfg.CELLSEG.BEST_METRIC
        if self.cfg.DATASETS.TEST:
            ours.append(Evaluation(period, self.evaluate))
            if comm.is_main_process():
                ours.append(BestCheckpoint(period, self._best_savers()))
            if self.cfg.CELLSEG.EARLY_STOPPING > 0:
                ours.append(EarlyStopping(period, metric, self.cfg.CELLSEG.EARLY_STOPPING))
        bar = [ExpectedTime(), ProgressBar()] if comm.is_main_process() else []
        return [*ours, *periodic, *writers, *bar]

    def _best_savers(self) -> dict[str, Callable[[int, float], None]]:
        """By metric, what keeps the weights that are best by it."""
        metric = self.cfg.CELLSEG.BEST_METRIC

        def save(iteration: int, value: float, name: str = BEST_NAME) -> None:
            text = with_least_scores(self.cfg, self.evaluated.get(name, ())).dump()
            self.checkpointer.save_weights(name, iteration=iteration, metric=value, **{CONFIG_KEY: text})

        def save_average(iteration: int, value: float) -> None:
            with self.average.applied():
                save(iteration, value, BEST_AVERAGE_NAME)

        return {metric: save} if self.average is None else {metric: save, f"ema/{metric}": save_average}

    def before_train(self) -> None:
        """Builds the data loader, now that it is known where it begins, and runs Detectron2's hooks."""
        self._trainer.data_loader = self.build_train_loader(self.cfg, self.stream_seed, self.stream_start)
        super().before_train()
        self.done = self.start_iter
        if self.stopping:
            raise StopTraining

    def after_step(self) -> None:
        """Detectron2's, and the end of training where a hook has asked for it."""
        super().after_step()
        self.done = self.iter + 1
        if self.stopping:
            self.checkpointer.save("model_final", iteration=self.iter)
            raise StopTraining

    def train(self) -> Any:
        """Trains to SOLVER.MAX_ITER, or until a hook stops it."""
        try:
            return super().train()
        except StopTraining:
            logger.info("training stopped after %d iterations", self.done)
            return None


class StopTraining(BaseException):
    """Ends training early. No ``Exception``: Detectron2 would log it as a failure, with its traceback."""


def build_loop(cfg: CfgNode, model: torch.nn.Module, data_loader: Any, optimizer: Any) -> SimpleTrainer:
    """Detectron2's loop, in the precision that the config asks for; it may get its data loader later."""
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    precision = AMP_DTYPES[cfg.CELLSEG.AMP_DTYPE]
    if cfg.MODEL.DEVICE == "cpu":
        return CPUAutocastTrainer(model, data_loader, optimizer)
    # float16 underflows without a scale on the losses; bfloat16 has the range of float32
    scaler = torch.amp.GradScaler("cuda", enabled=precision is torch.float16)
    return AMPTrainer(model, data_loader, optimizer, precision=precision, grad_scaler=scaler)


class CPUAutocastTrainer(SimpleTrainer):
    """Detectron2's loop with bfloat16 forward passes on a CPU, for which its ``AMPTrainer`` does not exist."""

    def run_step(self) -> None:
        """One step. Backward passes and the optimizer keep the precision that the forward pass chose."""
        with torch.autocast("cpu", torch.bfloat16):
            super().run_step()


def with_least_scores(cfg: CfgNode, evaluators: Sequence[DatasetEvaluator]) -> CfgNode:
    """A config with the least scores of the best F1 on the first dataset that was evaluated, and a line in the log.

    As it is where that tells nothing: a subclass evaluates otherwise, or a dataset has no annotations.
    """
    evaluator = evaluators[0] if evaluators else None
    if not isinstance(evaluator, CellCOCOEvaluator) or "annotations" not in evaluator.truth:
        return cfg
    scores = least_scores(evaluator.truth, evaluator.results, evaluator.max_detections)
    named = ", ".join(f"{name} {score:.2f}" for name, score in zip(cfg.CELLSEG.CLASS_NAMES, scores))
    logger.info("least scores of the best F1, which prediction shows cells from: %s", named)
    found = cfg.clone()
    found.defrost()
    found.CELLSEG.INFERENCE.MIN_SCORES = scores
    return found


def _without_ddp(model: torch.nn.Module) -> torch.nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


class _Predict:
    """What Detectron2's evaluation loop calls: model inputs -> cells."""

    def __init__(self, predictor: WholeImagePredictor, image_format: str) -> None:
        self.predictor = predictor
        self.image_format = image_format

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        images = [from_model_input(sample["image"], self.image_format) for sample in inputs]
        return [{"cells": self.predictor.predict(image)} for image in images]
