"""The work folder of a run: every path in it, named once.

The layout is the same on a disk, in Colab and on Google Drive:

    crops/              step 1: shards of HR and LR crops, the test photos, index.json
    labels/             step 2: a shard of labels for each shard of crops, index.json
    train/student/      step 3: checkpoints, history.json, curve.png, valid.png, student_model.pth
    train/student-*/    the same of other settings, named by what differs (training/folders.py)
    train/no_teacher*/  the same of the baseline
    student_model.pth   the student that step 3 finished last
    eval/               step 4: metrics.json, report.html, panels/
    runs/               the executed notebooks
    uploads/, export/   what notebook 05 was given, and students in other formats
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kd_utils.config import Config

STUDENT = "student"  # the name of the distilled student's training
BASELINE = "no_teacher"  # the folder of the baseline's training, under the name that older work folders have
STUDENT_FILE = "student_model.pth"  # the student at the top, and in each training's folder its own


def training_title(name: str) -> str:
    """What a reader is told of the training `name`."""
    return "baseline" if name == BASELINE else name


@dataclass(frozen=True)
class Workdir:
    """The paths of a work folder; `drive` is the folder that outlives this machine, or None."""

    root: Path
    drive: Path | None = None

    @classmethod
    def of(cls, cfg: Config) -> Workdir:
        drive = Path(cfg.drive).expanduser() if cfg.drive else None
        return cls(Path(cfg.workdir).expanduser(), drive)

    @property
    def crops(self) -> Path:
        return self.root / "crops"

    @property
    def crop_index(self) -> Path:
        return self.crops / "index.json"

    @property
    def labels(self) -> Path:
        return self.root / "labels"

    @property
    def label_index(self) -> Path:
        return self.labels / "index.json"

    @property
    def trainings(self) -> Path:
        return self.root / "train"

    def training(self, name: str = STUDENT) -> Path:
        """The folder of a training's student, checkpoints, curve and pictures."""
        return self.trainings / name

    @property
    def student(self) -> Path:
        """A copy of the student that step 3 finished last."""
        return self.root / STUDENT_FILE

    @property
    def eval(self) -> Path:
        return self.root / "eval"

    @property
    def metrics(self) -> Path:
        return self.eval / "metrics.json"

    @property
    def report(self) -> Path:
        return self.eval / "report.html"

    @property
    def panels(self) -> Path:
        return self.eval / "panels"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def exports(self) -> Path:
        return self.root / "export"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def on_drive(self, path: Path) -> Path | None:
        """Where a file or folder of the work folder is kept on Drive; None where no Drive was given."""
        return self.drive / path.relative_to(self.root) if self.drive else None
