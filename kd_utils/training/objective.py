"""What a training minimises: the loss of a batch, weighted by `LossConfig`. The place to add a loss of your own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kd_utils.config import Config
from kd_utils.models.vgg import VGGFeatures
from kd_utils.training import losses


def distillation_loss(
    cfg: Config,
    pred: Tensor,
    label: Tensor,
    hr: Tensor,
    vgg: VGGFeatures | None,
    positions: np.ndarray,
    step: int,
) -> Tensor:
    """The training loss of a batch, a scalar: pred, label, hr (N, 3, H, W); `positions` (N, 2) place the sub-crops.

    A border of `loss.margin` (times 4 pixels) is left out. It is 0 by default: the student sees the same zero padding
    as the teacher did, and has to learn what the teacher does at a photo's edge (docs/LOG.md).
    """
    m = 4 * cfg.loss.margin
    keep = (..., slice(m, pred.shape[-2] - m), slice(m, pred.shape[-1] - m))
    pred, label, hr = pred[keep], label[keep], hr[keep]
    if pred.dtype in (torch.float16, torch.bfloat16):
        pred = pred.float()
    loss = pred.new_zeros(())
    w = cfg.loss
    if w.teacher:
        loss = loss + w.teacher * losses.l1(pred, label, w.charbonnier)
    if gt := gt_weight(cfg, step):
        loss = loss + gt * losses.l1(pred, hr, w.charbonnier)
    if w.fft:
        loss = loss + w.fft * losses.fft_l1(pred, label)
    for weight, target in ((w.perceptual, label), (w.perceptual_gt, hr)):
        if weight:
            seen = losses.sub_crops(pred, target, w.crop, w.fraction, positions)
            loss = loss + weight * losses.perceptual(*seen, vgg)
    return loss


def gt_weight(cfg: Config, step: int) -> float:
    """The weight of L1 to the original: constant, or a ramp from `gt` to `gt_end`."""
    if cfg.loss.gt_end < 0:
        return cfg.loss.gt
    return cfg.loss.gt + (cfg.loss.gt_end - cfg.loss.gt) * step / max(1, cfg.train.steps - 1)


def baseline_config(cfg: Config) -> Config:
    """The same network, data and steps, L1 to the original only."""
    plain = replace(cfg.loss, teacher=0.0, gt=1.0, gt_end=-1.0, perceptual=0.0, perceptual_gt=0.0, fft=0.0)
    return replace(cfg, loss=plain, train=replace(cfg.train, init=""))
