"""The adversarial term: a discriminator that tells the student's pictures from the teacher's.

An L1 student is softer than its teacher wherever it cannot place an edge, because the mean of all places is the safest
answer. The discriminator sees that such an edge is not the teacher's. It is conditional, as it is given the enlarged LR
beside the picture (Isola et al. 2017, pix2pix, arXiv:1611.07004), with the hinge loss (Lim and Ye 2017,
arXiv:1705.02894) and spectral normalisation (Miyato et al. 2018, arXiv:1802.05957). It is thrown away after training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from kd_utils.common.devices import Runtime
from kd_utils.common.tensors import enlarged
from kd_utils.config import Config
from kd_utils.data.crops import Batch
from kd_utils.training.distributed import average_gradients
from kd_utils.training.losses import sub_crops

WIDTHS = (48, 48, 64, 64, 64)  # of the convolutions before the last
STRIDES = (1, 1, 2, 1, 1)


class Discriminator(nn.Module):
    """(N, 6, H, W), the enlarged LR and a picture -> (N, 1, H/4, W/4), above 0 where the picture looks like a label."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]  # half the size for every later layer, and no pixel is lost
        channels = 6 * 2**2
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            layers += [spectral_norm(nn.Conv2d(channels, width, 3, stride, 1)), nn.LeakyReLU(0.2)]
            channels = width

        layers.append(nn.Conv2d(channels, 1, 3, 1, 1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Critic:
    """The discriminator of a training with its optimiser."""

    def __init__(self, cfg: Config, seed: int, runtime: Runtime):
        with torch.random.fork_rng([]):  # the student's random numbers stay what they are without a critic
            torch.manual_seed(seed)
            self.net = Discriminator()

        # on the device, and in the precision, of the student
        self.net = self.net.to(runtime.device)
        if runtime.dtype == torch.float64:
            self.net = self.net.double()
        if runtime.is_half:
            self.net = self.net.to(memory_format=torch.channels_last)  # pyright: ignore (torch 2.11 lacks this overload)

        self.optimizer = torch.optim.Adam(self.net.parameters(), cfg.loss.adversarial_lr, betas=(0.5, 0.99))
        self.side = min(cfg.loss.adversarial_crop, cfg.data.crop)
        self.scale = cfg.scale
        self.runtime = runtime

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "opt": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["opt"])

    def student_loss(self, batch: Batch, pred: Tensor) -> Tensor:
        """What the student is to lower: how little its pictures (N, 3, H, W) look like labels. A scalar."""
        self.net.requires_grad_(False)
        return -self._score(batch, pred).mean()

    def train_step(self, batch: Batch, pred: Tensor) -> None:
        """One update of the discriminator on labels and on the student's pictures; `pred` carries no gradient."""
        self.net.requires_grad_(True)
        with self.runtime.autocast():
            real, fake = self._score(batch, batch.label), self._score(batch, pred)
        loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.net, self.runtime)
        self.optimizer.step()

    def _score(self, batch: Batch, picture: Tensor) -> Tensor:
        """(N, 1, h, w) fp32 scores of squares of pictures (N, 3, H, W)."""
        large = enlarged(batch.lr, self.scale).clamp(0, 1)  # (N, 3, H, W)
        pair = sub_crops(large, picture, self.side, 1.0, batch.positions)
        return self.net(torch.cat(pair, 1)).float()
