"""What the student is trained on: L1, spectral L1, a VGG19 perceptual loss; and the VGG19 distance we report.

Images are float tensors (N, 3, H, W), RGB in [0, 1]. The perceptual loss is Real-ESRGAN's (Wang et al. 2021,
``finetune_realesrgan_x4plus.yml``): L1 between VGG19 features before their ReLU, weighted by layer, here up to conv3_4:
on a small student the deeper layers cost more than they teach. It is scored on `sub_crops`, so that it costs no
more than the student's own step (benchmarks/perceptual_cost.py measures that).
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


def l1(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Mean absolute difference, a scalar; with `eps` > 0 Charbonnier's, the mean of sqrt(d^2 + eps^2) - eps, which is
    square below eps (Lai et al. 2017, LapSRN, arXiv:1704.03915; less eps, so that 0 stays 0).
    """
    return ((a - b).square() + eps * eps).sqrt().mean() - eps if eps else F.l1_loss(a, b)


def _full(x: Tensor) -> Tensor:
    """Half precision raised to fp32; fp32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def fft_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the real and imaginary parts of the 2-d spectra (Sun et al. 2023, SAFMN).

    In fp32 at least: half precision has no FFT on most devices. A scalar, about sqrt(H W / 2) times `l1` for noise.
    """
    # The transform is linear: one FFT of the difference is two FFTs less.
    return torch.view_as_real(torch.fft.rfft2(_full(a - b))).abs().mean()


def sub_crops(pred: Tensor, target: Tensor, side: int, fraction: float, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """One square of `side` pixels from every 1/`fraction`-th sample of a batch: two (K, C, side, side) tensors.

    K = max(1, round(fraction N)). The samples are evenly spaced in the batch (which is drawn at random anyway).
    `positions`, (N, 2) in [0, 1), places each sample's square. Ranks that hold contiguous parts of a global batch pass
    their rows of its positions, and take the very crops that one process would.
    """
    n, _, height, width = pred.shape
    room = height - side, width - side
    if min(room) < 0:
        raise ValueError(f"sub-crops of {side} pixels do not fit into {width}x{height}")
    count = max(1, round(fraction * n))
    crops = []
    for i in (k * n // count for k in range(count)):
        top, left = (int(u * (r + 1)) for u, r in zip(positions[i], room, strict=True))
        crops.append((i, slice(None), slice(top, top + side), slice(left, left + side)))
    return torch.stack([pred[c] for c in crops]), torch.stack([target[c] for c in crops])


class VGGFeatures(nn.Module):
    """VGG19's features, frozen: (N, 3, H, W) in [0, 1] -> {layer: (N, C, H/2^k, W/2^k) before its ReLU}.

    `name` says which weights these are; print it beside every number they give. `size` is each layer's mean absolute
    deviation on a fixed picture: weights of other origin compute the same features a thousand times larger.
    """

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
            seen = self(_reference())
        self.size = {layer: (f - f.mean((0, 2, 3), keepdim=True)).abs().mean().item() for layer, f in seen.items()}

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
    return VGGFeatures(features.to(memory_format=torch.channels_last), name).to(device)


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


def perceptual(pred: Tensor, target: Tensor, vgg: VGGFeatures) -> Tensor:
    """L1 between features before their ReLU, relative to each layer's `size`, summed over layers; a scalar.

    Weighted as in Real-ESRGAN: .1 for conv1_2 and conv2_2, 1 for conv3_4 and what is deeper. Being relative (as Gatys
    et al. 2016 normalise their VGG), one `loss.perceptual` fits torchvision's weights, Oxford's and the random ones.
    No gradient flows into `target`.
    """
    with torch.no_grad():
        wanted = vgg(target)
    got = vgg(pred)
    weights = {layer: LAYERS[layer][1] / vgg.size[layer] for layer in wanted}
    return sum(weight * F.l1_loss(_full(got[layer]), _full(wanted[layer])) for layer, weight in weights.items())


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
        features = [vgg(x[:, :, strip].to(vgg.mean)) for x in (a, b)]
        for k, layer in enumerate(DISTANCE):
            # Max pooling floors: the last strip ends where the layer ends.
            own = slice((top - above) >> k, (bottom - above) >> k)
            p, q = (F.normalize(f[layer][:, :, own].float(), dim=1, eps=1e-10) for f in features)
            total[k] += (p - q).square_().sum(1).cpu().sum(dim=(1, 2), dtype=torch.float64)  # MPS has no float64
    sizes = torch.tensor([(height >> k) * (width >> k) for k in range(len(DISTANCE))], dtype=torch.float64)
    return (total / sizes[:, None]).sum(0)
