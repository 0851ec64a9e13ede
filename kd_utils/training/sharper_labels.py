"""Labels made sharper where the student is softer than they are (`loss.usm`).

Wherever a student is unsure of an edge, it draws it flatter than its teacher does: the mean of all places where the
edge may lie. Of a label that is too steep, what it draws is about as steep as the teacher's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kd_utils.data.crops import Batch
from kd_utils.imaging.colors import BT601

SIGMA = 3.0  # of the blur, in HR pixels: about what one pixel of the LR picture covers


def with_sharper_labels(batch: Batch, pred: Tensor, amount: float) -> Batch:
    """The batch with float labels (N, 3, H, W) sharpened by an unsharp mask: y + a (y - y blurred), kept in [0, 1].

    A crop's a is `amount` times what its picture in `pred` lacks in sharpness (evaluation/metrics.py): 0 where the
    student is as crisp as the label. Real-ESRGAN sharpens its originals in training likewise, but all of them equally
    (Wang et al. 2021, arXiv:2107.10833).
    """
    label = batch.label
    softness = 1 - steepness(pred.detach().to(label)) / steepness(label).clamp(min=1e-6)  # (N,)
    strength = amount * softness.clamp(min=0).view(-1, 1, 1, 1)

    down, across = (_gaussian_rows(n, SIGMA).to(label) for n in label.shape[-2:])
    blurred = down @ label @ across.T  # on a CPU many times as fast as a convolution
    return replace(batch, label=(label + strength * (label - blurred)).clamp(0, 1))


def steepness(x: Tensor) -> Tensor:
    """The mean gradient magnitude of the luma of each picture, by central differences: (N, 3, H, W) -> (N,)."""
    y = (x * x.new_tensor(BT601).view(3, 1, 1)).sum(1)  # (N, H, W)
    down, across = torch.gradient(y, dim=(1, 2))
    return torch.hypot(down, across).mean((1, 2))


def _gaussian_rows(n: int, sigma: float) -> Tensor:
    """(n, n): row i holds the weights of a Gaussian around pixel i, of sum 1 at the border as well."""
    at = torch.arange(n)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)
