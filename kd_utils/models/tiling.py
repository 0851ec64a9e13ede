"""Seam-free tiled inference for any convolutional network and any image size.

A tile is computed with a border of the network's receptive radius around it, which is then cut off; only at the true
border of the image does the network's own zero padding act. So tiled equals untiled, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_utils.models.receptive_field import ReceptiveField, measure_receptive_field

CPU_BUDGET = 192 << 20  # bytes for one tile's activations; larger tiles are no faster on a CPU
SMALLEST = 64  # input pixels a side of a tile, to begin with


def choose_tile(reach: ReceptiveField, overlap: int, device: torch.device) -> int:
    """The side of a tile (without overlap) whose activations fit into the memory there is.

    Raises MemoryError where a CPU has no room for the smallest one: the system would end the process instead.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        budget = free // 2
    else:
        free = _free_memory()
        budget = min(free // 4, CPU_BUDGET)
        least = (SMALLEST + 2 * overlap) ** 2 * reach.pixel_bytes
        if least > free:
            raise MemoryError(
                f"a tile needs about {least / 2**30:.1f} GiB with {overlap} pixels around it, and {free / 2**30:.1f} "
                "are free: close other programs, choose a smaller model, or --overlap 32 (faint seams)"
            )

    def side_within(memory: int) -> int:
        return int(math.sqrt(memory / reach.pixel_bytes)) - 2 * overlap

    # With a large overlap a small tile would be all overlap: then it takes more, but not all that is free.
    side = max(side_within(budget), min(overlap, side_within(free // 2)), SMALLEST)
    return _round_up(min(side, 2048), reach.multiple)


@dataclass(frozen=True)
class _TileSize:
    side: int  # of a tile without what is around it, in input pixels
    overlap: int  # input pixels around it


def _tile_size(reach: ReceptiveField, tile: int | None, overlap: int | None, device: torch.device | None) -> _TileSize:
    """The sizes that are asked for, or those without seams that fit into memory, as the network can take them."""
    overlap = _round_up(reach.radius if overlap is None else overlap, reach.multiple)
    side = tile or choose_tile(reach, overlap, device or torch.device("cpu"))
    return _TileSize(_round_up(side, reach.multiple), overlap)


def _round_up(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


def _free_memory() -> int:
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 4 << 30  # not Linux: a modest machine


def out_of_memory(e: BaseException) -> bool:
    """CUDA, MPS, torch's CPU allocator, oneDNN and onnxruntime all say it differently."""
    said = (
        "out of memory",
        "not enough memory",
        "bad_alloc",
        "allocate memory",
        "could not create a memory",  # oneDNN, for its buffers
        "could not create a primitive",  # oneDNN, for the code it writes while running
        "could not execute a primitive",  # oneDNN, for its scratchpad
    )
    return isinstance(e, (torch.OutOfMemoryError, MemoryError)) or any(s in str(e).lower() for s in said)


@dataclass(frozen=True)
class _Region:
    """A part of the output, in input pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def side(self) -> int:
        return max(self.bottom - self.top, self.right - self.left)

    def cut(self, tile: int, multiple: int) -> list[_Region]:
        """Regions of at most `tile` pixels a side."""
        regions = []
        for top, bottom in _cut(self.top, self.bottom, tile, multiple):
            for left, right in _cut(self.left, self.right, tile, multiple):
                regions.append(_Region(top, bottom, left, right))
        return regions

    def grown(self, overlap: int, height: int, width: int) -> _Region:
        """With `overlap` pixels around it, as far as the image goes."""
        return _Region(
            max(0, self.top - overlap),
            min(height, self.bottom + overlap),
            max(0, self.left - overlap),
            min(width, self.right + overlap),
        )


def process_tiles(
    fn: Callable[[Tensor], Tensor],
    reach: ReceptiveField,
    size: tuple[int, int],
    read: Callable[[int, int, int, int], Tensor],
    write: Callable[[int, int, Tensor], None],
    tiles: _TileSize,
) -> int:
    """Run `fn` over an image of `size` (h, w), tile by tile; returns the side of the tiles that fitted.

    `read(top, bottom, left, right)` gives the input there, (N, 3, h, w); `write(y, x, out)` takes the output whose
    corner is at (y, x) of the output. Regions are split, never dropped, when memory runs out; each is written once.
    Raises MemoryError where even the smallest tile does not fit.
    """
    side = tiles.side
    todo = [_Region(0, size[0], 0, size[1])]  # the next one last
    while todo:
        region = todo.pop()
        if region.side > side:
            todo += reversed(region.cut(side, reach.multiple))
            continue
        try:
            out = _compute(fn, reach, region, region.grown(tiles.overlap, *size), read)
            write(region.top * reach.scale, region.left * reach.scale, out)
        except Exception as e:  # onnxruntime's are plain Exceptions
            if not out_of_memory(e):
                raise
            if region.side <= max(reach.multiple, 8):
                raise MemoryError(
                    f"not enough memory for a tile of {region.side} pixels with {tiles.overlap} around it: "
                    "close other programs, choose another device, or a smaller overlap"
                ) from e
            side = _round_up(region.side / 2, reach.multiple)
            todo.append(region)
        out = None  # frees what this tile held before the next one is tried
    return side


def _compute(
    fn: Callable[[Tensor], Tensor],
    reach: ReceptiveField,
    region: _Region,
    around: _Region,
    read: Callable[[int, int, int, int], Tensor],
) -> Tensor:
    """The output for `region`, (N, 3, h*s, w*s), computed from the input of `around`."""
    height, width = around.bottom - around.top, around.right - around.left
    x = read(around.top, around.bottom, around.left, around.right)
    if height % reach.multiple or width % reach.multiple:  # only at the image's own right and lower border
        x = F.pad(x, (0, -width % reach.multiple, 0, -height % reach.multiple), mode="replicate")

    y = fn(x)
    top, left = (region.top - around.top) * reach.scale, (region.left - around.left) * reach.scale
    bottom = top + (region.bottom - region.top) * reach.scale
    right = left + (region.right - region.left) * reach.scale
    return y[..., top:bottom, left:right]


def _cut(a: int, b: int, tile: int, multiple: int) -> list[tuple[int, int]]:
    """[a, b) in equal pieces of at most `tile`, cut at multiples."""
    pieces = math.ceil((b - a) / tile)
    step = _round_up((b - a) / pieces, multiple)
    return [(c, min(c + step, b)) for c in range(a, b, step)]


@torch.inference_mode()
def run(net: nn.Module, image: Tensor, tile: int | None = None, overlap: int | None = None) -> Tensor:
    """(N, 3, h, w) float in [0, 1] -> (N, 3, h*s, w*s) float32, as `net` would give for the whole, not clamped.

    The result is where `image` is; tiles are computed where the network is. Sides that are no multiple of what the
    network needs are padded with their last row and column.
    """
    reach = measure_receptive_field(net)
    where = next(net.parameters())
    n, c, h, w = image.shape
    out = torch.empty(n, c, h * reach.scale, w * reach.scale, device=image.device)

    def read(top: int, bottom: int, left: int, right: int) -> Tensor:
        return image[..., top:bottom, left:right].to(where.device, where.dtype)

    def write(y: int, x: int, part: Tensor) -> None:
        out[..., y : y + part.shape[2], x : x + part.shape[3]] = part

    process_tiles(net, reach, (h, w), read, write, _tile_size(reach, tile, overlap, where.device))
    return out


@torch.inference_mode()
def to_canvas(
    fn: Callable[[Tensor], Tensor],
    reach: ReceptiveField,
    pixels: np.ndarray,
    device: torch.device | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Callable[[int], None] = lambda pixels: None,
) -> np.ndarray:
    """(h, w, C) uint8 or uint16, C 3 or 1 (gray) -> (h*s, w*s, C) of the same type, on the host.

    Nothing but the canvas grows with the image. `progress` is told the output pixels of each tile.
    """
    height, width, channels = pixels.shape
    peak = np.iinfo(pixels.dtype).max
    canvas = np.empty((height * reach.scale, width * reach.scale, channels), pixels.dtype)
    device = device or torch.device("cpu")

    def read(top: int, bottom: int, left: int, right: int) -> Tensor:
        part = torch.from_numpy(pixels[top:bottom, left:right].astype(np.float32))  # (h, w, C)
        part = part.to(device).div_(peak).permute(2, 0, 1)[None]  # (1, C, h, w) in [0, 1]
        return part.expand(-1, 3, -1, -1).contiguous()  # gray as three equal channels

    def write(y: int, x: int, part: Tensor) -> None:
        if not part.isfinite().all():
            remedy = "its file is damaged" if device.type == "cpu" else "use --device cpu"
            raise ValueError(f"the network's output is not finite on {device}: {remedy}")
        if channels == 1:
            part = part.mean(1, keepdim=True)
        part = part[0].clamp(0, 1).mul_(peak).round_().permute(1, 2, 0)  # (h, w, C)
        part = part.to(torch.uint8 if peak == 255 else torch.int32).contiguous().cpu()
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part.numpy()
        progress(part.shape[0] * part.shape[1])

    process_tiles(fn, reach, (height, width), read, write, _tile_size(reach, tile, overlap, device))
    return canvas
