"""What people run instead of this project: the official enhance, and BasicSR's training step with its loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from kd_utils.models import teacher


def enhancer(name: str, folder: Path, pre_pad: int = 10) -> Callable[[np.ndarray], np.ndarray]:
    """The official RealESRGANer.enhance with the weights of anime_6B: uint8 (h, w, 3) RGB -> (4h, 4w, 3)."""
    realesrgan, _ = teacher.official()
    from basicsr.archs.rrdbnet_arch import RRDBNet

    path = folder / "official.pth"
    torch.save({"params_ema": teacher.read_state(teacher.find_teacher(name).path)}, path)
    net = RRDBNet(3, 3, num_feat=64, num_block=6, num_grow_ch=32, scale=4)
    upsampler = realesrgan.RealESRGANer(4, str(path), model=net, tile=0, pre_pad=pre_pad, half=False, device="cpu")
    return lambda image: upsampler.enhance(image[..., ::-1])[0][..., ::-1]


def training(feat: int, convs: int, lr: np.ndarray, hr: np.ndarray, folder: Path, batch: int) -> Callable[[], None]:
    """A step of basicsr's SRModel (L1, Adam, EMA) on its PairedImageDataset: crops as PNG files, flips and rotations.

    Its loader works within the process, so that the processor's time counts it as it does ours.
    """
    teacher.official()
    import realesrgan.archs.srvgg_arch  # noqa: F401 - puts SRVGGNetCompact into basicsr's registry
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.models.sr_model import SRModel

    for kind, images in (("lq", lr), ("gt", hr)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for n, image in enumerate(images):
            cv2.imwrite(str(folder / kind / f"{n:05d}.png"), image[..., ::-1])

    model = SRModel(_options(feat, convs))
    data = {"dataroot_gt": str(folder / "gt"), "dataroot_lq": str(folder / "lq"), "io_backend": {"type": "disk"}}
    data |= {"phase": "train", "scale": 4, "gt_size": hr.shape[1], "use_hflip": True, "use_rot": True}
    loader = torch.utils.data.DataLoader(PairedImageDataset(data), batch, shuffle=True, drop_last=True)
    batches = _endless(loader)

    def step() -> None:
        model.feed_data(next(batches))
        model.optimize_parameters(1)

    return step


def _options(feat: int, convs: int) -> dict[str, Any]:
    net = {"type": "SRVGGNetCompact", "num_feat": feat, "num_conv": convs, "upscale": 4, "act_type": "prelu"}
    train = {
        "ema_decay": 0.999,
        "optim_g": {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
        "scheduler": {"type": "MultiStepLR", "milestones": [400000], "gamma": 0.5},
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    }
    return {"num_gpu": 0, "is_train": True, "dist": False, "scale": 4, "network_g": net, "path": {}, "train": train}


def _endless(loader: torch.utils.data.DataLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader
