"""How far a pixel of a convolutional network's output reaches into its input, and what memory it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PLAIN = (nn.PReLU, nn.LeakyReLU, nn.ReLU, nn.PixelShuffle, nn.PixelUnshuffle, nn.Identity)


class UnknownReceptiveField(ValueError):
    """A network with a layer whose reach is not known: it cannot be tiled."""


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
    side = 8
    like = next(net.parameters())
    reach = 0.0  # pixels of the input
    coarsest = 1.0  # input pixels for a pixel of the coarsest grid
    most = 0.0  # values that a layer takes and gives, for an input pixel

    def look(layer: nn.Module, args: tuple, out: Tensor) -> None:
        nonlocal reach, most, coarsest
        grid = out.shape[-1] / side  # pixels of this layer for an input pixel
        if _is_convolution(layer):
            reach += _reach_on_its_grid(layer) / grid
            coarsest = max(coarsest, 1 / grid)
        elif not isinstance(layer, PLAIN) and not (isinstance(layer, nn.Upsample) and layer.mode == "nearest"):
            raise UnknownReceptiveField(f"{type(layer).__name__} is in it")
        most = max(most, (args[0].numel() + out.numel()) / side**2)

    hooks = []
    for layer in net.modules():
        if not next(layer.children(), None):
            hooks.append(layer.register_forward_hook(look))
    try:
        with torch.no_grad():
            out = net(torch.zeros(1, 3, side, side, dtype=like.dtype, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()

    multiple = math.ceil(coarsest)
    radius = math.ceil(reach / multiple - 1e-9) * multiple
    copies = 32 * out.numel() // side**2 + 128  # of the input and the output, around the network
    pixel_bytes = int(1.5 * most * like.element_size()) + copies
    return ReceptiveField(radius, out.shape[-1] // side, multiple, pixel_bytes)


def _is_convolution(layer: nn.Module) -> bool:
    """Also a CollapsibleConv, and what other packages call theirs: a layer with a kernel of four dimensions."""
    weight = getattr(layer, "weight", None)
    return weight is not None and weight.ndim == 4


def _reach_on_its_grid(layer: nn.Module) -> int:
    if getattr(layer, "stride", (1,)) not in ((1,), (1, 1), 1):
        raise UnknownReceptiveField(f"a strided {type(layer).__name__} is in it")
    weight = layer.get_parameter("weight")
    dilation: tuple[int, int] = getattr(layer, "dilation", (1, 1))
    return max(k // 2 * d for k, d in zip(weight.shape[2:], dilation, strict=True))
