"""Perceptual distances of a picture: by VGG19's features, and LPIPS and DISTS where their networks can be had.

All are 0 for equal pictures and lower for nearer ones. LPIPS (Zhang et al. 2018, AlexNet) and DISTS (Ding et al. 2020,
VGG16) are torchmetrics'. Networks with random weights may teach, but they cannot judge: they are not used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_utils.common.errors import SourceError
from kd_utils.common.tensors import to_tensor
from kd_utils.config import Config
from kd_utils.evaluation.scores import Scores
from kd_utils.models.vgg import VGGFeatures, load_vgg, vgg_distance

SIDE = 512  # distances are of the central square of at most this side: on a CPU they are slow


@dataclass
class Judges:
    """The networks that measure distances, on one device; None is what cannot be had."""

    device: torch.device
    vgg: VGGFeatures | None = None
    lpips: nn.Module | None = None
    dists: nn.Module | None = None
    side: int | None = SIDE  # of the central square that they see; None: all of a picture

    def describe(self) -> str | None:
        """Which VGG19 it is, and what part of a picture it sees."""
        return f"{self.vgg.name}, central {self.side}x{self.side} at most" if self.vgg else None

    def score(
        self, scores: dict[str, Scores], images: dict[str, np.ndarray], original: np.ndarray, label: np.ndarray | None
    ) -> None:
        """Add the distances of each row's picture to its scores; uint8 (H, W, 3) RGB each, of one size.

        The teacher's picture, `label`, has none to itself.
        """
        for row, image in images.items():
            picture = self._tensor(image)  # (1, 3, h, w)
            if self.vgg:
                scores[row].vgg = vgg_distance(picture, self._tensor(original), self.vgg).item()
            if label is None or image is label:
                continue

            wanted = self._tensor(label)
            if self.vgg:
                scores[row].vgg_teacher = vgg_distance(picture, wanted, self.vgg).item()
            if self.lpips:
                scores[row].lpips_teacher = self.lpips(picture, wanted).item()
            if self.dists:
                scores[row].dists_teacher = self.dists(picture, wanted).item()

    def _tensor(self, image: np.ndarray) -> Tensor:
        part = central(image, self.side, self.side) if self.side else image
        return to_tensor(part[None], self.device)


def central(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The central part of (H, W, C), at most `height` by `width`."""
    height, width = min(height, image.shape[0]), min(width, image.shape[1])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def load_judges(cfg: Config, device: torch.device, notes: list[str]) -> Judges:
    """What can be had on this machine; what is left out is told in `notes`.

    LPIPS and DISTS are fetched only where training fetched ImageNet's VGG19 anyway; elsewhere they are used where
    torch's cache has their networks.
    """
    judges = Judges(device)
    if cfg.loss.vgg == "random" or (cfg.loss.vgg == "imagenet" and not cfg.loss.uses_vgg):
        notes.append("The VGG19 distance is left out: it needs ImageNet weights (set loss.vgg to their path).")
    else:
        try:
            judges.vgg = load_vgg(cfg.loss.vgg, device=device)
        except SourceError as error:
            notes.append(f"The VGG19 distance is left out: {error}")

    may_fetch = cfg.loss.uses_vgg and cfg.loss.vgg == "imagenet"
    try:
        judges.lpips, judges.dists = _load_torchmetrics(device, may_fetch)
    except ImportError:
        notes.append("LPIPS and DISTS are left out: they need torchmetrics (pip install torchmetrics).")
    except (OSError, RuntimeError) as error:  # RuntimeError: a download that is damaged
        notes.append(f"LPIPS and DISTS are left out: {error}")
    return judges


def _load_torchmetrics(device: torch.device, may_fetch: bool) -> tuple[nn.Module, nn.Module]:
    """LPIPS and DISTS. Raises ImportError without torchmetrics, OSError without the networks that they rest on."""
    from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity  # pyright: ignore[reportMissingImports]
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # pyright: ignore[reportMissingImports]
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for weights in (AlexNet_Weights.DEFAULT, VGG16_Weights.DEFAULT):
        name = weights.url.rsplit("/", 1)[-1]
        if not may_fetch and not (folder / name).is_file():
            raise FileNotFoundError(f"{name} is not in torch's cache ({folder.name}/), and nothing is downloaded here.")

    lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    return lpips.to(device), DeepImageStructureAndTextureSimilarity().to(device)
