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


class UnknownReceptiveField(ValueError):
    """A network with a layer whose reach is not known: it cannot be tiled."""


CPU_BUDGET = 192 << 20  # bytes for one tile's activations; larger tiles are no faster on a CPU
PLAIN = (nn.PReLU, nn.LeakyReLU, nn.ReLU, nn.PixelShuffle, nn.PixelUnshuffle, nn.Identity)


@dataclass(frozen=True)
class ReceptiveField:
    """What tiling needs to know of a network."""

    radius: int  # input pixels beyond a tile that can change it
    scale: int  # output pixels for an input pixel
    multiple: int  # input sides must be multiples of this (PixelUnshuffle)
    pixel_bytes: int  # memory that one input pixel takes while the network runs, about


def measure_receptive_field(net: nn.Module) -> ReceptiveField:
    """Walk the layers on a tiny input: each k x k convolution reaches (k // 2) * dilation pixels of its own grid.

    The sum along all layers is exact for a chain (Compact, our students) and for RRDBNet, whose longest path passes
    through every convolution; for parallel branches it is an upper bound. Nearest upsampling keeps it:
    ceil((ceil(a) + n) / 2) = ceil((a + n) / 2). Raises UnknownReceptiveField.
    """
    reach, most, coarse = 0.0, 0.0, 1.0
    side = 8
    p = next(net.parameters())

    def look(m: nn.Module, args: tuple, out: Tensor) -> None:
        nonlocal reach, most, coarse
        grid = out.shape[-1] / side  # pixels of this layer for an input pixel
        if (weight := getattr(m, "weight", None)) is not None and weight.ndim == 4:
            if getattr(m, "stride", (1,)) not in ((1,), (1, 1), 1):
                raise UnknownReceptiveField(f"a strided {type(m).__name__} is in it")
            dilation = getattr(m, "dilation", (1, 1))
            reach += max(k // 2 * d for k, d in zip(weight.shape[2:], dilation, strict=True)) / grid
            coarse = max(coarse, 1 / grid)
        elif not isinstance(m, PLAIN) and not (isinstance(m, nn.Upsample) and m.mode == "nearest"):
            raise UnknownReceptiveField(f"{type(m).__name__} is in it")
        most = max(most, (args[0].numel() + out.numel()) / side**2)

    hooks = [m.register_forward_hook(look) for m in net.modules() if not next(m.children(), None)]
    try:
        with torch.no_grad():
            out = net(torch.zeros(1, 3, side, side, dtype=p.dtype, device=p.device))
    finally:
        for h in hooks:
            h.remove()
    multiple = math.ceil(coarse)
    radius = math.ceil(reach / multiple - 1e-9) * multiple
    pixel_bytes = int(1.5 * most * p.element_size()) + 32 * out.numel() // side**2 + 128  # and the copies around it
    return ReceptiveField(radius, out.shape[-1] // side, multiple, pixel_bytes)


def choose_tile(reach: ReceptiveField, overlap: int, device: torch.device) -> int:
    """The side of a tile (without overlap) whose activations fit into the memory there is."""
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 2
    else:
        budget = min(_free_memory() // 4, CPU_BUDGET)
    side = int(math.sqrt(budget / reach.pixel_bytes)) - 2 * overlap
    # With a large overlap a small tile would be all overlap: rather take more memory (halved if it is not there).
    side = min(max(side, overlap, 64), 2048)
    return math.ceil(side / reach.multiple) * reach.multiple


def _free_memory() -> int:
    try:
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
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


def process_tiles(
    fn: Callable[[Tensor], Tensor],
    reach: ReceptiveField,
    size: tuple[int, int],
    read: Callable[[int, int, int, int], Tensor],
    write: Callable[[int, int, Tensor], None],
    tile: int | None = None,
    overlap: int | None = None,
    device: torch.device | None = None,
) -> int:
    """Run `fn` over an image of `size` (h, w), tile by tile; returns the side of the tiles that fitted.

    `read(top, bottom, left, right)` gives the input there, (N, 3, h, w); `write(y, x, out)` takes the output whose
    corner is at (y, x) of the output. Regions are split, never dropped, when memory runs out; each is written once.
    Raises MemoryError where even the smallest tile does not fit.
    """
    m, s = reach.multiple, reach.scale
    overlap = math.ceil((reach.radius if overlap is None else overlap) / m) * m
    tile = math.ceil((tile or choose_tile(reach, overlap, device or torch.device("cpu"))) / m) * m
    h, w = size
    todo = [(0, h, 0, w)]  # output regions, in input pixels, still to be computed; the next one last
    while todo:
        y0, y1, x0, x1 = todo.pop()
        if max(y1 - y0, x1 - x0) > tile:
            cuts = [(a, b, c, d) for a, b in _cut(y0, y1, tile, m) for c, d in _cut(x0, x1, tile, m)]
            todo += cuts[::-1]
            continue
        top, left = max(0, y0 - overlap), max(0, x0 - overlap)
        bottom, right = min(h, y1 + overlap), min(w, x1 + overlap)
        try:
            x = read(top, bottom, left, right)
            if (bottom - top) % m or (right - left) % m:  # only at the image's own right and lower border
                x = F.pad(x, (0, -(right - left) % m, 0, -(bottom - top) % m), mode="replicate")
            y = fn(x)[..., (y0 - top) * s : (y1 - top) * s, (x0 - left) * s : (x1 - left) * s]
            write(y0 * s, x0 * s, y)
        except Exception as e:  # onnxruntime's are plain Exceptions
            if not out_of_memory(e):
                raise
            if max(y1 - y0, x1 - x0) <= max(m, 8):
                raise MemoryError(
                    f"not enough memory for a tile of {y1 - y0} x {x1 - x0} pixels with {overlap} around it: "
                    "close other programs, choose another device, or a smaller overlap"
                ) from e
            tile = math.ceil(max(y1 - y0, x1 - x0) / 2 / m) * m
            todo.append((y0, y1, x0, x1))
        # Free what the failed (or finished) tile held before the next is tried.
        x = y = None
    return tile


def _cut(a: int, b: int, tile: int, multiple: int) -> list[tuple[int, int]]:
    """[a, b) in equal pieces of at most `tile`, cut at multiples."""
    n = math.ceil((b - a) / tile)
    step = math.ceil((b - a) / n / multiple) * multiple
    return [(c, min(c + step, b)) for c in range(a, b, step)]


@torch.inference_mode()
def run(net: nn.Module, image: Tensor, tile: int | None = None, overlap: int | None = None) -> Tensor:
    """(N, 3, h, w) float in [0, 1] -> (N, 3, h*s, w*s) float32, as `net` would give for the whole, not clamped.

    The result is where `image` is; tiles are computed where the network is. Sides that are no multiple of what the
    network needs are padded with their last row and column.
    """
    reach, p = measure_receptive_field(net), next(net.parameters())
    out = torch.empty(*image.shape[:2], image.shape[2] * reach.scale, image.shape[3] * reach.scale, device=image.device)

    def read(top: int, bottom: int, left: int, right: int) -> Tensor:
        return image[..., top:bottom, left:right].to(p.device, p.dtype)

    def write(y: int, x: int, part: Tensor) -> None:
        out[..., y : y + part.shape[2], x : x + part.shape[3]] = part

    process_tiles(net, reach, tuple(image.shape[2:]), read, write, tile, overlap, p.device)
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
    h, w, c = pixels.shape
    peak = np.iinfo(pixels.dtype).max
    canvas = np.empty((h * reach.scale, w * reach.scale, c), pixels.dtype)
    device = device or torch.device("cpu")

    def read(top: int, bottom: int, left: int, right: int) -> Tensor:
        part = pixels[top:bottom, left:right].astype(np.float32)
        return torch.from_numpy(part).to(device).div_(peak).permute(2, 0, 1)[None].expand(-1, 3, -1, -1).contiguous()

    def write(y: int, x: int, part: Tensor) -> None:
        if not part.isfinite().all():
            raise ValueError(f"the network's output is not finite on {device}: use another --device, such as cpu")
        if c == 1:
            part = part.mean(1, keepdim=True)
        part = part[0].clamp(0, 1).mul_(peak).round_().permute(1, 2, 0).to(torch.uint8 if peak == 255 else torch.int32)
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part.contiguous().cpu().numpy()
        progress(part.shape[0] * part.shape[1])

    process_tiles(fn, reach, (h, w), read, write, tile, overlap, device)
    return canvas
