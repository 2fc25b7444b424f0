"""Makes a config that can run from command-line arguments, and refuses others before a process is launched."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cellseg_d2.config import cfg_with_overrides, get_cfg
from cellseg_d2.config_checks import check_class_count, check_config, check_resolved, check_training
from cellseg_d2.data.caps import set_caps
from cellseg_d2.data.catalog import check_registered
from cellseg_d2.data.channels import set_channels
from cellseg_d2.engine.launch import started_process
from cellseg_d2.engine.schedule import check_steps, set_schedule
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.build import build_on_cpu, check_size, use_available_device, use_available_precision
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.locations import local_path

logger = logging.getLogger(__name__)

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""The values of CELLSEG.AMP_DTYPE."""

BACKBONES = ("package://", "detectron2://ImageNetPretrained/")
"""MODEL.WEIGHTS that begin like this have a backbone alone: training begins from them, nothing can be predicted."""


def build_cfg(config_file: str, overrides: Sequence[str], *, whole_images: bool = False) -> CfgNode:
    """The frozen config of a run.

    Args:
        config_file: a file, or the name of one of the plugin's configs.
        overrides: KEY VALUE KEY VALUE ...
        whole_images: also evaluate on the untiled images of the validation parts.

    Raises:
        CellSegError: see :func:`cellseg_d2.config.get_cfg` and :func:`resolve`.
    """
    if not config_file:
        raise CellSegError("give --config-file, a file or the name of one of the plugin's configs")
    cfg = get_cfg(config_file, overrides)
    check_training(cfg)
    resolve(cfg)
    if whole_images:
        _add_whole_images(cfg)
    cfg.freeze()
    return cfg


def prediction_cfg(weights: str, config_file: str, overrides: Sequence[str]) -> tuple[CfgNode, WeightsFile]:
    """The frozen config of a prediction and its weights: a checkpoint's, or a config file's with its MODEL.WEIGHTS.

    Raises:
        CellSegError: neither or both are given, the weights are missing, or see :func:`build_cfg`.
    """
    if weights and config_file:
        raise CellSegError("give either --weights CHECKPOINT, which carries its config, or --config-file FILE")
    if not weights and not config_file:
        raise CellSegError(
            "give --weights: a checkpoint, which carries its config, or nuclei, the weights that come along"
        )
    if weights:
        opened = WeightsFile.read(weights)
        cfg = opened.cfg()
        of_rgb = not cfg.CELLSEG.CHANNELS
        cfg = cfg_with_overrides(cfg, overrides)
        if of_rgb and len(cfg.CELLSEG.CHANNELS) == 1:  # as a grey image is read
            cfg.CELLSEG.CHANNELS = cfg.CELLSEG.CHANNELS * 3
    else:
        cfg = get_cfg(config_file, overrides)
        check_config(cfg)
        if not cfg.MODEL.WEIGHTS or cfg.MODEL.WEIGHTS.startswith(BACKBONES):
            raise CellSegError(
                f"{config_file} names no trained weights; give --weights CHECKPOINT, which carries its config, "
                "instead of --config-file, or add MODEL.WEIGHTS CHECKPOINT"
            )
        resolve(cfg)
        opened = WeightsFile.read(cfg.MODEL.WEIGHTS)
        opened.check_data(cfg)
    check_config(cfg)
    cfg.freeze()
    return cfg, opened


def resolve(cfg: CfgNode) -> None:
    """Sets, in place, the keys that depend on the dataset and on the machine.

    DATASETS come from CELLSEG.DATASET; class count, class names, channels and intensity rule from the dataset;
    SOLVER.MAX_ITER as CELLSEG.SCHEDULE says; the device is the CPU where there is no CUDA.

    Raises:
        CellSegError: no dataset is named, one is not registered, or the class counts of config and dataset differ.
    """
    name = cfg.CELLSEG.DATASET
    if not cfg.DATASETS.TRAIN:
        if not name:
            raise CellSegError("no dataset is named; add CELLSEG.DATASET NAME, as in datasets/NAME")
        cfg.DATASETS.TRAIN = (f"{name}_train",)
        check_registered(cfg.DATASETS.TRAIN[0])
        if not cfg.DATASETS.TEST and f"{name}_val" in DatasetCatalog.list():
            if _image_count(f"{name}_val"):
                cfg.DATASETS.TEST = (f"{name}_val",)
            else:
                logger.warning("%s_val has no tile: nothing is validated, and no best checkpoint is kept", name)
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        check_registered(dataset)
        if not _image_count(dataset):
            raise CellSegError(f"{dataset} has no image; convert with other settings, or name another dataset")
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    class_names = list(metadata.thing_classes)
    check_class_count(cfg, cfg.DATASETS.TRAIN[0], class_names)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = len(class_names)
    cfg.CELLSEG.CLASS_NAMES = class_names
    cfg.CELLSEG.INTENSITY_RULE = metadata.get("intensity_rule", cfg.CELLSEG.INTENSITY_RULE)
    cfg.CELLSEG.PIXEL_SIZE_UM = float(metadata.get("pixel_size_um", cfg.CELLSEG.PIXEL_SIZE_UM))
    set_channels(cfg)
    images = sum(_image_count(dataset) for dataset in cfg.DATASETS.TRAIN)
    cells = [MetadataCatalog.get(dataset).get("cell_count") for dataset in cfg.DATASETS.TRAIN]
    set_schedule(cfg, images, None if None in cells else sum(cells))
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / max(images, 1)
    logger.info(
        "SOLVER.MAX_ITER %d of %d tiles each: %.1f epochs of %d tiles (CELLSEG.EPOCHS is %d)",
        *(cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, epochs, images, cfg.CELLSEG.EPOCHS),
    )
    set_caps(cfg)
    use_available_device(cfg)
    use_available_precision(cfg)


