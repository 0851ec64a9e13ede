"""The one configuration: dataclasses with their defaults, and what is refused.

Every step is a function of a `Config`. A notebook's parameters, the command line's ``--set`` and papermill's
``overrides`` string all end in `override`, which refuses what it does not know and names the nearest valid key.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_utils.common.errors import ConfigError
from kd_utils.overrides import flatten, override
from kd_utils.presets import PRESETS

REPO_SLUG = "yourusername/ImageSharpening-KD"
ROOT = Path(__file__).resolve().parents[1]  # the clone: assets/ and notebooks/ live beside kd_utils/


@dataclass
class DataConfig:
    photos: str = "samples"  # "samples" (in scikit-image), "DIV2K", a folder of photos, or a zip
    test_photos: str = ""  # a folder or zip of test photos; empty: the source's own test split
    valid_count: int = 10  # photos held out for validation (DIV2K: of its 800; samples: one scene)
    test_count: int = 10  # photos held out for the test where the source has no test split of its own
    limit: int = 0  # use only the first N training photos; 0: all
    crop: int = 256  # side of an HR crop, in HR pixels (the student's body then sees crop/4)
    crops_per_photo: int = 12  # training crops kept of each photo
    valid_crops_per_photo: int = 4
    min_std: float = 6.0  # leave out flat crops: standard deviation of Y (16 to 235) below this
    min_mean: float = 12.0  # leave out dark crops: mean of Y below this; black is 16, so 12 leaves out none
    test_side: int = 0  # test on the central square of at most this side (HR pixels); 0: the whole photo


@dataclass
class DegradeConfig:
    profile: str = "two_order"  # "bicubic", "light", "two_order", or "mixed" (light and two_order, half each)


@dataclass
class LabelConfig:
    batch: int = 16
    dtype: str = "auto"  # autocast of the teacher: auto (fp16 on CUDA, else fp32), fp32, bf16 (see `doctor` for CPUs)
    input_scale: float = 1.0  # scale 1 only: resize the teacher's input by this first (0.5 or 1)


@dataclass
class StudentConfig:
    size: str = "m"  # s, m or l (student.SIZES), or width x inner convolutions, such as 32x4
    expand: int = 4  # over-parameterisation while training, times the width; 0: plain convolutions


@dataclass
class LossConfig:
    teacher: float = 1.0  # weight of L1 to the teacher's output
    gt: float = 0.0  # weight of L1 to the original
    gt_end: float = -1.0  # weight of L1 to the original at the last step, reached linearly; -1: constant
    charbonnier: float = 0.0  # below this difference (of 1) the two L1 above turn square; 0: L1
    perceptual: float = 0.0  # weight of the VGG19 feature loss to the teacher's output
    perceptual_gt: float = 0.0  # weight of the VGG19 feature loss to the original
    fft: float = 0.0  # weight of L1 between the 2-d spectra
    vgg: str = "imagenet"  # "imagenet" (downloaded), a path to VGG19 weights, or "random" (fixed, offline)
    crop: int = 64  # side of the sub-crops that the perceptual loss sees, in HR pixels
    fraction: float = 0.25  # part of the batch that the perceptual loss sees
    margin: int = 0  # border left out of the loss, in HR/4 pixels (docs/LOG.md: what zero padding costs, and why 0)

    @property
    def uses_vgg(self) -> bool:
        return bool(self.perceptual or self.perceptual_gt)


@dataclass
class TrainConfig:
    steps: int = 20_000
    batch: int = 16
    optimizer: str = "adam"  # adam or soap (optim.py)
    lr: float = 1e-3
    lr_end: float = 1e-6
    warmup: int = 200
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])  # adam's; soap has its own
    ema: float = 0.999
    clip: float = 1.0  # gradient norm; 0: off
    dtype: str = "auto"  # autocast: auto, fp32, fp16, bf16; float64 trains all in double
    compile: bool = False  # torch.compile of the student; wants a C++ compiler on a CPU
    valid_every: int = 1000
    save_every: int = 500
    keep: int = 3  # checkpoints kept
    seed: int = -1  # of the start and of the order of crops; -1: `seed`, which also draws crops and splits photos
    # a student file to start from: fine-tuning, or a smaller one that grows (student.grow). "teacher": the teacher
    # itself, channels and layers cut out of it (prune.prune), where it is a Compact one (general_x4v3, animevideov3);
    # "auto": so where it can be, else from nothing
    init: str = ""
    baseline: bool = True  # also train the same student without a teacher (L1 to the original)


@dataclass
class EvalConfig:
    limit: int = 0  # test photos used; 0: all
    panels: int = 4  # photos shown in the report
    time_side: int = 256  # side of the LR input that is timed
    time_repeats: int = 5


@dataclass
class Config:
    """Everything a run depends on.

    `teacher` is a registry name (`anime_6B`, `x4plus`, `general_x4v3`, `animevideov3`, `student_x4_m`) or the
    path of any Real-ESRGAN checkpoint. `scale` is 4, 2 or 1. `workdir` holds all that is written.
    """

    preset: str = "quick"
    workdir: str = "workdir"
    seed: int = 0
    scale: int = 4
    teacher: str = "anime_6B"
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    workers: int = 0  # data loading threads; 0: by the number of cores
    drive: str = ""  # a folder that outlives this machine (Google Drive): checkpoints and the student are copied
    data: DataConfig = field(default_factory=DataConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def path(self, *parts: str) -> Path:
        """A path inside the work folder."""
        return Path(self.workdir).expanduser().joinpath(*parts)


# Registry names of teachers (sources.SOURCES has their files), and the students of our own that can stand in for one.
TEACHERS = ("anime_6B", "x4plus", "general_x4v3", "general_wdn_x4v3", "animevideov3")
STAND_INS = ("student_x4_s", "student_x4_m", "student_x4_l")

INITS, VGGS = ("teacher", "auto"), ("imagenet", "random")  # the words that stand where a file may

CHOICES = {
    "scale": (4, 2, 1),
    "degrade.profile": ("bicubic", "light", "two_order", "mixed"),
    "train.optimizer": ("adam", "soap"),
    "train.dtype": ("auto", "fp32", "fp16", "bf16", "float64"),
    "label.dtype": ("auto", "fp32", "bf16"),
    "label.input_scale": (1.0, 0.5),
}
POSITIVE = {
    "data.crop", "data.crops_per_photo", "data.valid_crops_per_photo", "data.valid_count", "label.batch",
    "loss.crop", "train.steps", "train.batch", "train.lr", "train.valid_every", "train.save_every", "train.keep",
    "eval.time_repeats", "eval.time_side",
}  # fmt: skip
NOT_NEGATIVE = {
    "seed", "workers", "data.limit", "data.test_count", "data.test_side", "student.expand", "loss.teacher", "loss.gt",
    "loss.perceptual", "loss.perceptual_gt", "loss.fft", "loss.charbonnier", "loss.margin", "train.lr_end",
    "train.warmup", "train.clip", "eval.limit", "eval.panels",
}  # fmt: skip


def make(preset: str = "quick", overrides: str | list[str] | dict[str, Any] = "", **top: Any) -> Config:
    """A `Config` from a preset, then top-level or dotted values, then the override string.

    >>> make("quick", "train.steps=5 loss.gt=0.2", workdir="out").train.steps
    5
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    cfg = Config(preset=preset)
    override(cfg, PRESETS[preset])
    override(cfg, {k: v for k, v in top.items() if v is not None})
    override(cfg, overrides)
    check(cfg)
    return cfg


