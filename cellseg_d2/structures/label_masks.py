"""Ground-truth masks as label maps instead of an (N, H, W) stack: memory and time do not grow with the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes

SAMPLES_AT_ONCE = 2**22
"""Sampling points that :meth:`LabelMasks.crop_and_resize` computes at once; this bounds its memory."""


class LabelMasks:
    """The masks of N cells, each a label in one of L label maps; overlapping cells lie in different maps.

    It has the methods that Detectron2 needs for ``gt_masks``, and gives the same results as
    :class:`detectron2.structures.BitMasks`. Indexing copies no pixels: all regions of one cell share its map.

    Attributes:
        layers: (L, H, W) int32, 0 is background.
        layer_of: (N,) int64, the map that a cell lies in.
        ids: (N,) int32, its label there.

    >>> layers = torch.tensor([[[1, 1, 0], [0, 2, 2]]], dtype=torch.int32)
    >>> masks = LabelMasks(layers, torch.tensor([0, 0]), torch.tensor([1, 2]))
    >>> masks.area().tolist(), masks[[1]].get_bounding_boxes().tensor.tolist()
    ([2, 2], [[1.0, 1.0, 3.0, 2.0]])
    """

    def __init__(self, layers: torch.Tensor, layer_of: torch.Tensor, ids: torch.Tensor) -> None:
        if layers.dim() != 3 or layer_of.shape != ids.shape or ids.dim() != 1:
            raise ValueError(
                f"expected (L, H, W), (N,) and (N,), not {[tuple(t.shape) for t in (layers, layer_of, ids)]}"
            )
        self.layers = layers.to(torch.int32)
        self.layer_of = layer_of.to(layers.device, torch.int64)
        self.ids = ids.to(layers.device, torch.int32)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.layers.shape[1], self.layers.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the label maps are."""
        return self.layers.device

    def to(self, *args: Any, **kwargs: Any) -> LabelMasks:
        """The same masks on another device; labels stay integers whatever type is given."""
        device = self.layers[:0].to(*args, **kwargs).device
        return LabelMasks(self.layers.to(device), self.layer_of, self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"LabelMasks({len(self)} cells in {len(self.layers)} label maps of {self.image_size})"

    def __getitem__(self, item: int | slice | Sequence[int] | torch.Tensor) -> LabelMasks:
        """The selected cells, in that order: by an int, a slice, a list, or an int (M,) or bool (N,) tensor."""
        if isinstance(item, int):
            item = [item]
        if isinstance(item, torch.Tensor):
            item = item.to(self.device)
        return LabelMasks(self.layers, self.layer_of[item], self.ids[item])

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Each cell's (H, W) bool mask, computed one at a time."""
        for layer, number in zip(self.layer_of.tolist(), self.ids.tolist()):
            yield self.layers[layer] == number

    def nonempty(self) -> torch.Tensor:
        """(N,) bool, whether each cell has any pixel."""
        return self.area() > 0

    def area(self) -> torch.Tensor:
        """(N,) int64, number of pixels per cell."""
        keys, cell = self._keys()
        place, _, _ = self._pixels(keys)
        return torch.bincount(place, minlength=len(keys))[cell]

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes (x0, y0, x1, y1), half open, in pixels; zeros for a cell without a pixel."""
        keys, cell = self._keys()
        place, y, x = self._pixels(keys)
        corners = torch.stack([x, y, -(x + 1), -(y + 1)], dim=1).float()
        lows = corners.new_full((len(keys), 4), float("inf"))
        lows.scatter_reduce_(0, place[:, None].expand(-1, 4), corners, "amin")
        boxes = torch.where(torch.isinf(lows), torch.zeros_like(lows), lows * lows.new_tensor([1, 1, -1, -1]))
        return Boxes(boxes[cell])

    def _keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(K,) distinct cells, each a number made of layer and label, and (N,) the index of each cell among them."""
        keys = self.layer_of * 2**31 + self.ids
        return torch.unique(keys, return_inverse=True)

    def _pixels(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each pixel of a cell in ``keys``: the cell's index there, y and x."""
        layer, y, x = torch.nonzero(self.layers, as_tuple=True)
        found = layer * 2**31 + self.layers[layer, y, x]
        place = torch.searchsorted(keys, found).clamp(max=max(len(keys) - 1, 0))
        wanted = keys[place] == found if len(keys) else torch.zeros_like(found, dtype=torch.bool)
        return place[wanted], y[wanted], x[wanted]

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Each mask inside its box, resampled to a square, as ``BitMasks.crop_and_resize`` does.

        ``BitMasks`` applies RoIAlign to the binary mask and keeps what is at least 0.5 (torchvision's ``roi_align``,
        aligned, with as many sampling points per bin as the box has pixels there). Here the labels of the four pixels
        around each sampling point are compared with the cell's label and weighted bilinearly.

        Args:
            boxes: (N, 4) float, (x0, y0, x1, y1) in pixels.
            mask_size: M, the side of the result.

        Returns:
            (N, M, M) bool, on the boxes' device.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} masks")
        device, boxes = boxes.device, boxes.to(self.device, torch.float32)
        result = torch.zeros(len(self), mask_size, mask_size, dtype=torch.bool, device=self.device)
        steps = ((boxes[:, 2:] - boxes[:, :2]) / mask_size).ceil().clamp(min=0).long()  # points per bin, in x and y
        for columns, rows in torch.unique(steps, dim=0).tolist():
            if columns == 0 or rows == 0:  # a box of area 0 has no sampling points
                continue
            group = torch.nonzero((steps == steps.new_tensor([columns, rows])).all(dim=1))[:, 0]
            at_once = max(SAMPLES_AT_ONCE // (mask_size**2 * columns * rows), 1)
            for part in group.split(at_once):
                result[part] = self._align(part, boxes[part], mask_size, columns, rows)
        return result.to(device)

    def _align(self, cells: torch.Tensor, boxes: torch.Tensor, size: int, columns: int, rows: int) -> torch.Tensor:
        """RoIAlign of some cells with ``columns x rows`` sampling points per bin."""
        points = []
        for axis, steps in ((0, columns), (1, rows)):
            place = (torch.arange(size * steps, device=self.device) + 0.5) / (size * steps)
            low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
            points.append(low - 0.5 + place * (high - low))
        x, y = points
        values = self._bilinear(cells, x[:, None, :], y[:, :, None], clamp=True)
        return values.reshape(len(cells), size, rows, size, columns).mean(dim=(2, 4)) >= 0.5

    def sample_points(self, points: torch.Tensor) -> torch.Tensor:
        """Samples each mask at the points given for it: bilinear, 0 outside the image, as PointRend samples bitmasks.

        Args:
            points: (N, P, 2) float, (x, y) in pixels; a pixel's centre lies at .5.

        Returns:
            (N, P) float32 in [0, 1].
        """
        points = points.to(self.device, torch.float32) - 0.5
        cells = torch.arange(len(self), device=self.device)
        return self._bilinear(cells, points[..., 0], points[..., 1], clamp=False)

    def _bilinear(self, cells: torch.Tensor, x: torch.Tensor, y: torch.Tensor, clamp: bool) -> torch.Tensor:
        """The binary masks of ``cells``, interpolated at x and y, which broadcast and count pixels from 0.

        Args:
            cells: (n,) which masks.
            x: (n, ...).
            y: (n, ...).
            clamp: whether the border's value is used up to one pixel outside the image, as in RoIAlign; else 0 is.
        """
        height, width = self.image_size
        shape = (-1,) + (1,) * (x.dim() - 1)
        layer, number = self.layer_of[cells].view(shape), self.ids[cells].view(shape)
        inside = torch.ones((), device=self.device)
        if clamp:
            inside = ((x >= -1) & (x <= width) & (y >= -1) & (y <= height)).float()
            x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        x0, y0 = x.floor(), y.floor()
        total = torch.zeros((), device=self.device)
        for across, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            for down, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                there = ((across >= 0) & (across < width) & (down >= 0) & (down < height)).float()
                row, column = down.clamp(0, height - 1).long(), across.clamp(0, width - 1).long()
                total = total + (self.layers[layer, row, column] == number) * (weight_x * weight_y * there)
        return total * inside

    @staticmethod
    def cat(masks_list: Sequence[LabelMasks]) -> LabelMasks:
        """Joins several sets of cells of one image, in order; label maps that the sets share are kept once.

        Raises:
            ValueError: no set is given, or the images differ in size.
        """
        if len({masks.image_size for masks in masks_list}) != 1:
            raise ValueError(f"cannot join masks of images of sizes {[masks.image_size for masks in masks_list]}")
        first_layer: dict[int, int] = {}
        layers: list[torch.Tensor] = []
        for masks in masks_list:
            if masks.layers.data_ptr() not in first_layer:
                first_layer[masks.layers.data_ptr()] = sum(map(len, layers))
                layers.append(masks.layers)
        layer_of = [masks.layer_of + first_layer[masks.layers.data_ptr()] for masks in masks_list]
        return LabelMasks(torch.cat(layers), torch.cat(layer_of), torch.cat([masks.ids for masks in masks_list]))