def _add_whole_images(cfg: CfgNode) -> None:
    """Adds the untiled images of each validation part that has them to DATASETS.TEST."""
    wholes = [f"{name}_whole" for name in cfg.DATASETS.TEST if f"{name}_whole" in DatasetCatalog.list()]
    cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, *(name for name in wholes if name not in cfg.DATASETS.TEST))


def _image_count(dataset: str) -> int:
    count = MetadataCatalog.get(dataset).get("image_count")
    return len(DatasetCatalog.get(dataset)) if count is None else count


def check_run(cfg: CfgNode, args: argparse.Namespace) -> WeightsFile | None:
    """Checks everything that would end as a traceback in a launched process.

    Args:
        cfg: from :func:`build_cfg`.
        args: from Detectron2's ``default_argument_parser``.

    Returns:
        The file of MODEL.WEIGHTS, if this is the only process. Several processes read the file themselves, and report
        in one line what is wrong with it.

    Raises:
        CellSegError: the run cannot work; the message says why.
    """
    processes = checked_processes(cfg, args)
    check_resolved(cfg, processes)
    model = build_on_cpu(cfg)
    check_size(model, cfg)
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise CellSegError(
                f"{cfg.DATASETS.TRAIN[0]} has no validation part with a tile; convert with a --val-fraction above 0, "
                "or with --keep-empty"
            )
        if not cfg.MODEL.WEIGHTS:
            raise CellSegError("--eval-only needs weights; add MODEL.WEIGHTS PATH")
    else:
        check_steps(cfg)
        if args.resume and (checkpoint := resumes_from(cfg.OUTPUT_DIR)):
            stopped = WeightsFile.read(checkpoint)
            stopped.check_data(cfg)
            stopped.check_resumed(cfg, model)
            return None
    if not cfg.MODEL.WEIGHTS:
        return None
    local_path(cfg.MODEL.WEIGHTS)  # fetched once, before several processes look for it
    opened = WeightsFile.read(cfg.MODEL.WEIGHTS)
    if args.eval_only:
        opened.check_data(cfg)
    else:
        opened.warn_of_classes(cfg)
        opened.warn_of_channels(cfg)
    if processes > 1:
        return None
    if args.eval_only:
        CellCheckpointer(model, cfg, strict=True, opened=opened).load(cfg.MODEL.WEIGHTS)
    else:
        opened.check_origin(cfg)
    return opened


def checked_processes(cfg: CfgNode, args: argparse.Namespace) -> int:
    """The number of processes of a run: of all that torchrun or Slurm started, or that ``launch`` is to start.

    Args:
        cfg: the config.
        args: has Detectron2's ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``.

    Raises:
        CellSegError: they are asked for twice, or cannot run here.
    """
    started, processes = started_process(), args.num_gpus * args.num_machines
    if started is None:
        check_processes(cfg, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
        return int(processes)
    if processes > 1:
        raise CellSegError("the processes are started already, by torchrun or Slurm: leave --num-gpus out")
    check_gpus(cfg, started.local_size, started.world_size)
    return started.world_size


def check_processes(
    cfg: CfgNode, num_gpus: int, num_machines: int = 1, machine_rank: int = 0, dist_url: str = "auto"
) -> None:
    """Raises CellSegError where Detectron2's ``launch`` could not start the processes asked for."""
    if num_gpus < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise CellSegError(
            f"--num-gpus {num_gpus}, --num-machines {num_machines}, --machine-rank {machine_rank}: give at least one "
            "process on each machine, and ranks from 0; on machines without GPUs --num-gpus counts processes"
        )
    if num_machines > 1 and dist_url == "auto":
        raise CellSegError("--num-machines above 1 needs --dist-url tcp://HOST:PORT, the same on each machine")
    check_gpus(cfg, num_gpus, num_gpus * num_machines)


def check_gpus(cfg: CfgNode, on_this_machine: int, processes: int) -> None:
    """Raises CellSegError where a machine with GPUs has fewer GPUs than processes."""
    if not torch.cuda.is_available():
        return
    seen = torch.cuda.device_count()
    if on_this_machine > seen and (started_process() is None or seen > 1):  # Slurm may show each task one GPU only
        raise CellSegError(f"{on_this_machine} processes on this machine, but it has {seen} GPUs; start as many")
    if processes > 1 and cfg.MODEL.DEVICE != "cuda":
        raise CellSegError(
            f"several processes on a machine with GPUs need MODEL.DEVICE cuda, not {cfg.MODEL.DEVICE}; to use the CPU, "
            "set CUDA_VISIBLE_DEVICES=''"
        )


def resumes_from(output_dir: str) -> str:
    """The checkpoint that ``--resume`` continues from; empty where there is none.

    Raises:
        CellSegError: ``last_checkpoint`` names a file that is not there.
    """
    tag = os.path.join(output_dir, "last_checkpoint")
    if not os.path.isfile(tag):
        return ""
    with open(tag, encoding="utf-8") as file:
        path = os.path.join(output_dir, file.read().strip())
    if not os.path.isfile(path):
        raise CellSegError(
            f"{tag}: names no checkpoint that is there; write the name of one, such as model_0000999.pth"
        )
    return path
