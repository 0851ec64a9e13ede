"""The one configuration: dataclasses with their defaults and ranges, and what is refused.

Every step is a function of a `Config`. A notebook's parameters, the command line's ``--set`` and papermill's
``overrides`` string all end in `override`, which refuses what it does not know and names the nearest valid key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_utils.common.errors import ConfigError
from kd_utils.overrides import (
    Range,
    above,
    at_least,
    at_most,
    did_you_mean,
    expect,
    flatten,
    is_path,
    one_of,
    override,
    require_in_range,
    setting,
)
from kd_utils.presets import PRESETS

# Registry names of teachers (sources.SOURCES has their files), and the students of our own that can stand in for one.
TEACHERS = ("anime_6B", "x4plus", "general_x4v3", "general_wdn_x4v3", "animevideov3")
STAND_INS = ("student_x4_photo_s", "student_x4_photo_m", "student_x4_photo_l")

INITS, VGGS = ("teacher", "auto", "shipped"), ("imagenet", "random")  # the words that stand where a file may


def matching(pattern: str, otherwise: str) -> Range:
    """The range of the strings that are all of the regular expression `pattern`."""
    return expect(lambda value: re.fullmatch(pattern, value) is not None, otherwise)


# The ranges that only one field has.
CROP = expect(lambda side: side % 8 == 0 and side >= 32, " must be a multiple of 8 and at least 32")
TEST_SIDE = expect(lambda side: side == 0 or side >= 64, " must be 0 (whole photos) or at least 64")
PART = expect(lambda part: 0 < part <= 1, " must be above 0 and at most 1")
DECAY = expect(lambda decay: 0 <= decay < 1, " must be in [0, 1)")
BETAS = expect(lambda betas: len(betas) == 2 and all(0 <= b < 1 for b in betas), " must be two numbers in [0, 1)")
SIZE = matching(
    r"[sml]|[1-9]\d{0,2}x[1-9]\d{0,2}", ": choose one of s, m, l, or width x inner convolutions, such as 32x4"
)
DEVICE = matching(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", " cannot be used here: try device=auto or device=cpu")


@dataclass
class DataConfig:
    photos: str = setting("samples", is_path)  # "samples" (in scikit-image), "DIV2K", a folder of photos, or a zip
    test_photos: str = setting("", is_path)  # a folder or zip of test photos; empty: the source's own test split
    valid_count: int = setting(10, above(0))  # photos held out for validation (DIV2K: of its 800; samples: one scene)
    test_count: int = setting(10, at_least(0))  # photos held out for the test where the source has no own test split
    limit: int = setting(0, at_least(0))  # use only the first N training photos; 0: all
    crop: int = setting(
        256, CROP, at_most(8192)
    )  # side of an HR crop, in HR pixels (the student's body then sees crop/4)
    crops_per_photo: int = setting(12, above(0), at_most(100_000))  # training crops kept of each photo
    valid_crops_per_photo: int = setting(4, above(0), at_most(100_000))
    min_std: float = 6.0  # leave out flat crops: standard deviation of Y (16 to 235) below this
    min_mean: float = 12.0  # leave out dark crops: mean of Y below this; black is 16, so 12 leaves out none
    # test on the central square of at most this side (HR pixels); 0: the whole photo
    test_side: int = setting(0, at_least(0), TEST_SIDE)


@dataclass
class DegradeConfig:
    # "mixed" is light and two_order, half each; "wide" is light, blurred and two_order, a third each
    profile: str = setting("two_order", one_of("bicubic", "light", "blurred", "two_order", "mixed", "wide"))


@dataclass
class LabelConfig:
    batch: int = setting(16, above(0), at_most(65_536))
    # autocast of the teacher; auto is fp16 on CUDA, else fp32; `doctor` says whether this CPU has bf16
    dtype: str = setting("auto", one_of("auto", "fp32", "bf16"))
    # what computes the teacher: ncnn is faster on a CPU, its labels can differ by one level in few pixels; auto is what
    # made the labels that are there, else ncnn where it is installed and computes on a CPU
    engine: str = setting("torch", one_of("auto", "torch", "ncnn"))
    input_scale: float = setting(1.0, one_of(1.0, 0.5))  # scale 1 only: resize the teacher's input by this first


@dataclass
class StudentConfig:
    size: str = setting("m", SIZE)  # s, m or l (student.SIZES), or width x inner convolutions, such as 32x4
    # over-parameterisation while training, times the width; 0: plain convolutions
    expand: int = setting(4, at_least(0), at_most(64))


@dataclass
class LossConfig:
    teacher: float = setting(1.0, at_least(0))  # weight of L1 to the teacher's output
    gt: float = setting(0.0, at_least(0))  # weight of L1 to the original
    gt_end: float = -1.0  # weight of L1 to the original at the last step, reached linearly; -1: constant
    charbonnier: float = setting(0.0, at_least(0))  # below this difference (of 1) the two L1 above turn square; 0: L1
    perceptual: float = setting(0.0, at_least(0))  # weight of the VGG19 feature loss to the teacher's output
    perceptual_gt: float = setting(0.0, at_least(0))  # weight of the VGG19 feature loss to the original
    fft: float = setting(0.0, at_least(0))  # weight of L1 between the 2-d spectra
    gradient: float = setting(0.0, at_least(0))  # weight of L1 between differences of neighbouring pixels
    # how much sharper labels are made where the student is softer (training/sharper_labels.py), from the first step on:
    # crisp edges, for some PSNR; 0: not at all
    usm: float = setting(0.0, at_least(0))
    # weight of L1 between the local means of the 4x4 phases: against a printed grid, where the adversarial term is on
    screen: float = setting(0.0, at_least(0))
    # weight of the adversarial term (training/adversarial.py): crisp edges, for some PSNR
    adversarial: float = setting(0.0, at_least(0))
    # part of the steps that are done before the terms for crispness begin: VGG19, grid and adversarial; where
    # train.steps is raised after they have begun, they stay
    crisp_start: float = setting(0.0, at_least(0), at_most(1))
    adversarial_lr: float = setting(2e-4, above(0))  # learning rate of its discriminator
    # side of the squares that it sees, in HR pixels; where the crops are smaller, it sees them whole
    adversarial_crop: int = setting(96, at_least(32))
    # "imagenet" (downloaded), a path to VGG19 weights, or "random" (fixed, offline)
    vgg: str = setting("imagenet", is_path)
    crop: int = setting(64, above(0))  # side of the sub-crops that the perceptual loss sees, in HR pixels
    fraction: float = setting(0.25, PART)  # part of the batch that the perceptual loss sees
    # border left out of the loss, in HR/4 pixels (docs/LOG.md: what zero padding costs, and why 0)
    margin: int = setting(0, at_least(0))

    @property
    def has_teacher(self) -> bool:
        """Whether a term looks at the teacher's output: none does of a baseline."""
        return any((self.teacher, self.perceptual, self.fft, self.gradient, self.screen, self.adversarial))

    @property
    def uses_vgg(self) -> bool:
        return bool(self.perceptual or self.perceptual_gt)


