"""Runs the convolutions of a model with OpenVINO, an optional extra; everything between them stays torch's.

The backbone with its FPN, the head of the RPN, the box heads and the mask head become graphs, which are made once and
kept, see :mod:`.graph_cache`. Proposals, RoIAlign, non-maximum suppression and PointRend's points are torch's.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import Tensor, nn

from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.inference.graph_cache import GraphCache

HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""CELLSEG.INFERENCE.PRECISION -> OpenVINO's; left to itself it takes bfloat16 wherever the CPU has it."""

TELEMETRY = "openvino_telemetry"
"""The package with which OpenVINO's converter reports each import to its makers."""


def compile_parts(model: nn.Module, cfg: CfgNode) -> None:
    """Replaces parts of a model by the same ones in OpenVINO, in place.

    Args:
        model: a Detectron2 ``GeneralizedRCNN`` on the CPU, in evaluation mode.
        cfg: its config; MODEL.WEIGHTS says where the graphs are kept.

    Raises:
        CellSegError: OpenVINO is not installed, or cannot convert a part.
    """
    openvino = import_openvino()
    parts = _parts(model, cfg)
    cache = GraphCache.of(model, cfg, openvino.__version__)
    graphs = cache.read(openvino, [part.name for part in parts])
    if graphs is None:
        graphs = {part.name: _graph(openvino, part) for part in parts}
        cache.write(openvino, graphs)
    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[cfg.CELLSEG.INFERENCE.PRECISION],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    for part in parts:
        part.replace(_Compiled(core.compile_model(graphs[part.name], "CPU", options)))


def import_openvino() -> ModuleType:
    """OpenVINO, without its reports to its makers.

    Raises:
        CellSegError: it is not installed.
    """
    with _hidden(TELEMETRY):
        try:
            import openvino
        except ImportError as error:
            raise CellSegError("--backend openvino needs OpenVINO: pip install 'cellseg_d2[openvino]'") from error
    return openvino


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """A context in which a package that has not been imported yet cannot be."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what Python documents for a module that must not load
    try:
        yield
    finally:
        with contextlib.suppress(KeyError):
            del sys.modules[package]


class _Compiled:
    """A compiled graph as a function of torch's tensors; its results are a tuple."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.graph([tensor.contiguous().numpy() for tensor in inputs], share_inputs=True)
        return tuple(torch.from_numpy(found[place]) for place in range(len(self.graph.outputs)))


@dataclass(frozen=True)
class _Part:
    """A part of a model that can become a graph.

    Attributes:
        name: the name of its files.
        module: from tensors to a tuple of tensors.
        examples: its inputs, for tracing.
        free: the axes of every input that may have any length.
        replace: puts what is compiled in its place.
    """

    name: str
    module: nn.Module
    examples: tuple[Tensor, ...]
    free: tuple[int, ...]
    replace: Callable[[_Compiled], None]


def _graph(openvino: ModuleType, part: _Part) -> Any:
    """A part as OpenVINO's graph."""
    shapes = [
        openvino.PartialShape([-1 if axis in part.free else side for axis, side in enumerate(example.shape)])
        for example in part.examples
    ]
    try:
        with warnings.catch_warnings():  # of sizes that become constants; those that differ by image are not among them
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(part.module, part.examples, check_trace=False)
        return openvino.convert_model(traced, example_input=part.examples, input=shapes)
    except Exception as error:  # of torch's tracer or of OpenVINO's frontend, by what is wrong
        raise CellSegError(
            f"OpenVINO cannot take over the {part.name} of this model ({one_line(error, 100)}); write --backend torch"
        ) from error


