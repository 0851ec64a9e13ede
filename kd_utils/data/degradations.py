"""Degradation: from a photo to the input that a student must learn to restore.

A crop's whole plan (a short list of `Blur`, `Resize`, `Noise` and `Jpeg`) is drawn from its seed first, then applied
to that crop alone, in float32 on the CPU. So a crop comes out the same, to the byte, whatever batch it is in.

Profiles, all at scale 4, 2 or 1 (HR side / LR side):

- ``bicubic``: antialiased bicubic downscale and nothing else; no randomness. At scale 1 that would be the identity, so
  there it is a Gaussian blur of sigma 1 and nothing else.
- ``light``: isotropic Gaussian blur, antialiased bicubic downscale, mild Gaussian noise, JPEG at 60 to 95.
- ``blurred``: a photo out of focus. A strong blur of any kind that two_order has (a tenth are sinc filters, which
  may blur little), a downscale by any of its modes, mild noise, JPEG at 60 to 95.
- ``two_order``: the pipeline of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3) with the ranges of its
  ``options/train_realesrgan_x4plus.yml``; they hold for scale 2 as well (``train_realesrgan_x2plus.yml`` has the same).
  The photo itself goes in, not a sharpened copy of it (the official training sharpens first).
- ``mixed``: light or two_order, half each, by the crop's seed.
- ``wide``: light, blurred or two_order, a third each, by the crop's seed.

Nothing is published for scale 1. There the ranges of two_order would ask for a far larger upscaling hidden in the
picture (0.15 x 0.3 of its size) and noise that no downscale averages out; so at scale 1 its intermediate sizes stay at
0.5 of the output or above, its blurs are light to moderate at the photo's size, and its noise is about half as strong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.data.degradation_steps import Blur, Jpeg, Noise, Resize, Step, apply, title
from kd_utils.data.kernels import gaussian, plateau, sinc

PARTS = {"mixed": ("light", "two_order"), "wide": ("light", "blurred", "two_order")}  # one of them, by the crop's seed
PROFILES = ("bicubic", "light", "blurred", "two_order", *PARTS)
SCALES = (4, 2, 1)
LIGHT_SIGMA = {4: (0.2, 2.4), 2: (0.2, 1.6), 1: (0.5, 2.0)}  # in HR pixels
BLURRED_SIGMA = {4: (1.5, 5.0), 2: (1.0, 3.0), 1: (1.0, 3.0)}
BLURRED_NOISE, BLURRED_POISSON = (0.0, 5.0), (0.05, 0.5)
MILD_JPEG = (60, 95)

# What two_order draws, as published; blurred takes kernels, kinds of noise and modes from it.
KERNELS = {  # basicsr's names, and what a caption says: isotropic Gaussians are round
    "iso": "round",
    "aniso": "oval",
    "generalized iso": "round generalized",
    "generalized aniso": "oval generalized",
    "plateau iso": "round plateau",
    "plateau aniso": "oval plateau",
}
KERNEL_PROB = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
SINC_PROB, SECOND_BLUR_PROB, FINAL_SINC_PROB = 0.1, 0.8, 0.8
GAUSSIAN_PROB, GRAY_PROB = 0.5, 0.4  # Gaussian noise, else Poisson; the same on the three channels
BETA_GENERALIZED, BETA_PLATEAU = (0.5, 4.0), (1.0, 2.0)
MODES = ("area", "bilinear", "bicubic")
JPEG = (30, 95)


@dataclass(frozen=True)
class Order:
    """The ranges of one order of degradation."""

    sigma: tuple[float, float]  # of the blur, in pixels
    resize_prob: tuple[float, float, float]  # up, down, keep
    resize: tuple[float, float]  # first order: times the HR size; second order: times the LR size
    noise: tuple[float, float]  # sigma of Gaussian noise, on 0..255
    poisson: tuple[float, float]  # strength of Poisson noise


PUBLISHED = (
    Order((0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0)),
    Order((0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5)),
)
TWO_ORDER = {
    4: PUBLISHED,
    2: PUBLISHED,
    1: (
        Order((0.2, 2.0), (0.2, 0.7, 0.1), (0.5, 1.5), (1.0, 15.0), (0.05, 1.5)),
        Order((0.2, 1.0), (0.3, 0.4, 0.3), (0.6, 1.2), (1.0, 12.0), (0.05, 1.2)),
    ),
}


# ---- plans


def plan(size: tuple[int, int], seed: int, scale: int, profile: str) -> list[Step]:
    """The steps that `degrade` applies to an HR crop of `size` (height, width) with this seed."""
    h, w = size
    low = (h // scale, w // scale)
    rng = np.random.default_rng(seed)

    # the choice has random numbers of its own, so that the crop is that of the chosen profile with the same seed
    if parts := PARTS.get(profile):
        profile = parts[int(np.random.default_rng([seed, 1]).random() * len(parts))]

    if profile == "two_order":
        return _two_order(rng, (h, w), low, scale)
    if profile == "light":
        return _light(rng, low, scale)
    if profile == "blurred":
        return _blurred(rng, low, scale)
    if scale == 1:
        return [_round_blur(1.0)]
    return [Resize(low, "antialiased bicubic")]


def _light(rng: np.random.Generator, low: tuple[int, int], scale: int) -> list[Step]:
    steps: list[Step] = [_round_blur(rng.uniform(*LIGHT_SIGMA[scale]))]
    if scale > 1:
        steps.append(Resize(low, "antialiased bicubic"))
    steps.append(Noise("gaussian", rng.uniform(0.0, 5.0), False, _seed(rng)))
    steps.append(_random_jpeg(rng, MILD_JPEG))
    return steps


def _blurred(rng: np.random.Generator, low: tuple[int, int], scale: int) -> list[Step]:
    steps: list[Step] = [_random_blur(rng, BLURRED_SIGMA[scale])]
    if scale > 1:
        steps.append(Resize(low, str(rng.choice(MODES))))
    return [*steps, _random_noise(rng, BLURRED_NOISE, BLURRED_POISSON), _random_jpeg(rng, MILD_JPEG)]


def _round_blur(sigma: float) -> Blur:
    k = 2 * math.ceil(3 * sigma) + 1
    return Blur(gaussian(k, sigma, sigma, 0.0), f"round, sigma {sigma:.2f}")


def _two_order(rng: np.random.Generator, high: tuple[int, int], low: tuple[int, int], scale: int) -> list[Step]:
    """Real-ESRGAN's two orders; the random numbers are drawn in the order of the steps."""
    first, second = TWO_ORDER[scale]

    # first order: blur, resize, noise, JPEG
    steps: list[Step] = [
        _random_blur(rng, first.sigma),
        _random_resize(rng, first, high),
        _random_noise(rng, first.noise, first.poisson),
    ]
    steps.append(_random_jpeg(rng))

    # second order, up to its noise
    if rng.random() < SECOND_BLUR_PROB:
        steps.append(_random_blur(rng, second.sigma))
    steps += [_random_resize(rng, second, low), _random_noise(rng, second.noise, second.poisson)]

    # the resize to the LR size with a sinc filter, and JPEG, in either order
    last: list[Step] = [Resize(low, str(rng.choice(MODES)))]
    if rng.random() < FINAL_SINC_PROB:
        cutoff = rng.uniform(math.pi / 3, math.pi)
        last.append(Blur(sinc(_random_k(rng), cutoff), f"final sinc, cutoff {cutoff:.2f}"))
    jpeg = _random_jpeg(rng)
    if rng.random() < 0.5:
        return [*steps, *last, jpeg]
    return [*steps, jpeg, *last]


