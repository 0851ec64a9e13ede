"""What a training begins from: random weights, a student's file, or the teacher itself, cut down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kd_utils.common import devices
from kd_utils.common.errors import StudentError, TrainError
from kd_utils.common.tensors import to_tensor
from kd_utils.config import STAND_INS, Config
from kd_utils.data.crops import BatchPlan, CropIndex, Crops
from kd_utils.models import growing, pruning, student
from kd_utils.models import shipped as shipped_students
from kd_utils.models.student import Student
from kd_utils.models.teacher import TeacherRef, load_teacher
from kd_utils.own_files import shipped

ENOUGH = 32  # LR pixels for each channel of the teacher: a cut that is fitted on fewer is worse than a random start
FITTED = 1 << 17  # LR pixels that a student is cut out of its teacher on: 32 crops of 64x64, and 1 GB of activations


def training_seed(cfg: Config) -> int:
    """The seed of the initial weights and of the order of crops."""
    return cfg.seed if cfg.train.seed < 0 else cfg.train.seed


def resolve_init(cfg: Config, index: CropIndex, ref: TeacherRef, quiet: bool = True) -> Config:
    """`train.init` as what it means here.

    A student that ships, or "shipped", becomes the path of its file, and "auto" becomes "teacher" where the student can
    be cut out of the teacher, else "".
    """
    if cfg.train.init == "shipped":
        path, by_this_teacher = shipped_students.taught_by(ref.name, ref.sha256, cfg.student.size, cfg.scale)
        if not (by_this_teacher or quiet or devices.process_rank()):
            print(f"No student of this size that {ref.name} taught ships: the beginning is {path.stem}, by another.")
        init = str(path)
    elif cfg.train.init in STAND_INS:
        init = str(shipped(f"{cfg.train.init}.pth"))
    elif cfg.train.init == "auto":
        init = "teacher" if _can_be_cut(cfg, index, ref) else ""
    else:
        return cfg
    return replace(cfg, train=replace(cfg.train, init=init))


def _can_be_cut(cfg: Config, index: CropIndex, ref: TeacherRef) -> bool:
    if cfg.scale != 4:
        return False
    try:
        whole = student.load(ref.path)
    except StudentError:
        return False  # the teacher is a network of another kind
    fits = pruning.holds(whole, *student.shape(cfg.student.size))
    return fits and _has_enough_pixels(cfg, index.count("train"), whole)


def _has_enough_pixels(cfg: Config, crops: int, whole: Student) -> bool:
    return crops * (cfg.data.crop // cfg.scale) ** 2 >= ENOUGH * whole.feat


def initial_student(cfg: Config, ref: TeacherRef, crops: Crops, device: torch.device) -> Student:
    """The student before its first step, in its training form. Raises TrainError, StudentError or TeacherError."""
    torch.manual_seed(training_seed(cfg))
    if not cfg.train.init:
        return student.build(cfg.student.size, cfg.scale, cfg.student.expand)

    if cfg.train.init == "teacher":
        net = _cut(load_teacher(ref).compact(), cfg, crops, device)
    else:
        net = _from_file(cfg, crops, device)
    return growing.widen(net, cfg.student.expand) if cfg.student.expand else net.train()


def _from_file(cfg: Config, crops: Crops, device: torch.device) -> Student:
    """The student of `train.init`, at need made one of scale 2 or 1, grown, or (scale 4) cut down to `student.size`."""
    net = student.load(Path(cfg.train.init).expanduser())
    given = net.scale
    if given == 4 and cfg.scale != 4:
        net = growing.rescale(net, cfg.scale)
    have, want = (net.feat, net.convs), student.shape(cfg.student.size)
    if net.scale == cfg.scale:
        if have == want:
            return net
        if have[0] <= want[0] and have[1] <= want[1]:
            return growing.grow(net, *want)
        if net.scale == 4 and have[0] >= want[0] and have[1] >= want[1]:
            return _cut(net, cfg, crops, device)
    raise TrainError(
        f"train.init={cfg.train.init} is of width {net.feat}, {net.convs} convolutions and scale {given}, "
        f"which cannot become student.size={cfg.student.size}, scale={cfg.scale}: name another file, or set "
        f"student.size={net.feat}x{net.convs} or larger, scale={given}; train.init= begins with random weights"
    )


def _cut(whole: Student, cfg: Config, crops: Crops, device: torch.device) -> Student:
    """The student that `pruning.prune` cuts out of a larger network, fitted on a few of the training crops."""
    if not _has_enough_pixels(cfg, len(crops), whole):
        raise TrainError(
            f"train.init={cfg.train.init}: {len(crops)} crops of data.crop={cfg.data.crop} are too few to fit a "
            "student on that is cut out of a larger one: raise data.crops_per_photo, or leave train.init out"
        )

    side = cfg.data.crop // cfg.scale
    order = np.random.default_rng([training_seed(cfg), 3]).permutation(len(crops))
    ids = order[: max(4, FITTED // side**2)]
    batch = crops.batch(BatchPlan.of(ids))

    place = device if device.type == "cuda" else torch.device("cpu")  # the fit needs float64
    lr = to_tensor(batch.lr.numpy(), place)  # (n, 3, side, side)
    return pruning.prune(whole.to(place), *student.shape(cfg.student.size), lr).cpu()
