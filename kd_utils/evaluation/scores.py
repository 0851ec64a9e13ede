"""What an evaluation measured: dataclasses in the program, plain JSON in ``eval/metrics.json``."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from kd_utils.common import files
from kd_utils.common.errors import StoreError

T = TypeVar("T")

ROWS = ("bicubic", "student", "baseline", "teacher")  # at scale 1 "bicubic" is the untouched input
START = "start"  # the student that the training began with, where it began with one
SHIPPED = "shipped"  # the student of this size that ships, where the same teacher taught it
ORDER = ("bicubic", START, "student", "baseline", SHIPPED, "teacher")

# Rows as older versions named them, and their names now.
OLD_NAMES = {"student_no_teacher": "baseline"}


@dataclass
class Scores:
    """The scores of one picture, or their means over photos; None is what does not apply or is infinite.

    The distances (VGG19, LPIPS, DISTS) are 0 for equal pictures. A sharpness of 1 is as crisp as the teacher.
    """

    psnr_y: float | None = None  # dB, to the original
    ssim_y: float | None = None
    psnr_rgb: float | None = None
    ssim_rgb: float | None = None
    psnr_y_teacher: float | None = None  # dB, to the teacher's picture
    ssim_y_teacher: float | None = None
    vgg: float | None = None  # to the original
    vgg_teacher: float | None = None
    lpips_teacher: float | None = None
    dists_teacher: float | None = None
    sharpness: float | None = None  # mean gradient of Y over the teacher's
    drift_rgb: list[float] | None = None  # how far the mean colours of blocks are off, in levels of 255


@dataclass
class Cost:
    """What one model costs; None where it does not apply."""

    params: int | None = None
    gmac_256: float | None = None  # 10^9 multiply-adds for a 1024x1024 output
    ms_per_megapixel: float | None = None  # of output


@dataclass
class PhotoScores:
    """The scores of every row on one test photo."""

    name: str
    size: list[int]  # width, height
    models: dict[str, Scores]


@dataclass
class TeacherName:
    """Which teacher it was."""

    name: str
    sha256: str
    stand_in: bool  # one of this project's own students teaches


@dataclass
class Training:
    """How a student was made, as its file tells it."""

    settings: dict[str, Any] = field(default_factory=dict)  # its provenance: dotted keys
    versions: dict[str, str] | None = None


@dataclass
class Timing:
    """How the times were taken."""

    engine: str
    threads: int
    input_side: int
    turns: int


@dataclass
class Protocol:
    """How the scores were taken."""

    scale: int
    border: int  # pixels left out on each side
    degradation: str
    photos: list[str]
    photos_trained_on: dict[str, int]
    vgg: str | None  # which weights, and of what part of a picture; None: no VGG19 distance
    timing: Timing


@dataclass
class MadeBy:
    """What made an evaluation: the same command with the same versions gives the same scores."""

    command: str
    seed: int
    versions: dict[str, str]


@dataclass
class Evaluation:
    """All of ``eval/metrics.json``."""

    teacher: TeacherName
    trained: dict[str, Training]  # by row
    protocol: Protocol
    scores: dict[str, Scores]  # by row: means over the photos
    costs: dict[str, Cost]  # by row
    per_photo: list[PhotoScores]
    notes: list[str]
    made_by: MadeBy | None = None  # None: made by an older version

    @property
    def rows(self) -> list[str]:
        """The rows of its tables, in their order."""
        return [row for row in ORDER if row in self.scores]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: scores and costs of a row stand together under "models"."""
        out = asdict(self)
        scores, costs = out.pop("scores"), out.pop("costs")
        out["models"] = {row: scores[row] | costs[row] for row in self.rows}
        return out

    @classmethod
    def from_dict(cls, made: dict[str, Any]) -> Evaluation:
        """From the JSON object, also of an older version. Raises KeyError or TypeError where it is none."""
        models = _renamed(made["models"])
        rows = [row for row in ORDER if row in ROWS or row in models]
        photos = []
        for photo in made["per_photo"]:
            by_row = {row: _known(Scores, values) for row, values in _renamed(photo["models"]).items()}
            photos.append(PhotoScores(photo["name"], photo["size"], by_row))

        protocol = dict(made["protocol"])
        protocol["timing"] = _known(Timing, protocol["timing"])
        by = made.get("made_by")
        return cls(
            teacher=_known(TeacherName, made["teacher"]),
            trained={row: _known(Training, how) for row, how in _renamed(made.get("trained", {})).items()},
            protocol=_known(Protocol, protocol),
            scores={row: _known(Scores, models.get(row, {})) for row in rows},
            costs={row: _known(Cost, models.get(row, {})) for row in rows},
            per_photo=photos,
            notes=made["notes"],
            made_by=_known(MadeBy, by) if by else None,
        )


def read(path: Path) -> Evaluation:
    """An evaluation from its file, also one of an older version. Raises StoreError where it is damaged."""
    made = files.read_json(path)
    try:
        return Evaluation.from_dict(made)
    except (KeyError, TypeError, AttributeError) as e:
        raise StoreError(f"{path} holds no evaluation ({e!r}): delete it and run step 4 again") from e


def known(value: T | None) -> T:
    """A number that is there: the costs of student and teacher, and the colours of all but a missing baseline, are."""
    assert value is not None
    return value


def mean(scores: list[Scores]) -> Scores:
    """The mean of each score; None where one of the pictures has none."""
    out = Scores()
    for f in fields(Scores):
        values = [getattr(s, f.name) for s in scores]
        if None in values or not values:
            continue
        if f.name == "drift_rgb":
            out.drift_rgb = [statistics.fmean(channel) for channel in zip(*values, strict=True)]
        else:
            setattr(out, f.name, statistics.fmean(values))
    return out


def _renamed(rows: dict[str, Any]) -> dict[str, Any]:
    return {OLD_NAMES.get(row, row): value for row, value in rows.items()}


def _known(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass of the fields that it knows: a newer version may have written more."""
    names = {f.name for f in fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in names})