@dataclass
class TrainConfig:
    steps: int = setting(20_000, above(0))
    batch: int = setting(16, above(0), at_most(65_536))
    # part of the crops whose input is the label itself made smaller: clean pictures, without a new label; good for
    # x4plus, while students of anime_6B became softer on clean pictures (docs/LOG.md)
    clean_inputs: float = setting(0.0, at_least(0), at_most(1))
    optimizer: str = setting("adam", one_of("adam", "soap"))
    lr: float = setting(1e-3, above(0))
    lr_end: float = setting(1e-6, at_least(0))
    warmup: int = setting(200, at_least(0))
    betas: list[float] = setting([0.9, 0.99], BETAS)  # adam's; soap has its own
    ema: float = setting(0.999, DECAY)
    clip: float = setting(1.0, at_least(0))  # gradient norm; 0: off
    # autocast, but float64 trains all in double
    dtype: str = setting("auto", one_of("auto", "fp32", "fp16", "bf16", "float64"))
    compile: bool = False  # torch.compile of the student; wants a C++ compiler on a CPU
    valid_every: int = setting(1000, above(0))
    save_every: int = setting(500, above(0))
    keep: int = setting(3, above(0))  # checkpoints kept
    seed: int = -1  # of the start and of the order of crops; -1: `seed`, which also draws crops and splits photos
    # a student file to start from: fine-tuning, a smaller one that grows, a larger one that is cut down, or for scale 2
    # and 1 one of scale 4. "teacher": the teacher itself, cut down (models/pruning.py), where it is a Compact one
    # (general_x4v3, animevideov3); "auto": so where it can be, else from nothing. "shipped": the student that ships of
    # this size, by this teacher if there is one: what fits a student to photos of one's own in minutes
    init: str = setting("", is_path)
    baseline: bool = True  # also train the same student without a teacher (L1 to the original)


