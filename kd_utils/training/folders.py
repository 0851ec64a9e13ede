"""Which folder a training has: other settings get one of their own, more steps of the same go on in theirs.

    train/student/             the first settings, and more steps of them
    train/student-lr=0.002/    other settings, named by what differs from the first
    train/student-steps=600/   the student that the first settings had after 600 steps, before they went on

The baseline's lie beside them (`train/no_teacher`, `train/no_teacher-lr=0.002`), so a change that does not concern it
leaves it as it is. What a folder was made of is told by its student, or by its newest whole checkpoint.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kd_utils import provenance
from kd_utils.common import devices, files
from kd_utils.common.errors import KDError
from kd_utils.models import student
from kd_utils.provenance import Provenance
from kd_utils.training import checkpoints
from kd_utils.training.validation import TRAINING_FILES
from kd_utils.workdir import STUDENT, STUDENT_FILE, Workdir, training_title

STEPS = "train.steps"
SCORES = "metrics.json"  # as step 4 leaves them beside a student
NAMED = 3  # settings in a folder's name
LONGEST = 24  # characters of a setting's value in a folder's name


@dataclass(frozen=True)
class Training:
    """What lies in one training's folder, or in its copy on Drive."""

    folder: Path
    made_of: Provenance
    is_finished: bool  # its student is there
    has_checkpoint: bool


def names(work: Workdir, kind: str) -> list[str]:
    """The names of the trainings of a kind (STUDENT or BASELINE), here and on Drive, the first settings first."""
    found = set()
    for root in (work.trainings, work.on_drive(work.trainings)):
        for folder in root.glob(f"{kind}*") if root else ():
            if folder.is_dir() and (folder.name == kind or folder.name.startswith(f"{kind}-")):
                found.add(folder.name)
    return sorted(found)


def students(work: Workdir, kind: str) -> list[Path]:
    """The students of a kind that are here."""
    paths = [work.training(name) / STUDENT_FILE for name in names(work, kind)]
    return [path for path in paths if path.is_file()]


def trainings(work: Workdir, kind: str) -> list[Training]:
    """The trainings of a kind that hold a student or a whole checkpoint."""
    found = []
    for name in names(work, kind):
        if training := _read(work, work.training(name)):
            found.append(training)
    return found


def _read(work: Workdir, folder: Path) -> Training | None:
    drive = work.on_drive(folder)
    path = folder / STUDENT_FILE
    if path.is_file():
        try:
            made_of = student.load(path).meta.get("provenance") or {}
            return Training(folder, made_of, True, bool(checkpoints.found(folder, drive)))
        except KDError as e:
            _say(f"{e}. Its checkpoints are looked at instead")

    saved = checkpoints.latest(folder, drive, quiet=True)
    return Training(folder, saved[1]["provenance"], False, True) if saved else None


# ---- the folder of some settings


def find(work: Workdir, kind: str, want: Provenance) -> Path:
    """The folder of the training that is made of `want`.

    It is the one that was begun with these settings, else the one with the most steps below `train.steps` and all else
    equal, which goes on, else a new one.
    """
    there = trainings(work, kind)
    same, shorter = [], []
    for training in there:
        differ = provenance.training_differences(training.made_of, want)
        if not differ:
            same.append(training)
        elif differ == [STEPS] and training.has_checkpoint and training.made_of[STEPS] < want[STEPS]:
            shorter.append(training)

    if same:
        return max(same, key=lambda training: training.is_finished).folder
    if shorter:
        return max(shorter, key=lambda training: training.made_of[STEPS]).folder

    first = work.training(kind)
    if not there and not (first / STUDENT_FILE).is_file():
        return first
    return _new(work, kind, there[0] if there else None, want)


def _new(work: Workdir, kind: str, first: Training | None, want: Provenance) -> Path:
    """A folder of its own for settings that differ from the first ones."""
    if not first:  # a damaged student, and nothing that tells what it was made of
        return _free(work.training(f"{kind}-2"))
    have = provenance.with_defaults(first.made_of, want)
    have.pop(provenance.CHAIN, None)
    folder = _free(work.training(f"{kind}-{_name(have, want)}"))
    differ = provenance.said_difference(have, want)
    _say(f"{training_title(kind)}: other settings than those of {first.folder} ({differ}): it trains in {folder}")
    return folder


