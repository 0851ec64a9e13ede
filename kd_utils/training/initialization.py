"""What a training begins from: random weights, a student's file, or the teacher itself, cut down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_utils.common.errors import TrainError
from kd_utils.common.tensors import to_tensor
from kd_utils.config import Config
from kd_utils.data.crops import Crops
from kd_utils.models import pruning, student, teacher

ENOUGH = 32  # LR pixels for each channel of the teacher: a cut that is fitted on fewer is worse than a random start
FITTED = 1 << 17  # LR pixels that a student is cut out of its teacher on: 32 crops of 64x64, and 1 GB of activations


def training_seed(cfg: Config) -> int:
    """Of the start and of the order of crops."""
    return cfg.seed if cfg.train.seed < 0 else cfg.train.seed


def resolve_auto_init(cfg: Config, index: dict[str, Any]) -> Config:
    """`train.init=auto` made "teacher" where the student can be cut out of the teacher, else "". `index` is of the
    crops.
    """
    if cfg.train.init != "auto":
        return cfg
    fits = False
    if cfg.scale == 4:
        try:
            big = student.load(teacher.find_teacher(cfg.teacher))
            count = sum(e["count"] for e in index["shards"] if e["split"] == "train")
            fits = pruning.holds(big, *student.shape(cfg.student.size)) and _enough(cfg, count, big)
        except student.StudentError:
            pass  # of another kind
    return replace(cfg, train=replace(cfg.train, init="teacher" if fits else ""))


def _enough(cfg: Config, crops: int, big: student.Student) -> bool:
    return crops * (cfg.data.crop // cfg.scale) ** 2 >= ENOUGH * big.feat


def initial_student(cfg: Config, crops: Crops, device: torch.device) -> student.Student:
    """The student before its first step. Raises TrainError, StudentError or TeacherError."""
    torch.manual_seed(training_seed(cfg))
    if not cfg.train.init:
        return student.build(cfg.student.size, cfg.scale, cfg.student.expand)
    net = _from_teacher(cfg, crops, device) if cfg.train.init == "teacher" else _from_file(cfg)
    return student.widen(net, cfg.student.expand) if cfg.student.expand else net.train()


def _from_file(cfg: Config) -> student.Student:
    net = student.load(Path(cfg.train.init).expanduser())
    shape = student.shape(cfg.student.size)
    if net.scale != cfg.scale or net.feat > shape[0] or net.convs > shape[1]:
        raise TrainError(
            f"train.init={cfg.train.init} is of width {net.feat}, {net.convs} convolutions and scale {net.scale}, "
            f"which cannot become student.size={cfg.student.size}, scale={cfg.scale}: name another file, or set "
            f"student.size={net.feat}x{net.convs} or larger, scale={net.scale}"
        )
    return student.grow(net, *shape) if (net.feat, net.convs) != shape else net


def _from_teacher(cfg: Config, crops: Crops, device: torch.device) -> student.Student:
    """The student that `prune.prune` cuts out of the teacher, fitted on a few of the training crops."""
    big = teacher.load_teacher(cfg.teacher).compact()
    if not _enough(cfg, len(crops), big):
        raise TrainError(
            f"train.init=teacher: {len(crops)} crops of data.crop={cfg.data.crop} are too few to fit a student cut out "
            f"of {cfg.teacher} on: raise data.crops_per_photo, or leave train.init out"
        )
    side = cfg.data.crop // cfg.scale
    ids = np.random.default_rng([training_seed(cfg), 3]).permutation(len(crops))[: max(4, FITTED // side**2)]
    place = device if device.type == "cuda" else torch.device("cpu")  # it needs float64
    lr = to_tensor(crops.batch(ids, ids * 0)[0].numpy(), place)
    return pruning.prune(big.to(place), *student.shape(cfg.student.size), lr).cpu()
