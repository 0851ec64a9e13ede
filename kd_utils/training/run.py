"""One training of a work folder: what it is made of, where it lies, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kd_utils import provenance
from kd_utils.common import files, locks
from kd_utils.common.devices import Runtime
from kd_utils.common.errors import TrainError
from kd_utils.config import Config
from kd_utils.data.crops import CropIndex
from kd_utils.models import student
from kd_utils.models.teacher import TeacherRef
from kd_utils.provenance import Provenance
from kd_utils.training import checkpoints
from kd_utils.training.drive import Drive
from kd_utils.training.state import TrainState
from kd_utils.training.validation import TRAINING_FILES, ValidationEvent
from kd_utils.workdir import Workdir, training_title

Watch = Callable[[ValidationEvent], None]


@dataclass
class Run:
    """One training: the student's or the baseline's. Nothing of it changes while it trains."""

    cfg: Config
    name: str
    work: Workdir
    index: CropIndex
    teacher: TeacherRef
    labels: Provenance
    runtime: Runtime
    watch: Watch | None
    copies: Drive | None = None

    @cached_property
    def made_of(self) -> Provenance:
        """What its checkpoints and its student record."""
        return provenance.training_provenance(self.cfg, self.labels)

    @property
    def title(self) -> str:
        return training_title(self.name)

    @property
    def folder(self) -> Path:
        return self.work.training(self.name)

    @property
    def out(self) -> Path:
        return self.work.student(self.name)

    @property
    def drive(self) -> Path | None:
        return self.work.on_drive(self.folder)

    def require_same(self, have: Provenance) -> None:
        """Refuse a student or a checkpoint that was made with other settings."""
        paths = [self.folder, self.out, self.drive, self.work.on_drive(self.out)]
        want = self.made_of
        provenance.require_same([p for p in paths if p], provenance.with_defaults(have, want), want)


def sweep(run: Run) -> None:
    """Remove what killed processes left half-written."""
    if run.runtime.is_main:
        for folder in (run.folder, run.work.root, run.drive):
            if folder:
                files.sweep(folder)


def hold_alone(run: Run) -> AbstractContextManager[None]:
    """The training's folder is held by one run: torchrun's processes count as one, and a finished one is only read."""
    if not run.runtime.is_main or run.out.is_file():
        return nullcontext()
    return locks.hold(run.folder)


def require_finite_weights(run: Run, state: TrainState) -> None:
    """The last update can diverge after the loss was looked at."""
    if not all(p.isfinite().all() for p in [*state.net.parameters(), *state.ema.parameters()]):
        raise TrainError(
            f"{run.title}: the weights are not finite after step {state.step}; the last good checkpoint is kept in "
            f"{run.folder}. Lower train.lr (now {run.cfg.train.lr:g}), and begin in another --workdir."
        )


def save_checkpoint(run: Run, state: TrainState) -> None:
    require_finite_weights(run, state)
    if run.runtime.is_main:
        saved = {"provenance": run.made_of} | state.to_dict()
        checkpoints.save(run.folder, state.step, saved, run.cfg.train.keep, run.copies)


def save_student(run: Run, state: TrainState) -> None:
    meta = {"provenance": run.made_of, "versions": provenance.versions(), "run": run.name}
    meta["history"] = state.history.to_dict()["valid"][-1]
    student.save(state.ema, run.out, meta)


def back_up(run: Run) -> None:
    """Copy the student, its curve and its pictures to Drive, where it is given and does not have them yet."""
    if not run.copies:
        return
    for path in (run.out, *(run.folder / name for name in TRAINING_FILES)):
        if path.is_file():
            run.copies.copy(path)
