"""One training of a work folder: what it is made of, where it lies, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kd_utils import provenance
from kd_utils.common import files, locks
from kd_utils.common.devices import Runtime
from kd_utils.common.errors import BusyError, CheckpointError, TrainError
from kd_utils.config import Config
from kd_utils.data.crops import CropIndex
from kd_utils.models import student
from kd_utils.models.teacher import TeacherRef
from kd_utils.provenance import Provenance
from kd_utils.training import checkpoints, folders
from kd_utils.training.drive import Drive
from kd_utils.training.state import TrainState
from kd_utils.training.validation import TRAINING_FILES, ValidationEvent
from kd_utils.workdir import STUDENT, STUDENT_FILE, Workdir, training_title

Watch = Callable[[ValidationEvent], None]
WARMUP_PART = 10  # a training that goes on warms up over at most this part (1/10) of its new steps


@dataclass
class Run:
    """One training: the student's or the baseline's. Nothing of it changes while it trains."""

    cfg: Config
    name: str
    work: Workdir
    folder: Path  # as folders.find gives it
    index: CropIndex
    teacher: TeacherRef
    labels: Provenance
    runtime: Runtime
    watch: Watch | None
    copies: Drive | None = None
    chain: tuple[list[int], ...] = ()  # [steps asked for, steps reached] of each part that is done

    @cached_property
    def made_of(self) -> Provenance:
        """What its checkpoints and its student record."""
        return provenance.training_provenance(self.cfg, self.labels, self.chain)

    @property
    def begin(self) -> int:
        """The step at which this part of the training began: 0, unless `train.steps` was raised."""
        return self.chain[-1][1] if self.chain else 0

    @cached_property
    def part(self) -> Config:
        """The settings of this part alone: its steps count from `begin`, and its learning rate rises and falls anew."""
        if not self.chain:
            return self.cfg
        steps = self.cfg.train.steps - self.begin
        warmup = min(self.cfg.train.warmup, steps // WARMUP_PART)
        part = replace(self.cfg, train=replace(self.cfg.train, steps=steps, warmup=warmup))
        if self._has_become_crisp():
            part = replace(part, loss=replace(part.loss, crisp_start=0.0))
        return part

    def _has_become_crisp(self) -> bool:
        """Whether a part that is done came to the terms for crispness, which then stay."""
        begin = 0
        for asked, reached in self.chain:
            if reached > begin + self.cfg.loss.crisp_start * (asked - begin):
                return True
            begin = reached
        return False

    @property
    def title(self) -> str:
        return training_title(self.name)

    @property
    def out(self) -> Path:
        return self.folder / STUDENT_FILE

    @property
    def drive(self) -> Path | None:
        return self.work.on_drive(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether its student is there, whole and of these settings."""
        if not self.out.is_file():
            return False
        try:
            have = student.load(self.out).meta.get("provenance") or {}
        except CheckpointError:
            return False
        return not provenance.training_differences(have, self.made_of)


def after(run: Run, saved: tuple[int, dict[str, Any]] | None) -> Run:
    """The run as it goes on from a checkpoint: one of fewer `train.steps` becomes a part of its chain.

    Raises BusyError where the checkpoint is of other settings: another run has begun since the folder was chosen.
    """
    if not saved:
        return run
    step, have = saved[0], saved[1]["provenance"]
    differ = provenance.training_differences(have, run.made_of)
    chain = have.get(provenance.CHAIN, [])
    if differ == [folders.STEPS] and have[folders.STEPS] < run.cfg.train.steps:
        chain = [*chain, [have[folders.STEPS], step]]
    elif differ:
        raise BusyError(f"another run has just trained in {run.folder}: call again, for a folder of its own")
    return replace(run, chain=tuple(chain))


def sweep(run: Run) -> None:
    """Remove what killed processes left half-written."""
    if run.runtime.is_main:
        for folder in (run.folder, run.work.root, run.drive):
            if folder:
                files.sweep(folder)


def hold_alone(run: Run) -> AbstractContextManager[None]:
    """The training's folder is held by one run: torchrun's processes count as one, and a finished one is only read."""
    if not run.runtime.is_main or run.is_finished:
        return nullcontext()
    return locks.hold(run.folder)


def require_finite_weights(run: Run, state: TrainState) -> None:
    """The last update can diverge after the loss was looked at."""
    if not all(p.isfinite().all() for p in [*state.net.parameters(), *state.ema.parameters()]):
        raise TrainError(
            f"{run.title}: the weights are not finite after step {state.step}; the last good checkpoint is kept in "
            f"{run.folder}. Lower train.lr (now {run.cfg.train.lr:g})."
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
    """Copy the students of the run's kind, their curves and pictures to Drive, where it does not have them yet."""
    if not run.copies:
        return
    paths = [run.work.student] if run.name == STUDENT else []
    for name in folders.names(run.work, run.name):
        paths += [run.work.training(name) / file for file in (STUDENT_FILE, *TRAINING_FILES)]
    for path in paths:
        if path.is_file():
            run.copies.copy(path)
