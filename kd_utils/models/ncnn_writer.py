"""Networks as ncnn files: students, which realesrgan-ncnn-vulkan and Upscayl open, and teachers for our own labels.

The format is described in `ncnn`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_utils.common import files
from kd_utils.common.errors import NcnnError
from kd_utils.models import student
from kd_utils.models.ncnn import HALF_TAG, MAGIC, Layer, compact, layers_of


def write_ncnn(net: student.Student, param: str | Path) -> Path:
    """Write a student as `param` and the `.bin` beside it, in half precision; returns the path of the `.param`.

    The input is the blob `data` and the output `output`, both (3, h, w) RGB in [0, 1]. Raises NcnnError for weights
    that half precision cannot hold, StoreError where the files cannot be written.
    """
    param = Path(param)
    plain = student.fuse(net).float().cpu()
    layers = compact(plain.feat, plain.convs, plain.scale)
    files.write_bytes(param.with_suffix(".bin"), _weights(plain, layers))
    return files.write_bytes(param, _text(layers).encode("ascii"))


def write_network(state: dict[str, Tensor], param: Path) -> Path:
    """Write the x4 network of a state dict under the official names, in fp32. Raises NcnnError for another network."""
    layers = layers_of(state)
    parts = []
    for layer in layers:
        if layer.kind == "PReLU":
            parts.append(state[f"{layer.name}.weight"])
        if layer.kind == "Convolution":
            tag = torch.zeros(1)  # fp32 follows
            parts += [tag, state[f"{layer.name}.weight"], state[f"{layer.name}.bias"]]

    data = b"".join(part.detach().float().numpy().astype("<f4").tobytes() for part in parts)
    files.write_bytes(param.with_suffix(".bin"), data)
    return files.write_bytes(param, _text(layers).encode("ascii"))


def _weights(plain: student.Student, layers: list[Layer]) -> bytes:
    modules = iter(getattr(plain, plain.trunk))
    parts = []
    for layer in layers:
        if layer.kind not in ("Convolution", "PReLU"):
            continue
        module = next(modules)
        weight = module.weight.detach()

        if isinstance(module, nn.PReLU):
            parts.append(weight.numpy().astype("<f4").tobytes())
            continue
        if layer.settings[1] > 3:
            weight = _with_pixel_unshuffle(weight, plain.down)
        if not weight.abs().max() <= np.finfo(np.float16).max:
            raise NcnnError(f"the weights of {layer.name} are too large for half precision: train the student again")
        half = weight.numpy().astype("<f2").tobytes()
        parts += [HALF_TAG.to_bytes(4, "little"), half, bytes(-len(half) % 4)]
        parts.append(module.bias.detach().numpy().astype("<f4").tobytes())
    return b"".join(parts)


def _with_pixel_unshuffle(weight: Tensor, down: int) -> Tensor:
    """The kernel that does to a picture what `weight`, (cout, 3 d^2, 3, 3), does to its PixelUnshuffle by `down`, d."""
    cout = len(weight)
    split = weight.view(cout, 3, down, down, 3, 3)  # (cout, colour, row, column in a block, row, column of the block)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(cout, 3, 3 * down, 3 * down)


def _text(layers: list[Layer]) -> str:
    """The `.param` file. An output's name is its layer's number; a Split stands behind what several layers use."""
    names = ["data", *map(str, range(1, len(layers) - 1)), "output"]
    uses = Counter(source for layer in layers for source in layer.inputs)
    copies: dict[int, list[str]] = {}  # of an output that several layers use, one name for each of them
    for number, count in uses.items():
        if count > 1:
            copies[number] = [f"{names[number]}_{n}" for n in range(count)]
    unused = {number: list(of_it) for number, of_it in copies.items()}

    lines = []
    for number, layer in enumerate(layers):
        inputs = []
        for source in layer.inputs:
            inputs.append(unused[source].pop(0) if source in unused else names[source])
        settings = [f"{key}={_format(value)}" for key, value in sorted(layer.settings.items())]
        lines.append(_line(layer.kind, number, inputs, [names[number]], settings))
        if number in copies:
            lines.append(_line("Split", number, [names[number]], copies[number], []))

    blobs = len(layers) + sum(map(len, copies.values()))
    return "\n".join([MAGIC, f"{len(lines)} {blobs}", *lines, ""])


def _line(kind: str, number: int, inputs: list[str], outputs: list[str], settings: list[str]) -> str:
    name = f"{kind}_{number}"
    return " ".join([f"{kind:<24} {name:<24} {len(inputs)} {len(outputs)}", *inputs, *outputs, *settings])


def _format(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):  # a list begins with its length
        return ",".join([str(len(value)), *map(_format, value)])
    return str(value) if isinstance(value, int) else f"{value:e}"  # ncnn tells whole numbers from others by this