def _name(have: Provenance, want: Provenance) -> str:
    """What differs as a part of a folder's name, such as ``lr=0.002,size=l``."""
    changed = [key for key in provenance.differing(have, want) if not key.endswith("_sha256")]
    parts = []
    for key in changed[:NAMED]:
        value = str(want.get(key))
        if key == "student.size":
            value = student.size_of(value)
        value = re.sub(r"[^\w.+-]+", "-", value).strip("-")
        parts.append(f"{key.rsplit('.', 1)[-1]}={value[:LONGEST]}")
    if len(changed) > NAMED:
        parts.append(f"{len(changed) - NAMED}-more")
    return ",".join(parts) or "2"


def _free(folder: Path) -> Path:
    """`folder`, or the first of ``folder-2``, ``folder-3`` that holds no training."""
    place, n = folder, 1
    while (place / STUDENT_FILE).is_file() or checkpoints.found(place):
        n += 1
        place = folder.with_name(f"{folder.name}-{n}")
    return place


# ---- what is kept


def keep_shorter(folder: Path) -> Path | None:
    """Give the student of a training that goes on a folder of its own, with its curve and scores.

    Returns that folder, or None where there is no student.
    """
    own = folder / STUDENT_FILE
    if not own.is_file():
        return None
    try:
        steps = (student.load(own).meta.get("provenance") or {}).get(STEPS, "before")
    except KDError:
        return None  # it is damaged
    data = own.read_bytes()
    joint = "," if "=" in folder.name else "-"
    place = folder.with_name(f"{folder.name}{joint}steps={steps}")

    # a Drive gives a student back that was kept already, and by then the curve beside it is of more steps
    kept = place / STUDENT_FILE
    if kept.is_file() and kept.read_bytes() == data:
        own.unlink()
        return place

    place = _free(place)
    for name in TRAINING_FILES:
        if (folder / name).is_file():
            files.write_bytes(place / name, (folder / name).read_bytes())
    place.mkdir(parents=True, exist_ok=True)
    for path in (folder / SCORES, own):  # the student last: with it the folder is whole
        if path.is_file():
            os.replace(path, place / path.name)
    return place


def publish(work: Workdir, folder: Path) -> None:
    """Put the student of `folder` at the top, and say which it is where there are several."""
    data = (folder / STUDENT_FILE).read_bytes()
    if not work.student.is_file() or work.student.read_bytes() != data:
        files.write_bytes(work.student, data)
    if len(students(work, STUDENT)) > 1:
        print(f"{work.student} is now the student of {folder}")


def adopt(work: Workdir) -> None:
    """Give a student that lies at the top alone, where older versions left it, to its training's folder."""
    top = work.student
    if not top.is_file():
        return
    data = top.read_bytes()
    if any(path.read_bytes() == data for path in students(work, STUDENT)):
        return
    try:
        made_of = student.load(top).meta.get("provenance") or {}
    except KDError as e:
        _say(f"{e}. It is written again when its training is finished")
        return

    place = work.training()
    there = _read(work, place)
    if there and (there.is_finished or provenance.training_differences(there.made_of, made_of)):
        place = _free(work.training(f"{STUDENT}-before"))
    files.write_bytes(place / STUDENT_FILE, data)


def restore(work: Workdir) -> None:
    """Copy the students on Drive, their curves and pictures back, where they are not here or older here."""
    if not work.drive or not work.drive.is_dir():
        return
    kept = [work.drive / STUDENT_FILE]
    for folder in sorted(work.drive.glob("train/*/")):
        kept += [folder / name for name in (*TRAINING_FILES, STUDENT_FILE)]
    for path in kept:
        here = work.root / path.relative_to(work.drive)
        if path.is_file() and _is_newer(path, here):
            files.write_bytes(here, path.read_bytes())
            if path.name == STUDENT_FILE:
                print(f"{here.relative_to(work.root)} comes from {path}")


def _is_newer(path: Path, here: Path) -> bool:
    """Whether a file on Drive is to replace the one that is here: only a whole student replaces another."""
    if not here.is_file():
        return True
    if path.stat().st_mtime <= here.stat().st_mtime or path.read_bytes() == here.read_bytes():
        return False
    if path.name != STUDENT_FILE:
        return True
    try:
        student.load(path)
    except KDError as e:
        print(f"{e}. {here} stays")
        return False
    return True


def _say(text: str) -> None:
    if not devices.process_rank():  # of torchrun's processes, the first one speaks
        print(text)
