"""Builds a model on an available device, and measures its size."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)


def use_available_device(cfg: CfgNode) -> None:
    """Falls back to the CPU, with a notice, where the config asks for CUDA and there is none."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but there is no CUDA here; running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def use_available_precision(cfg: CfgNode) -> None:
    """Trains in full precision, with a notice, where the device has no fast arithmetic of CELLSEG.AMP_DTYPE."""
    device, dtype = cfg.MODEL.DEVICE, cfg.CELLSEG.AMP_DTYPE
    if not cfg.SOLVER.AMP.ENABLED:
        return
    if dtype == "bfloat16" and not computes_bfloat16(device):
        faster = "" if device == "cpu" else " (CELLSEG.AMP_DTYPE float16 is faster)"
        logger.info("%s has no bfloat16 arithmetic; training in full precision%s", device, faster)
        cfg.SOLVER.AMP.ENABLED = False
    elif dtype != "bfloat16" and device == "cpu":
        logger.warning("CELLSEG.AMP_DTYPE %s needs CUDA; training in full precision", dtype)
        cfg.SOLVER.AMP.ENABLED = False


def cpu_computes_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU has instructions for bfloat16, as far as Linux tells; False where nothing tells."""
    flags = cpu_info.read_text(encoding="utf-8") if cpu_info.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def computes_bfloat16(device: str) -> bool:
    """Whether a device has instructions for bfloat16, which torch would imitate slowly: no NVIDIA GPU before Ampere."""
    if device.startswith("cuda"):
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device != "cpu" or cpu_computes_bfloat16()


def build_on_cpu(cfg: CfgNode) -> torch.nn.Module:
    """The model of a config on the CPU, whatever its MODEL.DEVICE: enough to inspect it, without GPU memory."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def count_parameters(model: torch.nn.Module) -> int:
    """The number of a model's parameters, frozen ones included; frozen batch statistics do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_size(model: torch.nn.Module, cfg: CfgNode) -> None:
    """Raises CellSegError where a model has more than CELLSEG.MAX_PARAMETERS; the message counts each part."""
    count, limit = count_parameters(model), cfg.CELLSEG.MAX_PARAMETERS
    if count > limit:
        parts = ", ".join(f"{name} {count_parameters(part) / 1e6:.1f} M" for name, part in model.named_children())
        raise CellSegError(
            f"the model has {count / 1e6:.1f} M parameters ({parts}), over the limit of {limit / 1e6:.1f} M; "
            "CELLSEG.MAX_PARAMETERS sets it"
        )
