"""A tiny work folder as steps 1 and 3 leave it, with random networks."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kd_utils import config, prepare
from kd_utils.common import files
from kd_utils.config import Config
from kd_utils.data import crops
from kd_utils.models import student

TINY = (
    "degrade.profile=light "
    "data.crop=64 data.crops_per_photo=2 data.valid_crops_per_photo=2 data.valid_count=1 data.test_count=2 "
    "data.test_side=96 eval.panels=1 eval.time_side=16 eval.time_repeats=1"
)


def random_student(feat: int, convs: int, scale: int, seed: int) -> student.Student:
    torch.manual_seed(seed)
    return student.Student(feat, convs, scale)


def changed(cfg: Config, **changes: Any) -> Config:
    """A changed copy; `config.override` changes in place."""
    return config.override(deepcopy(cfg), {key.replace("__", "."): value for key, value in changes.items()})


def work_folder(folder: Path, scale: int = 4, prefix: str = "") -> Config:
    """A work folder as steps 1 and 3 leave it, with random networks."""
    from skimage import data as samples

    photos = folder / "photos"
    photos.mkdir(parents=True)
    for i, (name, y) in enumerate([("astronaut", 0), ("astronaut", 200), ("coffee", 0), ("coffee", 200), ("cat", 0)]):
        Image.fromarray(getattr(samples, name)()[y : y + 112, 100:260]).save(photos / f"{prefix}{i}_{name}.png")
    teach = student.save(random_student(8, 2, 4, seed=1), folder / "tiny_teacher.pth")
    cfg = config.make(
        "quick",
        f"{TINY} data.photos={photos} teacher={teach} train.init=",
        workdir=str(folder / "work"),
        scale=scale,
        device="cpu",
    )
    prepare.prepare(cfg)
    meta = {
        "labels.crops": crops.read_index(cfg).key, "labels.teacher_sha256": files.sha256(teach),
        "student.size": "s", "train.steps": 1200, "train.batch": 4, "loss.teacher": 1.0, "loss.perceptual": 0.02,
        "loss.vgg": "random",
    }  # fmt: skip
    for seed, place in ((2, cfg.path("student_model.pth")), (3, cfg.path("train", "no_teacher", "student_model.pth"))):
        student.save(random_student(24, 8, scale, seed), place, {"provenance": meta})
    history = {"step": [1, 2, 3], "loss": [0.3, 0.2, 0.1], "lr": [1e-3] * 3, "valid": []}
    files.write_json(cfg.path("train", "student", "history.json"), history)
    return cfg
