"""What a training minimises: the loss of a batch, weighted by `LossConfig`, and its terms.

Images are float tensors (N, 3, H, W), RGB in [0, 1]. To add a loss of your own, write its term here, give it a weight
in `LossConfig` (config.py), and add it to `distillation_loss`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_utils.config import Config
from kd_utils.data.crops import Batch
from kd_utils.models.vgg import LAYERS, VGGFeatures


def distillation_loss(cfg: Config, pred: Tensor, batch: Batch, vgg: VGGFeatures | None, step: int) -> Tensor:
    """The training loss of a batch, a scalar: `pred` is the student's (N, 3, H, W), `batch` holds float tensors.

    `loss.margin` leaves out 4 pixels a unit on each side. It is 0 by default: the student sees the same zero padding
    as the teacher did, and has to learn what the teacher does at a photo's edge (docs/LOG.md).
    """
    weights = cfg.loss
    pred = _full(pred)
    label, original = batch.label, batch.hr
    if weights.margin:
        pred, label, original = (_without_border(x, 4 * weights.margin) for x in (pred, label, original))

    loss = pred.new_zeros(())
    if weights.teacher:
        loss = loss + weights.teacher * l1(pred, label, weights.charbonnier)
    if gt := original_weight(cfg, step):
        loss = loss + gt * l1(pred, original, weights.charbonnier)
    if weights.fft:
        loss = loss + weights.fft * fft_l1(pred, label)
    if weights.gradient:
        loss = loss + weights.gradient * gradient_l1(pred, label)
    is_crisp = crisp_terms_have_begun(cfg, step)
    if is_crisp and weights.screen:
        loss = loss + weights.screen * screen_l1(pred, label)

    # the perceptual terms look at a part of the batch, so that they cost no more than the student's own step
    for weight, target in ((weights.perceptual, label), (weights.perceptual_gt, original)):
        if is_crisp and weight:
            assert vgg is not None
            seen = sub_crops(pred, target, weights.crop, weights.fraction, batch.positions)
            loss = loss + weight * perceptual(*seen, vgg)
    return loss


def original_weight(cfg: Config, step: int) -> float:
    """The weight of L1 to the original: constant, or a ramp from `loss.gt` to `loss.gt_end`."""
    if cfg.loss.gt_end < 0:
        return cfg.loss.gt
    done = step / max(1, cfg.train.steps - 1)
    return cfg.loss.gt + (cfg.loss.gt_end - cfg.loss.gt) * done


def crisp_terms_have_begun(cfg: Config, step: int) -> bool:
    """Whether the terms for crispness count at a step: from `loss.crisp_start` of the steps on.

    They are VGG19's, the grid's and the adversarial one. A young student learns faster without them.
    """
    return step >= cfg.loss.crisp_start * cfg.train.steps


def baseline_config(cfg: Config) -> Config:
    """The settings of the baseline: the same network, data, steps and beginning, with L1 to the original alone.

    Where the student begins as its teacher, cut down, the baseline begins with random weights.
    """
    loss = replace(cfg.loss, teacher=0.0, gt=1.0, gt_end=-1.0, perceptual=0.0, perceptual_gt=0.0, fft=0.0)
    loss = replace(loss, gradient=0.0, usm=0.0, screen=0.0, adversarial=0.0, crisp_start=0.0)
    init = "" if cfg.train.init == "teacher" else cfg.train.init
    return replace(cfg, loss=loss, train=replace(cfg.train, init=init))


# ---- the terms


def l1(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Mean absolute difference, a scalar.

    With `eps` > 0 it is Charbonnier's loss, the mean of sqrt(d^2 + eps^2) - eps, which is square below eps (Lai et al.
    2017, LapSRN, arXiv:1704.03915; eps is taken off so that 0 stays 0).
    """
    if not eps:
        return F.l1_loss(a, b)
    return ((a - b).square() + eps * eps).sqrt().mean() - eps


def fft_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the real and imaginary parts of the 2-d spectra (Sun et al. 2023, SAFMN).

    A scalar, about sqrt(H W / 2) times `l1` for noise. It is computed in fp32 at least, as most devices have no FFT in
    half precision.
    """
    # the transform is linear: one FFT of the difference saves one of two
    return torch.view_as_real(torch.fft.rfft2(_full(a - b))).abs().mean()


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the differences between neighbouring pixels, down and across; a scalar.

    It asks for edges as steep as the label's, and penalises grid artefacts, which are differences that the label lacks.
    """
    d = _full(a - b)
    return d.diff(dim=-2).abs().mean() + d.diff(dim=-1).abs().mean()


def screen_l1(a: Tensor, b: Tensor, window: int = 8) -> Tensor:
    """How strongly `a` prints a grid of 4x4 pixels that `b` lacks: 0 where it prints none; a scalar.

    A student draws every 4x4 square from one place of its body, and can print the same faint pattern into all of them.
    The difference is averaged at each of the 16 places of a square, over `window` by `window` squares: what is left
    beside their common mean is the pattern.
    """
    phases = F.pixel_unshuffle(_full(a - b), 4).unflatten(1, (-1, 16))  # (N, C, 16, H/4, W/4)
    n, c = phases.shape[:2]
    means = F.avg_pool2d(phases.flatten(0, 1), min(window, *phases.shape[-2:])).unflatten(0, (n, c))
    return (means - means.mean(2, keepdim=True)).abs().mean()


def perceptual(pred: Tensor, target: Tensor, vgg: VGGFeatures) -> Tensor:
    """L1 between VGG19 features before their ReLU, relative to each layer's `size`, summed over layers; a scalar.

    It is Real-ESRGAN's loss (Wang et al. 2021, ``finetune_realesrgan_x4plus.yml``) up to conv3_4, because on a small
    student the deeper layers cost more than they teach; conv1_2 and conv2_2 weigh .1, conv3_4 and deeper ones 1. Being
    relative (as Gatys et al. 2016 normalise their VGG), one `loss.perceptual` fits torchvision's weights, Oxford's and
    random ones. No gradient flows into `target`.
    """
    with torch.no_grad():
        wanted = vgg(target)
    got = vgg(pred)
    total = pred.new_zeros(())
    for layer in wanted:
        weight = LAYERS[layer][1] / vgg.size[layer]
        total = total + weight * F.l1_loss(_full(got[layer]), _full(wanted[layer]))
    return total


def sub_crops(pred: Tensor, target: Tensor, side: int, fraction: float, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """One square of `side` pixels from every 1/`fraction`-th sample of a batch: two (K, C, side, side) tensors.

    K = max(1, round(fraction N)). The samples are evenly spaced in the batch (which is drawn at random anyway).
    `positions`, (N, 2) in [0, 1), places each sample's square. Each process passes the positions of its part of the
    batch, and takes the very squares that one process would.
    """
    n, _, height, width = pred.shape
    room = height - side, width - side
    if min(room) < 0:
        raise ValueError(f"sub-crops of {side} pixels do not fit into {width}x{height}")

    count = max(1, round(fraction * n))
    seen, wanted = [], []
    for k in range(count):
        i = k * n // count
        top, left = (int(u * (r + 1)) for u, r in zip(positions[i], room, strict=True))
        square = (slice(None), slice(top, top + side), slice(left, left + side))
        seen.append(pred[i][square])
        wanted.append(target[i][square])
    return torch.stack(seen), torch.stack(wanted)


def _full(x: Tensor) -> Tensor:
    """Half precision raised to fp32; fp32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _without_border(x: Tensor, border: int) -> Tensor:
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border]
