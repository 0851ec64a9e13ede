"""VGG19's features, for the perceptual loss and for the VGG19 distance that the tables report.

Images are float tensors (N, 3, H, W), RGB in [0, 1]. The weights are torchvision's, a file of the user's own, or fixed
random ones where nothing is to be downloaded.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_utils.common.errors import CheckpointError, VGGError
from kd_utils.common.tensors import read_checkpoint

# name -> (index in torchvision's vgg19().features, Real-ESRGAN's weight)
LAYERS = {"conv1_2": (2, 0.1), "conv2_2": (7, 0.1), "conv3_4": (16, 1.0), "conv4_4": (25, 1.0), "conv5_4": (34, 1.0)}
DISTANCE = ("conv1_2", "conv2_2", "conv3_4")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class VGGFeatures(nn.Module):
    """VGG19's features, frozen: (N, 3, H, W) in [0, 1] -> {layer: (N, C, H/2^k, W/2^k) before its ReLU}.

    `name` says which weights these are; print it beside every number they give. `size` is each layer's mean absolute
    deviation on a fixed picture: weights of other origin compute the same features a thousand times larger.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Sequential, name: str) -> None:
        super().__init__()
        self.name = name
        self.features = features
        self.taps = {index: layer for layer, (index, _) in LAYERS.items() if index < len(features)}
        for module in features:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # in place it would overwrite the features that we tap before it
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

        with torch.no_grad():
            seen: dict[str, Tensor] = self(_reference())
        self.size = {}
        for layer, of_layer in seen.items():
            deviation = of_layer - of_layer.mean((0, 2, 3), keepdim=True)
            self.size[layer] = deviation.abs().mean().item()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = ((x.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

        out = {}
        for index, module in enumerate(self.features):
            x = module(x)
            if index in self.taps:
                out[self.taps[index]] = x
        return out


def load_vgg(spec: str | Path, upto: str = "conv3_4", device: torch.device | str = "cpu") -> VGGFeatures:
    """VGG19's features up to and including the layer `upto` (a key of LAYERS), frozen, on `device`.

    `spec`: "imagenet" (torchvision's weights, fetched once: 575 MB), the path of a file of VGG19 weights that reaches
    at least to `upto` (keys ``features.N.weight`` or ``N.weight``), or "random" (fixed weights, the same on every
    machine; no download). Errors: VGGError; sources.SourceError where the download fails.
    """
    from torchvision.models.vgg import cfgs, make_layers

    if upto not in LAYERS:
        raise VGGError(f"unknown VGG19 layer {upto!r}: choose one of {', '.join(LAYERS)}")
    with torch.device("meta"):  # no memory, and no draw from the global random numbers
        features = make_layers(cfgs["E"])[: LAYERS[upto][0] + 1]
    shapes = {key: tuple(value.shape) for key, value in features.state_dict().items()}

    if str(spec) == "random":
        name, state = "random VGG19 (not ImageNet): fixed Kaiming weights", _random_state(shapes)
    elif str(spec) == "imagenet":
        from kd_utils.common.sources import fetch

        name, state = "VGG19 (ImageNet)", _read_state(fetch("vgg19"), shapes, upto)
    else:
        name, state = f"VGG19 ({Path(spec).name})", _read_state(Path(spec).expanduser(), shapes, upto)

    features.load_state_dict(state, assign=True)
    features = features.to(memory_format=torch.channels_last)  # pyright: ignore (torch 2.11 lacks this overload)
    return VGGFeatures(features, name).to(device)


def _read_state(path: Path, shapes: dict[str, tuple], upto: str) -> dict[str, Tensor]:
    """The tensors named in `shapes` from a file of VGG19 weights, as fp32."""
    remedy = 'give the path of VGG19 weights, "imagenet" (downloaded) or "random" (no download) as loss.vgg'
    if not path.is_file():
        raise VGGError(f"no VGG19 weights at {path}: {remedy}")
    try:
        state = read_checkpoint(path)
    except CheckpointError as error:
        raise VGGError(f"{error}; or {remedy}") from error
    if not isinstance(state, dict):
        raise VGGError(f"{path} holds a {type(state).__name__}, not a state dict of VGG19: {remedy}")

    found = {}
    for key, shape in shapes.items():
        value = state.get(f"features.{key}", state.get(key))
        if not isinstance(value, Tensor):
            raise VGGError(f"{path} has no features.{key}, which VGG19 needs up to {upto}: {remedy}")
        if tuple(value.shape) != shape:
            raise VGGError(f"{path}: features.{key} is {tuple(value.shape)}, VGG19's is {shape}: {remedy}")
        found[key] = value.float()
    return found


def _random_state(shapes: dict[str, tuple]) -> dict[str, Tensor]:
    """Uniform weights, each filter of norm sqrt(2) (Kaiming's gain for ReLU, made exact), no biases.

    The same bits on every machine: Philox's raw stream is fixed by numpy's compatibility policy (its distributions and
    torch's generators are not), the sums are of integers, and the rest is one correctly rounded step at a time.
    """
    raw = np.random.Philox(key=19)
    state = {}
    for key, shape in shapes.items():
        if len(shape) == 1:
            state[key] = torch.zeros(shape)
            continue
        whole = (raw.random_raw(math.prod(shape)) >> np.uint64(48)).astype(np.int64).reshape(shape) - 2**15
        norm = np.sqrt((whole * whole).sum(axis=(1, 2, 3), keepdims=True).astype(np.float64) / 2)
        state[key] = torch.from_numpy((whole / norm).astype(np.float32))
    return state


def _reference() -> Tensor:
    """A fixed picture (1, 3, 64, 64) in [0, 1] with detail of all sizes, mostly gray, as photos are."""
    raw = np.random.Philox(key=64)
    layers = []
    for n in (4, 8, 16, 32, 64):
        noise = (raw.random_raw(3 * n * n) >> np.uint64(40)).astype(np.float64).reshape(3, n, n) / 2**24
        layers.append((0.75 * noise[:1] + 0.25 * noise).repeat(64 // n, axis=1).repeat(64 // n, axis=2))
    return torch.from_numpy(np.mean(layers, axis=0, dtype=np.float64)).float()[None]


@torch.no_grad()
def vgg_distance(a: Tensor, b: Tensor, vgg: VGGFeatures, rows: int = 256) -> Tensor:
    """A perceptual distance for each image pair: (N, 3, H, W) and (N or 1, 3, H, W) -> (N,), 0 for equal images.

    Features conv1_2, conv2_2 and conv3_4 before their ReLU, unit-normalised over channels; squared difference summed
    over channels, mean over positions, summed over layers (LPIPS, Zhang et al. 2018, without its learned weights).
    Works through strips of `rows` image rows (a multiple of 4) with 32 rows of context, more than the 25 that conv3_4
    sees, so that memory grows with the width only and the result is that of the whole image.
    """
    if a.dim() != 4 or a.shape[1] != 3 or min(a.shape[2:]) < 4 or b.shape not in (a.shape, a[:1].shape):
        raise ValueError(f"a VGG distance needs two (N, 3, H, W) tensors of one size, not {a.shape} and {b.shape}")

    height, width = a.shape[2:]
    total = torch.zeros(len(DISTANCE), len(a), dtype=torch.float64)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above = max(0, top - 32)
        strip = slice(above, min(bottom + 32, height))
        of_a = vgg(a[:, :, strip].to(vgg.mean))
        of_b = vgg(b[:, :, strip].to(vgg.mean))

        for k, layer in enumerate(DISTANCE):
            # Max pooling floors: the last strip ends where the layer ends.
            own = slice((top - above) >> k, (bottom - above) >> k)
            p, q = (F.normalize(f[layer][:, :, own].float(), dim=1, eps=1e-10) for f in (of_a, of_b))
            total[k] += (p - q).square_().sum(1).cpu().sum(dim=(1, 2), dtype=torch.float64)  # MPS has no float64

    sizes = torch.tensor([(height >> k) * (width >> k) for k in range(len(DISTANCE))], dtype=torch.float64)
    return (total / sizes[:, None]).sum(0)
