"""What is seen of a training while it runs: scores on the validation crops, the curve and a few pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kd_utils.common import files
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.config import Config
from kd_utils.data.crops import Crops
from kd_utils.evaluation import figures, metrics
from kd_utils.models import student

TRAINING_FILES = ("history.json", "curve.png", "valid.png")  # what a training leaves to look at


@dataclass
class ValidationEvent:
    """What a notebook is shown at each validation."""

    name: str
    history: dict[str, Any]
    pictures: list[tuple[str, np.ndarray]]


@torch.inference_mode()
def validate(
    cfg: Config,
    name: str,
    ema: student.Student,
    valid: Crops,
    step: int,
    history: dict[str, Any],
    watch: Callable[[ValidationEvent], None] | None,
) -> None:
    """Scores of the EMA student on the validation crops (mean PSNR on Y, border = scale), and pictures of a few."""
    device = next(ema.parameters()).device
    net = student.fuse(ema).float().to(device)
    ids = np.arange(len(valid))
    lr, label, hr = (a.numpy() for a in valid.batch(ids, ids * 0))
    out = np.concatenate([to_uint8(net(to_tensor(lr[i : i + 16], device))) for i in range(0, len(ids), 16)])
    border = max(cfg.scale, 4 * cfg.loss.margin)
    scores = {
        key: float(np.mean([min(metrics.psnr(a, b, border, y=True), 100.0) for a, b in zip(out, ref, strict=True)]))
        for key, ref in (("psnr_y_teacher", label), ("psnr_y", hr))
    }
    history["valid"].append({"step": step} | scores)
    pictures = [
        (f"{title} {i}", batch[i])
        for i in range(0, len(ids), max(1, len(ids) // 3))
        for title, batch in (("LR", lr), ("student", out), ("teacher", label), ("original", hr))
    ][:12]
    folder = cfg.path("train", name)
    files.write_json(folder / "history.json", history)
    files.write_png(folder / "curve.png", figures.curve(history))
    files.write_png(folder / "valid.png", figures.grid(pictures, columns=4))
    if watch:
        watch(ValidationEvent(name, history, pictures))
