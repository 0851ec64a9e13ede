"""What the student is trained on: L1, spectral L1, a VGG19 perceptual loss.

Images are float tensors (N, 3, H, W), RGB in [0, 1]. The perceptual loss is Real-ESRGAN's (Wang et al. 2021,
``finetune_realesrgan_x4plus.yml``): L1 between VGG19 features before their ReLU, weighted by layer, here up to conv3_4:
on a small student the deeper layers cost more than they teach. It is scored on `sub_crops`, so that it costs no
more than the student's own step (benchmarks/perceptual_cost.py measures that).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_utils.models.vgg import LAYERS, VGGFeatures


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
