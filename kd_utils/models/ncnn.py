"""Networks of ncnn files, the format of realesrgan-ncnn-vulkan and Upscayl. `ncnn_writer` writes students as such.

A network is two files. The `.param` is text and lists the layers, their inputs and outputs by name, and their numbered
settings. The `.bin` holds the weights in the order of the layers, without names: for each Convolution a 4-byte tag
(0x01306B47: half precision follows, padded to 4 bytes; 0: fp32), the weights, then the bias in fp32; for each PReLU its
slopes in fp32. Both are ncnn's own format (https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure).

`compact` and `rrdbnet` describe the two kinds of network that are known. A file is compared with them layer by layer,
and one that differs is refused by the layer where it does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_utils.common.errors import NcnnError
from kd_utils.models.student import UP

MAGIC = "7767517"
HALF_TAG = 0x01306B47

# What ncnn takes for a convolution's settings that are left out: dilation and stride are 1, others repeat another one.
DEFAULTS = {2: 1, 3: 1}
SAME_AS = {11: 1, 12: 2, 13: 3, 14: 4, 15: 4, 16: 14}


@dataclass
class Layer:
    """One layer: its kind, the numbers of the layers that feed it, and its settings by their number in the file."""

    kind: str
    inputs: list[int]
    settings: dict[int, Any] = field(default_factory=dict)  # a number, or a tuple of them for keys below -23300
    name: str = ""  # in a file the layer's own name, in a known network that of its weights in the state dict


def compact(feat: int, convs: int, scale: int = 4) -> list[Layer]:
    """The layers of SRVGGNetCompact with `convs` inner convolutions, which is what a x4 student is.

    A student of scale 2 or 1 begins with PixelUnshuffle by d = 4/scale, for which ncnn has no layer. The first
    convolution does it too: its kernel is 3d wide and moves by d pixels. The image is continued to multiples of d
    before, and the result cut to the photo's sides.
    """
    layers = [Layer("Input", [])]
    down = UP // scale

    image = _continue_to_multiple(layers, down) if down > 1 else 0
    last = _convolution(layers, "body.0", image, 3, feat, down)
    last = _add(layers, "PReLU", [last], {0: feat}, "body.1")

    for n in range(1, convs + 1):
        last = _convolution(layers, f"body.{2 * n}", last, feat, feat)
        last = _add(layers, "PReLU", [last], {0: feat}, f"body.{2 * n + 1}")

    last = _convolution(layers, f"body.{2 * convs + 2}", last, feat, 3 * UP**2)
    last = _add(layers, "PixelShuffle", [last], {0: UP})

    repeated = _upsample(layers, 0, scale) if scale > 1 else 0
    if down > 1:
        last = _add(layers, "Crop", [last, repeated])
    _add(layers, "BinaryOp", [last, repeated])  # a sum
    return layers


def rrdbnet(feat: int, grow: int, blocks: int) -> list[Layer]:
    """The layers of a x4 RRDBNet (Wang et al. 2018, ESRGAN, arXiv:1809.00219), as in RealESRGAN_x4plus and anime_6B."""
    layers = [Layer("Input", [])]
    first = last = _convolution(layers, "conv_first", 0, 3, feat)

    for block in range(blocks):
        into_block = last
        for dense in (1, 2, 3):
            into_dense = last
            name = f"body.{block}.rdb{dense}.conv"

            # each convolution sees the block's input and all that came out of the block so far
            seen, channels = [last], feat
            for n in (1, 2, 3, 4):
                source = seen[0] if n == 1 else _add(layers, "Concat", seen)
                seen = [*seen, _leaky(layers, f"{name}{n}", source, channels, grow)]
                channels += grow
            last = _convolution(layers, f"{name}5", _add(layers, "Concat", seen), channels, feat)
            last = _residual(layers, last, into_dense)
        last = _residual(layers, last, into_block)

    last = _convolution(layers, "conv_body", last, feat, feat)
    last = _add(layers, "BinaryOp", [first, last])
    for name in ("conv_up1", "conv_up2"):
        last = _leaky(layers, name, _upsample(layers, last, 2), feat, feat)
    last = _leaky(layers, "conv_hr", last, feat, feat)
    _convolution(layers, "conv_last", last, feat, 3)
    return layers


def layers_of(state: dict[str, Tensor]) -> list[Layer]:
    """The layers of the x4 network whose weights are `state`, under the official names. Raises NcnnError."""
    kernels = {name.removesuffix(".weight"): value for name, value in state.items() if value.ndim == 4}
    layers: list[Layer] = []
    if "body.0" in kernels:
        layers = compact(len(kernels["body.0"]), len(kernels) - 2)
    elif "body.0.rdb1.conv1" in kernels:
        grow, feat = kernels["body.0.rdb1.conv1"].shape[:2]
        layers = rrdbnet(feat, grow, max(1, (len(kernels) - 6) // 15))

    known = {layer.name: layer.settings[6] for layer in layers if layer.kind == "Convolution"}
    if not known or known != {name: value.numel() for name, value in kernels.items()}:
        raise NcnnError("only x4 RRDBNet and x4 Compact networks can be written for ncnn")
    return layers


def _add(layers: list[Layer], kind: str, inputs: list[int], settings: dict | None = None, name: str = "") -> int:
    layers.append(Layer(kind, inputs, settings or {}, name))
    return len(layers) - 1


def _convolution(layers: list[Layer], name: str, source: int, cin: int, cout: int, down: int = 1) -> int:
    side = 3 * down
    # channels, side of the kernel, padding, with a bias, number of weights
    settings = {0: cout, 1: side, 4: down, 5: 1, 6: cout * cin * side**2}
    if down > 1:
        settings[3] = down  # stride
    return _add(layers, "Convolution", [source], settings, name)


def _leaky(layers: list[Layer], name: str, source: int, cin: int, cout: int) -> int:
    """A convolution with the LeakyReLU behind it, of slope .2, which ncnn writes as one layer."""
    number = _convolution(layers, name, source, cin, cout)
    layers[number].settings |= {9: 2, -23310: (0.2,)}
    return number


def _continue_to_multiple(layers: list[Layer], down: int) -> int:
    """The image with its last row and column repeated up to a multiple of `down`."""
    more = down - 1
    longer = _add(layers, "Padding", [0], {1: more, 3: more, 4: 1})  # below, right, 1: repeat the last pixel

    # no layer rounds sides, but a pooling and its upsampling give a picture of the rounded ones to cut by
    blocks = _add(layers, "Pooling", [longer], {1: down, 2: down, 5: 1})  # side, stride, 1: whole windows only
    return _add(layers, "Crop", [longer, _upsample(layers, blocks, down)])


def _upsample(layers: list[Layer], source: int, scale: int) -> int:
    return _add(layers, "Interp", [source], {0: 1, 1: float(scale), 2: float(scale)})  # 1: nearest


def _residual(layers: list[Layer], result: int, source: int) -> int:
    return _add(layers, "Eltwise", [result, source], {0: 1, -23301: (0.2, 1.0)})  # .2 * result + source


def read_ncnn(param: str | Path) -> dict[str, Tensor]:
    """The state dict, under the official names, of `param` and the `.bin` beside it; fp32.

    The keys are those of the official checkpoints: ``conv_first.weight``, ``body.0.rdb1.conv1.weight`` ... for RRDBNet,
    ``body.0.weight`` ... for Compact. Raises NcnnError, which names the file and the layer.
    """
    param = Path(param)
    found = _read_param(param)
    known = _nearest_known(found)
    _require_equal(found, known, param)
    return _read_weights(known, param.with_suffix(".bin"))


def _read_param(param: Path) -> list[Layer]:
    """The layers of a `.param` file. A Split only gives its input more names and is left out."""
    try:
        lines = param.read_text(encoding="ascii").splitlines()
    except OSError as e:
        raise NcnnError(f"{param} cannot be read ({e.strerror}): check the path") from e
    except UnicodeDecodeError as e:
        raise NcnnError(
            f"{param} is no ncnn .param file, because it is not text: give the file that ends in .param"
        ) from e
    if not lines or lines[0].strip() != MAGIC:
        raise NcnnError(f"{param} is no ncnn .param file, because it does not begin with {MAGIC}: check the path")

    layers: list[Layer] = []
    made_by: dict[str, int] = {}  # the number of the layer behind each name
    for number, line in enumerate(lines[2:], 3):
        words = line.split()
        if not words:
            continue
        try:
            # kind, name, number of inputs and outputs, their names, then key=value
            kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
            sources = [made_by[word] for word in words[4 : 4 + inputs]]
            settings = _read_settings(kind, words[4 + inputs + outputs :])
            if kind == "Split":
                maker = sources[0]
            else:
                layers.append(Layer(kind, sources, settings, name))
                maker = len(layers) - 1
        except (IndexError, ValueError, KeyError) as e:
            raise NcnnError(f"{param}, line {number} is no layer of a ncnn network: {line[:60]!r}") from e

        for word in words[4 + inputs : 4 + inputs + outputs]:
            made_by[word] = maker
    return layers


def _read_settings(kind: str, words: list[str]) -> dict[int, Any]:
    """The settings of a layer without those that say what ncnn takes anyway: converters differ in what they write."""
    settings: dict[int, Any] = {}
    for word in words:
        key, value = word.split("=", 1)
        numbers = tuple(float(number) for number in value.split(","))
        if not np.isfinite(numbers).all():
            raise ValueError(word)
        settings[int(key)] = numbers[1:] if int(key) < -23299 else numbers[0]  # a list begins with its length

    if kind == "Input":  # the sides of the image, which a converter may note
        return {}
    if kind == "Convolution":
        for key, other in SAME_AS.items():
            if settings.get(key) == settings.get(other, DEFAULTS.get(other)):
                settings.pop(key, None)
        for key, default in DEFAULTS.items():
            if settings.get(key) == default:
                del settings[key]
    return {key: value for key, value in settings.items() if value != 0}


def _nearest_known(found: list[Layer]) -> list[Layer]:
    """The known network that a file should hold, by its number of convolutions and their channels."""
    convolutions = [layer for layer in found if layer.kind == "Convolution"]
    channels = [int(layer.settings.get(0, 0)) for layer in convolutions] + [0, 0]

    if any(layer.kind == "PReLU" for layer in found):
        return compact(channels[0], max(0, len(convolutions) - 2))
    return rrdbnet(channels[0], channels[1], max(1, math.ceil((len(convolutions) - 6) / 15)))


def _require_equal(found: list[Layer], known: list[Layer], param: Path) -> None:
    """Refuse a file at its first layer that is not the one of the known network."""
    for have, want in zip_longest(found, known):
        if have is None:
            raise NcnnError(f"{param} ends where a Real-ESRGAN network goes on with {want.kind}: copy the file again")
        where = f"{param}: layer {have.name} is {_describe(have)}, where a Real-ESRGAN network"
        only = "only x4 RRDBNet and x4 Compact networks are read"
        if want is None:
            raise NcnnError(f"{where} ends: {only}")

        # a sum does not ask for the order of its inputs
        order = sorted if have.kind == "BinaryOp" else list
        if (have.kind, have.settings, order(have.inputs)) != (want.kind, want.settings, order(want.inputs)):
            raise NcnnError(f"{where} has {_describe(want)}: {only}")


def _describe(layer: Layer) -> str:
    settings = " ".join(f"{key}={value:g}" if key >= 0 else f"{key}={value}" for key, value in layer.settings.items())
    return f"{layer.kind} of {layer.inputs} {settings}".strip()


def _read_weights(layers: list[Layer], path: Path) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise NcnnError(f"{path} cannot be read ({e.strerror}): put it beside its .param") from e
    position = 0

    def take(count: int, dtype: str) -> Tensor:
        nonlocal position
        size = count * np.dtype(dtype).itemsize
        if position + size > len(data):
            raise NcnnError(f"{path} is cut short, it has {len(data)} bytes: copy or download it again")
        values = np.frombuffer(data, dtype, count, position)
        position += size + -size % 4
        return torch.from_numpy(values.astype(np.float32))

    state: dict[str, Tensor] = {}
    for layer in layers:
        if layer.kind == "PReLU":
            state[f"{layer.name}.weight"] = take(layer.settings[0], "<f4")

        if layer.kind == "Convolution":
            tag = int.from_bytes(data[position : position + 4], "little")
            position += 4
            if tag not in (0, HALF_TAG):
                raise NcnnError(
                    f"{path}: the weights of {layer.name} are quantised or damaged (tag {tag:#x}): "
                    "convert the network without quantising it"
                )
            out, side, count = (layer.settings[key] for key in (0, 1, 6))
            weight = take(count, "<f2" if tag else "<f4")
            state[f"{layer.name}.weight"] = weight.view(out, -1, side, side)  # (cout, cin, 3, 3)
            state[f"{layer.name}.bias"] = take(out, "<f4")

    if position != len(data):
        raise NcnnError(f"{path} is {len(data) - position} bytes longer than its layers: it belongs to another .param")
    return state
