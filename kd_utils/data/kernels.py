"""Blur kernels of the degradations: each (k, k) float64 that sums to 1, centred; k odd."""

from __future__ import annotations

import math

import numpy as np
import torch


def gaussian(k: int, sigma_x: float, sigma_y: float, theta: float, beta: float = 1.0) -> np.ndarray:
    """Bivariate Gaussian, exp(-q/2) with q = x' S^-1 x; sigmas in pixels, theta in radians. With another `beta` the
    generalised one, exp(-q^beta / 2) (Pascal et al. 2013, arXiv 1302.6498).
    """
    out = np.exp(-0.5 * _quadratic(k, sigma_x, sigma_y, theta) ** beta)
    return out / out.sum()


def plateau(k: int, sigma_x: float, sigma_y: float, theta: float, beta: float) -> np.ndarray:
    """Plateau-shaped kernel 1 / (1 + q^beta) (Real-ESRGAN, arXiv 2107.10833, section 3.2)."""
    out = 1 / (1 + _quadratic(k, sigma_x, sigma_y, theta) ** beta)
    return out / out.sum()


def sinc(k: int, cutoff: float) -> np.ndarray:
    """Circular low-pass w J1(w r) / (2 pi r), w = `cutoff` in radians a pixel, up to pi (the same paper, eq. 6)."""
    y, x = _grid(k)
    r = np.hypot(x, y)
    r[k // 2, k // 2] = 1.0  # the centre has its limit instead
    out = cutoff * torch.special.bessel_j1(torch.from_numpy(cutoff * r)).numpy() / (2 * math.pi * r)
    out[k // 2, k // 2] = cutoff**2 / (4 * math.pi)
    return out / out.sum()


def _grid(k: int) -> np.ndarray:
    return np.mgrid[-(k // 2) : k // 2 + 1, -(k // 2) : k // 2 + 1].astype(np.float64)  # rows, columns


def _quadratic(k: int, sigma_x: float, sigma_y: float, theta: float) -> np.ndarray:
    """q = x' S^-1 x at every pixel, S the covariance with axes sigma_x, sigma_y turned by theta."""
    y, x = _grid(k)
    u = (math.cos(theta) * x + math.sin(theta) * y) / sigma_x
    v = (-math.sin(theta) * x + math.cos(theta) * y) / sigma_y
    return u * u + v * v
