"""What is seen of a training while it runs: its history, scores on the validation crops, the curve and pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_utils.common import files
from kd_utils.common.errors import TrainError
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.config import Config
from kd_utils.data.crops import Crops
from kd_utils.evaluation import curves, figures, metrics
from kd_utils.models import student
from kd_utils.models.student import Student
from kd_utils.workdir import training_title

TRAINING_FILES = ("history.json", "curve.png", "valid.png")  # what a training leaves to look at
PICTURES = 3  # validation crops that are shown: those that look most different
PERFECT = 100.0  # dB; stands for the infinite PSNR of equal images, so that a mean can be taken


@dataclass
class ValidationScore:
    """Mean PSNR on Y over the validation crops after `step` steps, in dB."""

    step: int
    psnr_y_teacher: float  # to the labels
    psnr_y: float  # to the originals


@dataclass
class History:
    """The course of a training; train/NAME/history.json."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)  # mean since the step before
    lr: list[float] = field(default_factory=list)
    valid: list[ValidationScore] = field(default_factory=list)

    def add(self, step: int, loss: float, lr: float) -> None:
        self.step.append(step)
        self.loss.append(loss)
        self.lr.append(lr)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> History:
        valid = [ValidationScore(**score) for score in fields["valid"]]
        return cls(list(fields["step"]), list(fields["loss"]), list(fields["lr"]), valid)


@dataclass
class ValidationEvent:
    """What a notebook is shown at each validation."""

    name: str
    history: History
    pictures: list[tuple[str, np.ndarray]]  # title, uint8 (H, W, 3) RGB


@torch.inference_mode()
def validate(
    cfg: Config, name: str, folder: Path, ema: Student, crops: Crops, step: int, history: History
) -> list[tuple[str, np.ndarray]]:
    """Score the EMA student on the validation crops, add that to `history`, and write the files to look at to `folder`.

    The border that PSNR leaves out is the scale, or the margin that the loss left out. Returns pictures of a few crops.
    """
    device = next(ema.parameters()).device
    net = student.fuse(ema).float().to(device)
    batch = crops.all()
    lr, label, hr = batch.lr.numpy(), batch.label.numpy(), batch.hr.numpy()  # uint8 (N, H, W, 3)

    out = []
    for start in range(0, len(lr), 16):
        y = net(to_tensor(lr[start : start + 16], device))  # (16, 3, H, W)
        if not y.isfinite().all():
            raise TrainError(
                f"{name}: the student's output is not finite after step {step}: its weights have grown without bound. "
                f"Lower train.lr (now {cfg.train.lr:g})."
            )
        out.append(to_uint8(y))
    pred = np.concatenate(out)

    border = max(cfg.scale, 4 * cfg.loss.margin)
    history.valid.append(ValidationScore(step, _mean_psnr(pred, label, border), _mean_psnr(pred, hr, border)))

    who = training_title(name)
    pictures = []
    for i in figures.most_varied(hr, PICTURES):
        pictures += [(f"LR {i}", lr[i]), (f"{who} {i}", pred[i]), (f"label {i}", label[i]), (f"original {i}", hr[i])]

    files.write_json(folder / "history.json", history.to_dict())
    files.write_png(folder / "curve.png", curves.curve(history.to_dict()))
    files.write_png(folder / "valid.png", figures.grid(pictures, columns=4, cell=200))
    return pictures


def _mean_psnr(pred: np.ndarray, wanted: np.ndarray, border: int) -> float:
    scores = [min(metrics.psnr(a, b, border, y=True), PERFECT) for a, b in zip(pred, wanted, strict=True)]
    return float(np.mean(scores))