@dataclass
class EvalConfig:
    # which student: a training's folder in train/ (student-lr=0.002) or a file; empty: the one trained last
    student: str = setting("", is_path)
    limit: int = setting(0, at_least(0))  # test photos used; 0: all
    panels: int = setting(4, at_least(0))  # photos shown in the report
    time_side: int = setting(256, above(0), at_most(16_384))  # side of the LR input that is timed
    time_repeats: int = setting(5, above(0), at_most(1_000_000))


@dataclass
class Config:
    """Everything a run depends on.

    `teacher` is a registry name (`anime_6B`, `x4plus`, `general_x4v3`, `animevideov3`, `student_x4_photo_m`) or the
    path of any Real-ESRGAN checkpoint. `scale` is 4, 2 or 1. `workdir` holds all that is written.
    """

    preset: str = "quick"
    workdir: str = setting("workdir", is_path)
    seed: int = setting(0, at_least(0))
    scale: int = setting(4, one_of(4, 2, 1))
    teacher: str = setting("anime_6B", is_path)
    device: str = setting("auto", DEVICE)  # auto, cpu, cuda, cuda:1, mps
    workers: int = setting(0, at_least(0), at_most(1024))  # data loading threads; 0: by the number of cores
    # a folder that outlives this machine (Google Drive): checkpoints and the student are copied
    drive: str = setting("", is_path)
    drive_data: bool = False  # keep crops and labels there as well, in a few large files, for the next machine
    data: DataConfig = field(default_factory=DataConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def path(self, *parts: str | Path) -> Path:
        """A path inside the work folder."""
        return Path(self.workdir).expanduser().joinpath(*parts)


def make(
    preset: str = "quick",
    overrides: str | list[str] | dict[str, Any] = "",
    renamed: Mapping[str, str] | None = None,
    **top: Any,
) -> Config:
    """A `Config` from a preset, then top-level or dotted values, then the override string.

    `renamed` maps the old names of settings to those of today. Raises ConfigError.

    >>> make("quick", "train.steps=5 loss.gt=0.2", workdir="out").train.steps
    5
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        hint = did_you_mean(str(preset), PRESETS)
        raise ConfigError(f"unknown preset {preset!r}{hint or ':'} choose one of {', '.join(PRESETS)}")

    cfg = Config(preset=preset)
    override(cfg, PRESETS[preset])
    override(cfg, {key: value for key, value in top.items() if value is not None}, renamed)
    override(cfg, overrides, renamed)
    check(cfg)
    return cfg


def check(cfg: Config) -> None:
    """Refuse values that cannot work, before any work is done. Raises ConfigError."""
    require_in_range(cfg)
    _check_teacher(cfg.teacher)
    _check_files(cfg)
    _check_scale(cfg)
    _check_label_engine(cfg.label)
    _check_loss_crops(cfg)
    _check_loss_weights(cfg.loss)


def _check_teacher(teacher: str) -> None:
    """The teacher is a name that is known, a file that is there, or a link to Google Drive."""
    known = TEACHERS + STAND_INS
    if teacher in known or teacher.startswith("https://drive.google.com/") or _is_file(teacher):
        return
    hint = did_you_mean(teacher, known) or ": check the path"
    raise ConfigError(f"teacher={teacher!r} is neither a file nor one of {', '.join(known)}{hint}")


def _check_files(cfg: Config) -> None:
    """Where a setting names a file, it is there."""
    if not cfg.data.photos:
        raise ConfigError("data.photos is empty: name a folder or zip of photos, DIV2K, or samples")

    named: list[tuple[str, str, tuple[str, ...]]] = [("train.init", cfg.train.init, INITS + STAND_INS)]
    if cfg.loss.uses_vgg:
        named.append(("loss.vgg", cfg.loss.vgg, VGGS))
    for key, value, words in named:
        if value and value not in words and not _is_file(value):
            hint = did_you_mean(value, words)
            raise ConfigError(f"{key}={value!r} is not there: check the path, or say {' or '.join(words)}{hint}")


def _is_file(path: str) -> bool:
    return Path(path).expanduser().is_file()


def _check_scale(cfg: Config) -> None:
    """Some settings are for one scale only."""
    if cfg.label.input_scale != 1 and cfg.scale != 1:
        raise ConfigError(f"label.input_scale={cfg.label.input_scale} is for scale=1 only, not for scale={cfg.scale}")
    if cfg.train.clean_inputs and cfg.scale == 1:
        raise ConfigError(
            f"train.clean_inputs={cfg.train.clean_inputs:g} is for scale=4 and 2: at scale=1 a label made smaller is "
            "the label itself, and the student would learn to change nothing"
        )
    if cfg.train.init == "teacher" and cfg.scale != 4:
        raise ConfigError(f"train.init=teacher is for scale=4 only, not for scale={cfg.scale}: leave train.init out")


def _check_label_engine(label: LabelConfig) -> None:
    if label.engine == "ncnn" and label.dtype == "bf16":
        raise ConfigError("label.engine=ncnn computes in fp32, not in bf16: leave label.dtype out, or label.engine")


def _check_loss_crops(cfg: Config) -> None:
    """The loss sees part of a crop: within the margins, and for VGG19 a square of at least 16 pixels."""
    crop, margin = cfg.data.crop, cfg.loss.margin
    seen = crop - 2 * 4 * margin  # the margin counts 4 HR pixels each, on both sides

    if seen <= 0:
        raise ConfigError(f"loss.margin={margin} leaves nothing of data.crop={crop} (margin counts 4 pixels each)")
    if cfg.loss.uses_vgg and not 16 <= cfg.loss.crop <= seen:
        raise ConfigError(f"loss.crop={cfg.loss.crop} must lie between 16 and data.crop less its margins, {seen}")


def _check_loss_weights(loss: LossConfig) -> None:
    """Every step has something to learn from, also where the weight of the original goes from or to 0."""
    if max(loss.teacher, loss.gt, loss.gt_end) <= 0:
        raise ConfigError("loss.teacher and loss.gt are both 0: nothing to learn from; set one above 0")

    always = max(loss.teacher, loss.fft, loss.gradient)
    if not loss.crisp_start:
        always = max(always, loss.screen, loss.perceptual, loss.perceptual_gt)
    if always <= 0 and loss.gt_end >= 0 and min(loss.gt, loss.gt_end) == 0:
        raise ConfigError(
            f"loss.gt={loss.gt:g} to loss.gt_end={loss.gt_end:g} leaves a step nothing to learn from, as the "
            "other terms are 0: set both, or loss.teacher, above 0"
        )
    if loss.usm and not loss.has_teacher:
        raise ConfigError(
            f"loss.usm={loss.usm:g} sharpens labels, and no term looks at them: set loss.teacher above 0, or loss.usm=0"
        )


def to_dict(cfg: Config, *prefixes: str) -> dict[str, Any]:
    """The dotted keys (only those starting with `prefixes`, if given): what an artefact records as provenance."""
    return {k: v for k, v in flatten(cfg).items() if not prefixes or k.startswith(prefixes)}
