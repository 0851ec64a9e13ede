"""The student that is evaluated and its baseline: which they are, whether they fit, and what the report must admit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd_utils import provenance
from kd_utils.common import files
from kd_utils.common.errors import ConfigError, EvaluateError, KDError
from kd_utils.config import Config, make
from kd_utils.data.crops import CropIndex
from kd_utils.evaluation.scores import SHIPPED, START
from kd_utils.models import shipped, student
from kd_utils.models.student import Student
from kd_utils.models.teacher import TeacherRef
from kd_utils.own_files import ASSETS
from kd_utils.training import folders
from kd_utils.training.initialization import resolve_init
from kd_utils.workdir import BASELINE, STUDENT, STUDENT_FILE, Workdir


@dataclass
class Chosen:
    """The students by row, and the folders of those trainings that are known."""

    nets: dict[str, Student]
    folders: dict[str, Path]


def require_student(cfg: Config) -> Path:
    """The file of the student to evaluate: the one trained last, or `eval.student`.

    Raises EvaluateError where there is none, before the long steps are taken.
    """
    work, given = Workdir.of(cfg), cfg.eval.student
    if not given and not work.student.is_file():
        raise EvaluateError(
            f"{work.student} is missing: run step 3 first (python -m kd_utils train, or notebook 03). On Colab each "
            "notebook has a machine of its own: tick `drive` in 03 and here, or take ImageSharpeningKD.ipynb: all on "
            "one"
        )
    if not given:
        return work.student

    for path in (work.training(given) / STUDENT_FILE, Path(given).expanduser()):
        if path.is_file():
            return path
    there = ", ".join(path.parent.name for path in folders.students(work, STUDENT))
    raise EvaluateError(
        f"eval.student={given} is no file, and no training in {work.trainings} (there: {there or 'none'}): name another"
    )


def load(cfg: Config, path: Path, ref: TeacherRef, index: CropIndex, notes: list[str]) -> Chosen:
    """The student `path` and, where it was trained, its baseline; what the report must admit goes into `notes`.

    Raises EvaluateError or StoreError where the student was trained with another scale, teacher or other crops.
    """
    net = _load_student(cfg, path, ref, index, notes)
    start = _load_start(cfg, ref, index, net)
    chosen = Chosen({START: start} if start else {}, {})
    chosen.nets["student"] = net
    if ships := _load_shipped(ref, net, start, notes):
        chosen.nets[SHIPPED] = ships
    if folder := folder_of(Workdir.of(cfg), path):
        chosen.folders["student"] = folder
        notes += which(Workdir.of(cfg), folder)
    _note_beginning(net, notes)
    _note_parts(net, notes)
    _note_other_settings(cfg, index, ref, net, notes)
    _add_baseline(cfg, chosen, ref, index, notes)
    return chosen


def folder_of(work: Workdir, path: Path) -> Path | None:
    """The folder of the training that made the student `path`, which may be the copy at the top; None: not of here."""
    data = path.read_bytes()
    there = folders.students(work, STUDENT)
    for own in there:
        if own.read_bytes() == data:
            return own.parent
    # an older version left the student at the top alone
    if path == work.student and not there and work.training().is_dir():
        return work.training()
    return None


def which(work: Workdir, folder: Path) -> list[str]:
    """Says which student it is where the work folder has several; else nothing."""
    names = [own.parent.name for own in folders.students(work, STUDENT)]
    others = ", ".join(name for name in names if name != folder.name)
    if not others:
        return []
    return [
        f"This is the student of train/{folder.name}. The work folder has others, which eval.student=NAME evaluates: "
        f"{others}."
    ]


def metrics_of(work: Workdir) -> list[Path]:
    """The files of scores of a work folder: of each student where it has several, which need not be there, else the one
    of its evaluation. Raises ConfigError where nothing was evaluated.
    """
    if not work.metrics.is_file():
        raise ConfigError(
            f"{work.metrics} is missing: run step 4 in that work folder first (python -m kd_utils evaluate)"
        )
    students = folders.students(work, STUDENT)
    if len(students) < 2:
        return [work.metrics]
    return [path.with_name(folders.SCORES) for path in students]


def _add_baseline(cfg: Config, chosen: Chosen, ref: TeacherRef, index: CropIndex, notes: list[str]) -> None:
    """Add the same student trained without a teacher; a note where there is none."""
    paths = folders.students(Workdir.of(cfg), BASELINE)
    if not paths:
        notes.append("There is no baseline (train.baseline=false, or its training is not finished): its row is empty.")
        return

    net, fitting, differences = chosen.nets["student"], [], []
    for path in paths:
        try:
            baseline = _load_student(cfg, path, ref, index, notes)
        except KDError as e:
            if len(paths) == 1:
                raise
            differences.append(str(e))
            continue
        if differ := _differences(baseline, net):
            differences.append(differ)
        else:
            fitting.append((path.parent, baseline))
    if not fitting:
        notes.append(
            f"The baseline that is here is not the same student ({differences[0]}): its row is empty. "
            "Train with the student's settings and train.baseline=true to have it."
        )
        return

    # the fairest is the one whose steps were raised as the student's were
    parts = provenance.parts(settings_of(net))
    fitting.sort(key=lambda item: provenance.parts(settings_of(item[1])) != parts)
    chosen.folders["baseline"], baseline = fitting[0]
    chosen.nets["baseline"] = baseline
    others = provenance.parts(settings_of(baseline))
    if others != parts:
        notes.append(
            f"Student and baseline were trained in other parts ({parts}, and {others}): the difference between the two "
            "holds that, too."
        )


def _load_start(cfg: Config, ref: TeacherRef, index: CropIndex, net: Student) -> Student | None:
    """The student's network before its training: the file of `train.init`, where it is here and of the same size."""
    made = settings_of(net)
    sha256 = made.get("train.init_sha256")
    ships = resolve_init(cfg, index, ref).train.init
    for path in (Path(ships), ASSETS / "weights" / str(made.get("train.init"))):
        if sha256 and path.is_file() and files.sha256(path) == sha256:
            start = student.load(path)
            if (start.feat, start.convs, start.scale) == (net.feat, net.convs, net.scale):
                return start
    return None


