"""The steps of a degradation: what each is, in words, and applied to a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from kd_utils.common.tensors import bicubic, to_tensor, to_uint8


@dataclass(frozen=True)
class Blur:
    kernel: np.ndarray  # (k, k) float64, k odd, sum 1
    name: str


@dataclass(frozen=True)
class Resize:
    size: tuple[int, int]  # height, width
    mode: str  # area, bilinear or bicubic without antialiasing, as published; or "antialiased bicubic"


@dataclass(frozen=True)
class Noise:
    kind: str  # gaussian or poisson
    strength: float  # gaussian: sigma on 0..255; poisson: a factor on the shot noise
    gray: bool  # the same on the three channels
    seed: int


@dataclass(frozen=True)
class Jpeg:
    quality: int


Step = Blur | Resize | Noise | Jpeg


def title(step: Step) -> str:
    """The step in a few words, for a picture's caption."""
    if isinstance(step, Blur):
        return f"blur: {step.name}"
    if isinstance(step, Resize):
        return f"resize to {step.size[1]}x{step.size[0]}, {step.mode}"
    if isinstance(step, Noise):
        color = "gray " if step.gray else ""
        if step.kind == "gaussian":
            return f"noise: {color}Gaussian, sigma {step.strength:.1f} of 255"
        return f"noise: {color}Poisson, strength {step.strength:.2f}"
    return f"JPEG, quality {step.quality}"


def apply(step: Step, x: torch.Tensor) -> torch.Tensor:
    """One step on one picture: (1, 3, H, W) float32, about [0, 1] -> the same kind (noise and JPEG clamp to [0, 1])."""
    if isinstance(step, Blur):
        return _blur(x, step.kernel)

    if isinstance(step, Resize):
        if step.mode == "antialiased bicubic":
            return bicubic(x, step.size)
        if step.size == tuple(x.shape[2:]):
            return x  # what every mode would give
        return F.interpolate(x, size=step.size, mode=step.mode)

    if isinstance(step, Noise):
        return (x + _noise(x, step)).clamp(0, 1)

    # OpenCV's JPEG: the same bytes as Pillow's and torchvision's (4:2:0), the fastest, and torchvision's is deprecated.
    _, data = cv2.imencode(".jpg", to_uint8(x)[0, ..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, step.quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return to_tensor(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)[None])


def _blur(x: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Correlation with `kernel`, borders reflected (as numpy does it, also for pictures smaller than it)."""
    k = len(kernel)
    x = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)), mode="reflect"))

    # round Gaussians are separable, and much the fastest as two passes
    rows, columns = kernel.sum(1), kernel.sum(0)
    separable = np.abs(np.outer(rows, columns) - kernel).max() < 1e-9
    parts = (rows[:, None], columns[None]) if separable else (kernel,)
    for part in parts:
        x = F.conv2d(x, torch.from_numpy(part).float().expand(3, 1, *part.shape), groups=3)
    return x


def _noise(x: torch.Tensor, step: Noise) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step.seed)
    if step.kind == "gaussian":
        shape = (1, 1 if step.gray else 3, *x.shape[2:])
        return torch.randn(shape, generator=generator) * (step.strength / 255)

    # Shot noise as in basicsr: a picture of n different levels counts as 2^ceil(log2 n) photons at full white.
    if step.gray:
        x = (x * x.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    x = (x * 255).round().clamp(0, 255).byte()
    photons = 2 ** math.ceil(math.log2(torch.bincount(x.flatten(), minlength=256).count_nonzero()))
    x = x.float() / 255
    return (torch.poisson(x * photons, generator=generator) / photons - x) * step.strength
