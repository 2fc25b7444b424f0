"""Detectron2's trainer, with the plugin's mapper, evaluator, checkpoints and hooks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from cellseg_d2.data.channels import channels_of
from cellseg_d2.data.copy_paste import build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper, from_model_input
from cellseg_d2.data.stream import build_stream
from cellseg_d2.engine.averaging import WeightAverage
from cellseg_d2.engine.divergence import DIVERGED, describe_divergence, first_unsound
from cellseg_d2.engine.evaluator import CellCOCOEvaluator, with_least_scores
from cellseg_d2.engine.hooks import (
    AfterEvaluation,
    BestCheckpoint,
    EarlyStopping,
    Evaluation,
    ProgressBar,
    TimeLeft,
    is_due,
)
from cellseg_d2.engine.loop import StopTraining, build_loop, say_what_ended
from cellseg_d2.engine.optimizer import build_optimizer
from cellseg_d2.engine.validation import validation_losses
from cellseg_d2.errors import CellSegError, Stopped, one_line
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.modeling.build import check_size, count_parameters
from cellseg_d2.report.validation_overlays import validation_overlays
from cellseg_d2.signals import StopRequest, ignore_ended_children, stop_request
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile, all_finite
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
        self.stop_request = StopRequest()
        self.diverged = ""
        self.unevaluated = False
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
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """See :func:`cellseg_d2.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

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
        # a separate seed: otherwise the loader would draw one from the random state that the model's sampling uses
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler, seed=seed)

    def resume_or_load(self, resume: bool = True) -> None:
        """Loads weights and, with resume, the whole state, so that the run continues as if it had not been stopped.

        With one process on a CPU this is exact: the order of the tiles, their augmentations and torch's random state
        are those of an uninterrupted run. Other processes draw new random numbers.
        """
        super().resume_or_load(resume)
        if len(starts := set(comm.all_gather(self.start_iter))) > 1:
            raise CellSegError(
                f"the processes would go on at iterations {sorted(starts)}; all machines need one OUTPUT_DIR"
            )
        if self.start_iter:
            logger.info("going on at iteration %d, after %d tiles", self.start_iter, self.stream_start)

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's state, the place in the stream of samples, and the state of the random numbers."""
        used = self.stream_start + (self.iter + 1 - self.start_iter) * self.cfg.SOLVER.IMS_PER_BATCH
        stream = {"stream_seed": self.stream_seed, "stream_position": used}
        random = {"torch_rng": torch.get_rng_state()}
        if self.cfg.MODEL.DEVICE.startswith("cuda"):
            random["cuda_rng"] = torch.cuda.get_rng_state()
        return {**super().state_dict(), **stream, **random, "unevaluated": self.unevaluated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state from a checkpoint; one that Detectron2 wrote has no stream to continue."""
        loop = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and not loop.get("grad_scaler"):  # the run had another precision
            loop["grad_scaler"] = self._trainer.grad_scaler.state_dict()
        super().load_state_dict(state_dict)
        self.stream_seed = state_dict.get("stream_seed", self.stream_seed)
        self.stream_start = state_dict.get("stream_position", 0)
        self.unevaluated = state_dict.get("unevaluated", False)
        if comm.is_main_process():  # the others were seeded apart, and stay so
            if "torch_rng" in state_dict:
                torch.set_rng_state(state_dict["torch_rng"])
            if "cuda_rng" in state_dict and self.cfg.MODEL.DEVICE.startswith("cuda"):
                torch.cuda.set_rng_state(state_dict["cuda_rng"])

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Loads each image of a dataset once, without augmentation."""
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
            evaluators: one per dataset; None for those of :meth:`build_evaluator`.
        """
        network = _without_ddp(model)
        with inference_context(network):
            return super().test(cfg, _Predict(WholeImagePredictor(network, cfg), cfg.INPUT.FORMAT), evaluators)

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the weights, as ``ema`` those of their average, and as ``validation`` the losses.

        Raises:
            Stopped: a signal ended it.
        """
        with self.stop_request.at_once():  # it may take long, and a resumed run repeats it
            return self._evaluate()

    def _evaluate(self) -> dict[str, Any]:
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

        A picture that cannot be drawn gives a line in the log and does not end the training.
        """
        evaluator, count = evaluators[0] if evaluators else None, self.cfg.CELLSEG.VALIDATION_OVERLAYS
        # a subclass may evaluate otherwise; and what has no annotations has no ground truth to draw
        if not isinstance(evaluator, CellCOCOEvaluator) or "annotations" not in evaluator.truth:
            return
        if count > 0 and comm.is_main_process():
            pictures = validation_overlays(
                evaluator.truth, evaluator.results, evaluator.image_root, count, channels_of(self.cfg)
            )
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
        bar = [TimeLeft(), ProgressBar()] if comm.is_main_process() else []
        return [*ours, *periodic, *writers, *bar]

    def _best_savers(self) -> dict[str, Callable[[int, float], None]]:
        """Metric -> the function that saves the weights with its best value."""
        metric = self.cfg.CELLSEG.BEST_METRIC

        def save(iteration: int, value: float, name: str = BEST_NAME) -> None:
            text = with_least_scores(self.cfg, self.evaluated.get(name, ())).dump()
            self.checkpointer.save_weights(name, iteration=iteration, metric=value, **{CONFIG_KEY: text})

        def save_average(iteration: int, value: float) -> None:
            with self.average.applied():
                save(iteration, value, BEST_AVERAGE_NAME)

        return {metric: save} if self.average is None else {metric: save, f"ema/{metric}": save_average}

    def _best_name(self, metric: str) -> str:
        """The name of the checkpoint that is best by a metric."""
        return BEST_AVERAGE_NAME if metric == f"ema/{self.cfg.CELLSEG.BEST_METRIC}" else BEST_NAME

    def before_train(self) -> None:
        """Builds the data loader, now that it is known where it begins, and runs Detectron2's hooks."""
        self._trainer.data_loader = self.build_train_loader(self.cfg, self.stream_seed, self.stream_start)
        super().before_train()
        self.done = self.start_iter
        if self.unevaluated:
            self._finish_iteration()
        if self.stopping:
            raise StopTraining

    def _finish_iteration(self) -> None:
        """Evaluates, and all that follows, after the last iteration of a run that was stopped in that."""
        self.iter = self.storage.iter = self.start_iter - 1
        self.unevaluated = False
        for hook in self._hooks:
            if isinstance(hook, (Evaluation, AfterEvaluation, hooks.PeriodicCheckpointer, hooks.PeriodicWriter)):
                hook.after_step()
        if self.stopping:
            self.checkpointer.save("model_final", iteration=self.iter)

    def run_step(self) -> None:
        """Detectron2's; a loss that is not finite is noted, so that all processes end in the same iteration."""
        try:
            super().run_step()
        except FloatingPointError:
            self.diverged = DIVERGED
        except (RuntimeError, OSError, EOFError) as error:
            if self.stop_request:  # the loader's processes, or other processes of the run, may have ended by it too
                self._end_before_step()
            say_what_ended(error)
            raise

    def _end_before_step(self) -> NoReturn:
        """Stops in an iteration that has not changed the weights yet."""
        self.iter -= 1
        if self.iter >= self.start_iter:
            self._save_stopped()
        raise Stopped(self.stop_request.signal)

    def after_step(self) -> None:
        """Detectron2's, and the end of training where a hook or a signal has asked for it, or where it has diverged.

        Raises:
            StopTraining: a hook has asked for it, the training has diverged, or a file cannot be written.
            Stopped: a signal has; a checkpoint is there to go on from.
        """
        if not self.diverged and self._is_kept() and not all_finite(_without_ddp(self.model).state_dict()):
            self.diverged = "weights are"
        seen = comm.all_gather((self.diverged, self.stop_request.signal))  # the same in all processes
        if diverged := next((what for what, _ in seen if what), ""):
            self._take_back_unsound()
            comm.synchronize()  # the message names what is left
            raise StopTraining(describe_divergence(self.cfg, self.iter, diverged))
        try:
            super().after_step()
        except Stopped:
            self.unevaluated = True
            self._save_stopped()
            raise
        except FloatingPointError as error:  # of the losses on the validation tiles
            self._take_back_unsound()
            raise StopTraining(describe_divergence(self.cfg, self.iter, DIVERGED)) from error
        except CellSegError as error:  # such as a full disk
            raise StopTraining(str(error)) from error
        except (RuntimeError, OSError, EOFError) as error:
            say_what_ended(error)
            raise
        self.done = self.iter + 1
        if self.stopping:
            self.checkpointer.save("model_final", iteration=self.iter)
            raise StopTraining
        if (number := max(number for _, number in seen)) and self.done < self.max_iter:
            self._save_stopped()
            raise Stopped(number)

    def _is_kept(self) -> bool:
        """Whether something is made of the weights after this iteration, or has to be if a signal has come."""
        evaluated = self.cfg.DATASETS.TEST and is_due(self, self.cfg.TEST.EVAL_PERIOD)
        return bool(evaluated or self.stop_request or is_due(self, self.cfg.SOLVER.CHECKPOINT_PERIOD))

    def _save_stopped(self) -> None:
        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)

    def _take_back_unsound(self) -> None:
        """Removes what was kept of weights that no longer worked."""
        if comm.is_main_process():
            best = next((hook.best for hook in self._hooks if isinstance(hook, BestCheckpoint)), {})
            reached = [(metric, state) for metric, state in best.items() if state["value"] is not None]
            found = [state["iteration"] + 1 for _, state in reached if state["value"] > 0]
            first = max([first_unsound(self.storage, self.start_iter), *found])  # what found cells works
            unsound = [self._best_name(metric) for metric, state in reached if state["iteration"] >= first]
            self.checkpointer.take_back(first, unsound)

    def train(self) -> Any:
        """Trains to SOLVER.MAX_ITER, or until a hook or a signal stops it.

        Raises:
            CellSegError: the training has diverged, a file cannot be written, or no tiles come any more.
            Stopped: a signal stopped it, after a checkpoint was saved.
        """
        try:
            with stop_request(ignore_ended_children) as self.stop_request:
                return super().train()
        except StopTraining as end:
            if end.args:
                raise CellSegError(end.args[0]) from end
            logger.info("training stopped after %d iterations", self.done)
            return None


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