def _random_blur(rng: np.random.Generator, sigma_range: tuple[float, float]) -> Blur:
    k = _random_k(rng)
    if rng.random() < SINC_PROB:
        cutoff = rng.uniform(math.pi / (3 if k < 13 else 5), math.pi)
        return Blur(sinc(k, cutoff), f"sinc, cutoff {cutoff:.2f}")

    name = str(rng.choice(list(KERNELS), p=KERNEL_PROB))
    sigma_x = sigma_y = rng.uniform(*sigma_range)
    theta = 0.0
    text = f"{KERNELS[name]}, sigma {sigma_x:.2f}"
    if name.endswith("aniso"):
        sigma_y, theta = rng.uniform(*sigma_range), rng.uniform(-math.pi, math.pi)
        text += f" and {sigma_y:.2f}"
    if " " not in name:
        return Blur(gaussian(k, sigma_x, sigma_y, theta), text)

    if name.startswith("generalized"):
        family, (low, high) = gaussian, BETA_GENERALIZED
    else:
        family, (low, high) = plateau, BETA_PLATEAU
    below_one = rng.random() < 0.5
    beta = rng.uniform(low, 1.0) if below_one else rng.uniform(1.0, high)
    return Blur(family(k, sigma_x, sigma_y, theta, beta), f"{text}, beta {beta:.2f}")