def with_defaults(have: dict[str, Any], want: dict[str, Any]) -> dict[str, Any]:
    """The provenance `have`, its missing keys of `want` at their defaults: what an older version did unsaid."""
    for key, words in (("train.init", INITS), ("loss.vgg", VGGS)):  # once kept as the path that was given, unhashed
        if have.get(key) and have[key] not in words and f"{key}_sha256" not in have:
            have = have | {k: want[k] for k in (key, f"{key}_sha256") if k in want}
    if "loss.vgg" not in want:  # where no loss uses it, it no longer counts
        have = {k: v for k, v in have.items() if not k.startswith("loss.vgg")}
    return {k: v for k, v in flatten(Config()).items() if k in want} | have


def check(cfg: Config) -> None:
    """Refuse values that cannot work, before any work is done."""
    values = flatten(cfg)
    for key, allowed in CHOICES.items():
        if values[key] not in allowed:
            raise ConfigError(f"{key}={values[key]!r}: choose one of {', '.join(map(str, allowed))}")
    for key in POSITIVE:
        if values[key] <= 0:
            raise ConfigError(f"{key}={values[key]!r} must be greater than 0")
    for key in NOT_NEGATIVE:
        if values[key] < 0:
            raise ConfigError(f"{key}={values[key]!r} must not be below 0")
    t = cfg.teacher
    if (
        t not in TEACHERS + STAND_INS
        and not t.startswith("https://drive.google.com/")
        and not Path(t).expanduser().is_file()
    ):
        near = difflib.get_close_matches(t, TEACHERS + STAND_INS, 1)
        hint = f"did you mean {near[0]!r}?" if near else "check the path"
        raise ConfigError(f"teacher={t!r} is neither a file nor one of {', '.join(TEACHERS + STAND_INS)}: {hint}")
    vgg = cfg.loss.vgg if cfg.loss.uses_vgg else ""
    for key, path, words in (
        ("train.init", cfg.train.init, INITS),
        ("loss.vgg", vgg, VGGS),
    ):
        if path and path not in words and not Path(path).expanduser().is_file():
            raise ConfigError(f"{key}={path!r} is not there: check the path, or say {' or '.join(words)}")
    if cfg.label.input_scale != 1 and cfg.scale != 1:
        raise ConfigError(f"label.input_scale={cfg.label.input_scale} is for scale=1 only, not for scale={cfg.scale}")
    if cfg.train.init == "teacher" and cfg.scale != 4:
        raise ConfigError(f"train.init=teacher is for scale=4 only, not for scale={cfg.scale}: leave train.init out")
    if not re.fullmatch(r"[sml]|[1-9]\d{0,2}x[1-9]\d{0,2}", cfg.student.size):
        raise ConfigError(
            f"student.size={cfg.student.size!r}: choose one of s, m, l, or width x inner convolutions, such as 32x4"
        )
    if cfg.data.crop % 8 or cfg.data.crop < 32:
        raise ConfigError(f"data.crop={cfg.data.crop} must be a multiple of 8 and at least 32")
    if not cfg.data.photos:
        raise ConfigError("data.photos is empty: name a folder or zip of photos, DIV2K, or samples")
    if 0 < cfg.data.test_side < 64:
        raise ConfigError(f"data.test_side={cfg.data.test_side} must be 0 (whole photos) or at least 64")
    for key in ("seed", "train.seed"):
        if values[key] >= 1 << 63:
            raise ConfigError(f"{key}={values[key]} must be below 2^63")
    if 2 * cfg.loss.margin * 4 >= cfg.data.crop:
        raise ConfigError(
            f"loss.margin={cfg.loss.margin} leaves nothing of data.crop={cfg.data.crop} (margin counts 4 pixels each)"
        )
    if cfg.loss.uses_vgg and not 16 <= cfg.loss.crop <= cfg.data.crop - 8 * cfg.loss.margin:
        raise ConfigError(
            f"loss.crop={cfg.loss.crop} must lie between 16 and data.crop less its margins, "
            f"{cfg.data.crop - 8 * cfg.loss.margin}"
        )
    if not 0 < cfg.loss.fraction <= 1:
        raise ConfigError(f"loss.fraction={cfg.loss.fraction} must be above 0 and at most 1")
    if not 0 <= cfg.train.ema < 1:
        raise ConfigError(f"train.ema={cfg.train.ema} must be in [0, 1)")
    if len(cfg.train.betas) != 2 or not all(0 <= b < 1 for b in cfg.train.betas):
        raise ConfigError(f"train.betas={cfg.train.betas} must be two numbers in [0, 1)")
    if cfg.loss.teacher <= 0 and cfg.loss.gt <= 0 and cfg.loss.gt_end <= 0:
        raise ConfigError("loss.teacher and loss.gt are both 0: nothing to learn from; set one above 0")
    always = max(cfg.loss.teacher, cfg.loss.fft, cfg.loss.perceptual, cfg.loss.perceptual_gt)
    if always <= 0 and cfg.loss.gt_end >= 0 and min(cfg.loss.gt, cfg.loss.gt_end) == 0:
        raise ConfigError(
            f"loss.gt={cfg.loss.gt:g} to loss.gt_end={cfg.loss.gt_end:g} leaves a step nothing to learn from, as the "
            "other terms are 0: set both, or loss.teacher, above 0"
        )


def to_dict(cfg: Config, *prefixes: str) -> dict[str, Any]:
    """The dotted keys (only those starting with `prefixes`, if given): what an artefact records as provenance."""
    return {k: v for k, v in flatten(cfg).items() if not prefixes or k.startswith(prefixes)}


def shipped(name: str) -> Path:
    """The path of a student that comes with the project (assets/weights), such as ``student_x4_m.pth``."""
    path = ROOT / "assets" / "weights" / name
    if not path.is_file():
        there = ", ".join(p.name for p in sorted(path.parent.glob("student_*.pth"))) or "none"
        raise ConfigError(
            f"no {name} among the students that ship (there: {there}): name another or the path of a file, or restore "
            "it with `git checkout assets/weights`"
        )
    return path