def _load_shipped(ref: TeacherRef, net: Student, start: Student | None, notes: list[str]) -> Student | None:
    """The student of the same size that ships, where the same teacher taught it; a note says how long it was trained.

    None where the training began with it: then it has a row already.
    """
    try:
        path, is_same_teacher = shipped.taught_by(ref.name, ref.sha256, f"{net.feat}x{net.convs}", net.scale)
    except ConfigError:
        return None  # of this size none ships
    ships = student.load(path)
    if not is_same_teacher or (start is not None and start.meta == ships.meta):
        return None

    made = settings_of(ships)
    crops = made["train.steps"] * made["train.batch"]
    notes.append(f"The one that ships is {path.stem}: taught by the same teacher on other photos, in {crops:,} crops.")
    return ships


def _load_student(cfg: Config, path: Path, ref: TeacherRef, index: CropIndex, notes: list[str]) -> Student:
    """One student's file, refused where it was trained with another scale, teacher or other crops."""
    net = student.load(path)
    if net.scale != cfg.scale:
        raise EvaluateError(f"{path} is a x{net.scale} student: set scale={net.scale}, or train one x{cfg.scale}")

    made = settings_of(net)
    if not made:
        notes.append(f"{path.name} does not say what it was trained on: it may have seen the test photos.")
        return net
    want = {"labels.crops": index.key, "labels.teacher_sha256": ref.sha256}
    have = {key: made.get(key) for key in want}
    provenance.require_same(path, have, want, "Evaluate with the teacher and crops that it was trained on.")
    return net


def settings_of(net: Student) -> dict[str, Any]:
    """What a student's file says of its training: dotted keys; empty where it says nothing."""
    return provenance.with_shape(net.meta.get("provenance") or {})


def _note_beginning(net: Student, notes: list[str]) -> None:
    """The report says what both began with: a fair comparison needs the same initial weights."""
    init = settings_of(net).get("train.init")
    if init == "teacher":
        notes.append(
            "The student began as its teacher, cut down, the baseline from nothing: the difference between the two "
            "holds that, too."
        )
    elif init:
        notes.append(
            f"Student and baseline both began as {Path(init).name}, and were trained alike but for the loss; "
            "what that student had learned before is in both."
        )


def _note_parts(net: Student, notes: list[str]) -> None:
    """A training that went on with more steps is not what so many steps at once give."""
    made = settings_of(net)
    if made.get(provenance.CHAIN):
        notes.append(
            f"The student was trained in parts ({provenance.parts(made)}), each with a learning rate that rises and "
            f"falls: it need not be as good as {made['train.steps']:,} steps at once."
        )


def _note_other_settings(cfg: Config, index: CropIndex, ref: TeacherRef, net: Student, notes: list[str]) -> None:
    """A note where the settings given now are others than the student's.

    A value equal to the preset's counts as not given, because notebook 04 does not ask again for what 03's form says.
    """
    made = settings_of(net)
    preset = make(cfg.preset)
    plain = replace(cfg, student=preset.student, loss=preset.loss, train=preset.train)
    now = provenance.training_provenance(resolve_init(cfg, index, ref), {})
    usual = provenance.training_provenance(resolve_init(plain, index, ref), {})

    other = []
    for key in sorted(made.keys() & now.keys()):
        if made[key] != now[key] and now[key] != usual.get(key):
            other.append(f"{key} was {made[key]}, now {now[key]}")
    if other:
        notes.append(f"The student was trained with other settings than were given now ({'; '.join(other)}).")


def _differences(baseline: Student, net: Student) -> str:
    """The settings, other than loss and beginning, in which the baseline differs from the student."""
    alone, taught = settings_of(baseline), settings_of(net)
    differ = []
    for key in sorted(alone.keys() & taught.keys() - {provenance.CHAIN}):
        counts = key == "seed" or key.startswith(("student.", "train."))
        if counts and not key.startswith("train.init") and alone[key] != taught[key]:
            differ.append(f"{key} is {alone[key]}, not {taught[key]}")
    return "; ".join(differ)