def _parts(model: nn.Module, cfg: CfgNode) -> list[_Part]:
    """The parts of a model that OpenVINO takes over."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    backbone, heads = model.backbone, model.roi_heads
    side = 2 * max(backbone.size_divisibility, 32)
    image = torch.zeros(1, len(cfg.MODEL.PIXEL_MEAN), side, side)
    with torch.no_grad():
        features = backbone(image)
    channels = {name: feature.shape[1] for name, feature in features.items()}

    def replace_backbone(compiled: _Compiled) -> None:
        model.backbone = CompiledBackbone(backbone, compiled, list(features))

    parts = [_Part("backbone", _Values(backbone), (image,), (0, 2, 3), replace_backbone)]
    rpn = model.proposal_generator

    def replace_rpn(compiled: _Compiled) -> None:
        rpn.rpn_head = CompiledRPNHead(compiled)

    seen = tuple(features[name] for name in rpn.in_features)
    parts.append(_Part("rpn head", _RPNHead(rpn.rpn_head), seen, (0, 2, 3), replace_rpn))
    options, pooled = cfg.MODEL.ROI_BOX_HEAD, channels[heads.box_in_features[0]]
    example = torch.zeros(2, pooled, options.POOLER_RESOLUTION, options.POOLER_RESOLUTION)
    cascade = isinstance(heads.box_head, nn.ModuleList)
    for number, head in enumerate(heads.box_head if cascade else [heads.box_head]):
        parts.append(_Part(f"box head {number}", _Tuple(head), (example,), (0,), _box_replacer(heads, number, cascade)))
    if isinstance(heads.mask_head, MaskRCNNConvUpsampleHead):
        resolution = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        example = torch.zeros(2, channels[heads.mask_in_features[0]], resolution, resolution)

        def replace_mask_head(compiled: _Compiled) -> None:
            heads.mask_head.layers = lambda x: compiled(x)[0]

        parts.append(_Part("mask head", _MaskLayers(heads.mask_head), (example,), (0,), replace_mask_head))
    return parts


def _box_replacer(heads: nn.Module, number: int, cascade: bool) -> Callable[[_Compiled], None]:
    def replace(compiled: _Compiled) -> None:
        if cascade:
            heads.box_head[number] = CompiledHead(compiled)
        else:
            heads.box_head = CompiledHead(compiled)

    return replace


class CompiledBackbone(Backbone):
    """A backbone whose features a compiled graph makes.

    Args:
        backbone: the one that it replaces, for what it says of itself.
        compiled: the graph.
        names: the names of its results.
    """

    def __init__(self, backbone: Backbone, compiled: _Compiled, names: Sequence[str]) -> None:
        super().__init__()
        self.compiled, self.names = compiled, names
        self._divisibility, self._constraints = backbone.size_divisibility, backbone.padding_constraints
        self._shapes = backbone.output_shape()

    @property
    def size_divisibility(self) -> int:
        """Of the sides of images."""
        return self._divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """As the backbone's."""
        return self._constraints

    def output_shape(self) -> dict[str, Any]:
        """As the backbone's."""
        return self._shapes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) images -> features by name."""
        return dict(zip(self.names, self.compiled(x)))


class CompiledRPNHead(nn.Module):
    """An RPN's head as a compiled graph."""

    def __init__(self, compiled: _Compiled) -> None:
        super().__init__()
        self.compiled = compiled

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all levels -> objectness and box deltas of each."""
        found = self.compiled(*features)
        return list(found[: len(features)]), list(found[len(features) :])


class CompiledHead(nn.Module):
    """A box head as a compiled graph."""

    def __init__(self, compiled: _Compiled) -> None:
        super().__init__()
        self.compiled = compiled

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) features of boxes -> (B, D)."""
        return self.compiled(x)[0]


class _Values(nn.Module):
    """A backbone without the names of its results, for tracing."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(x).values())


class _RPNHead(nn.Module):
    """An RPN's head with a tensor per level as input, for tracing."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        logits, deltas = self.head(list(features))
        return (*logits, *deltas)


class _Tuple(nn.Module):
    """A module of one result, for tracing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.module(x),)


class _MaskLayers(nn.Module):
    """The layers of a mask head, for tracing."""

    def __init__(self, head: MaskRCNNConvUpsampleHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head.layers(x),)
