"""Labels made sharper where the student is softer than they are (`loss.usm`).

Where a student is unsure of an edge, it draws it flatter than its teacher does: the mean of all places where the edge
may lie. Taught by a label that is too steep, it draws an edge about as steep as the teacher's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kd_utils.data.crops import Batch
from kd_utils.imaging.colors import BT601

SIGMA = 3.0  # of the blur, in HR pixels; at scale 4 a wider one cost less SSIM for the same sharpness (docs/LOG.md)


def with_sharper_labels(batch: Batch, pred: Tensor, amount: float) -> Batch:
    """The batch with labels l, float (N, 3, H, W), sharpened by an unsharp mask: l + a (l - l blurred), in [0, 1].

    A crop's a is `amount` times what its picture in `pred` lacks in sharpness (evaluation/metrics.py): 0 where the
    student is as crisp as the label, and where noise makes it steeper. Real-ESRGAN sharpens its originals by an unsharp
    mask as well, but all alike, with a wider blur, and flat areas not at all (Wang et al. 2021, arXiv:2107.10833).
    """
    label = batch.label
    softness = 1 - steepness(pred.detach().to(label)) / steepness(label).clamp(min=1e-6)  # (N,)
    strength = amount * softness.clamp(min=0).view(-1, 1, 1, 1)

    with torch.autocast(label.device.type, enabled=False):  # half precision would round the labels
        down, across = (_gaussian_rows(n, label) for n in label.shape[-2:])
        blurred = down @ label @ across.T  # two matrix products: on a CPU faster than a convolution
    return replace(batch, label=(label + strength * (label - blurred)).clamp(0, 1))


def steepness(x: Tensor) -> Tensor:
    """The mean gradient magnitude of the luma of each picture, by central differences: (N, 3, H, W) -> (N,)."""
    y = (x * x.new_tensor(BT601).view(3, 1, 1)).sum(1)  # (N, H, W)
    down, across = torch.gradient(y, dim=(1, 2))
    return torch.hypot(down, across).mean((1, 2))


def _gaussian_rows(n: int, like: Tensor) -> Tensor:
    """(n, n): row i holds the weights of a Gaussian around pixel i, of sum 1 at the border as well."""
    at = torch.arange(n, device=like.device, dtype=like.dtype)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * SIGMA**2))
    return weights / weights.sum(1, keepdim=True)