def _random_k(rng: np.random.Generator) -> int:
    return 2 * int(rng.integers(3, 11)) + 1  # 7, 9 ... 21


def _random_resize(rng: np.random.Generator, order: Order, base: tuple[int, int]) -> Resize:
    ranges = {"up": (1.0, order.resize[1]), "down": (order.resize[0], 1.0), "keep": (1.0, 1.0)}
    way = rng.choice(("up", "down", "keep"), p=order.resize_prob)
    factor = rng.uniform(*ranges[way])
    size = (max(1, int(base[0] * factor)), max(1, int(base[1] * factor)))
    return Resize(size, str(rng.choice(MODES)))


def _random_noise(rng: np.random.Generator, sigma: tuple[float, float], poisson: tuple[float, float]) -> Noise:
    kind, strength = ("gaussian", sigma) if rng.random() < GAUSSIAN_PROB else ("poisson", poisson)
    return Noise(kind, rng.uniform(*strength), bool(rng.random() < GRAY_PROB), _seed(rng))


def _random_jpeg(rng: np.random.Generator, quality: tuple[int, int] = JPEG) -> Jpeg:
    return Jpeg(int(rng.integers(quality[0], quality[1] + 1)))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))


# ---- what others call


@torch.no_grad()
def degrade(hr: np.ndarray, seeds: Sequence[int], scale: int, profile: str) -> np.ndarray:
    """LR pictures (N, H/scale, W/scale, 3) uint8 of HR pictures (N, H, W, 3) uint8.

    Picture i depends on ``hr[i]`` and ``seeds[i]`` (integers from 0) only. Raises ValueError for a wrong type, shape,
    number of seeds, scale or profile, and for sides that are no multiples of the scale.
    """
    _check(hr, seeds, scale, profile)
    n, h, w, _ = hr.shape
    out = np.empty((n, h // scale, w // scale, 3), np.uint8)
    for i, seed in enumerate(seeds):
        for _, x in _run(hr[i], seed, scale, profile):
            last = x  # the earlier ones are let go: of a whole photo they are large
        out[i] = to_uint8(last)[0]
    return out


@torch.no_grad()
def stages(hr: np.ndarray, seed: int, scale: int, profile: str) -> list[tuple[str, np.ndarray]]:
    """What each step does to one HR picture (H, W, 3) uint8: (title, uint8 picture), the photo first, the LR last."""
    _check(hr[None], [seed], scale, profile)
    return [("original", hr), *((title(step), to_uint8(x)[0]) for step, x in _run(hr, seed, scale, profile))]


def _run(hr: np.ndarray, seed: int, scale: int, profile: str) -> Iterator[tuple[Step, torch.Tensor]]:
    x = to_tensor(hr[None])
    for step in plan(hr.shape[:2], int(seed), scale, profile):
        x = apply(step, x)
        yield step, x


def _check(hr: np.ndarray, seeds: Sequence[int], scale: int, profile: str) -> None:
    if profile not in PROFILES:
        raise ValueError(f"unknown degradation profile {profile!r}: choose one of {', '.join(PROFILES)}")
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r}: choose one of {', '.join(map(str, SCALES))}")
    if not isinstance(hr, np.ndarray) or hr.dtype != np.uint8 or hr.ndim != 4 or hr.shape[3] != 3:
        got = f"{hr.dtype} {hr.shape}" if isinstance(hr, np.ndarray) else type(hr).__name__
        raise ValueError(f"pictures must be a uint8 array (N, H, W, 3), not {got}")
    if hr.shape[1] % scale or hr.shape[2] % scale or 0 in hr.shape[1:3]:
        raise ValueError(f"pictures of {hr.shape[2]}x{hr.shape[1]}: both sides must be multiples of scale {scale}")
    if len(seeds) != len(hr) or any(int(s) != s or s < 0 for s in seeds):
        raise ValueError(f"{len(hr)} pictures need as many seeds, each an integer from 0; got {list(seeds)[:8]!r}")
