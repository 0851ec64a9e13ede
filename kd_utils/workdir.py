"""The work folder of a run: every path in it, named once.

The layout is the same on a disk, in Colab and on Google Drive:

    crops/              step 1: shards of HR and LR crops, the test photos, index.json
    labels/             step 2: a shard of labels for each shard of crops, index.json
    train/student/      step 3: checkpoints, history.json, curve.png, valid.png
    train/no_teacher/   the same for the baseline, and its student_model.pth
    student_model.pth   the student
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

    def training(self, name: str = STUDENT) -> Path:
        """The folder of a training's checkpoints, curve and pictures."""
        return self.root / "train" / name

    def student(self, name: str = STUDENT) -> Path:
        """The file of a student: at the top for the distilled one, in its training's folder for the baseline."""
        if name == STUDENT:
            return self.root / "student_model.pth"
        return self.training(name) / "student_model.pth"

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
