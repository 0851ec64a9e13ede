"""Step 4: the student beside bicubic, beside the baseline (the same student without a teacher), and beside its teacher.

Scores against the original and against the teacher, what each costs, and a report to look at. Everything but the
timings is byte-reproducible. The teacher's outputs are kept (``eval/teacher-*.safetensors``): they are the slow part.
"""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_utils import provenance
from kd_utils.common import devices, files
from kd_utils.common.errors import EvaluateError
from kd_utils.common.tensors import enlarged, to_tensor, to_uint8
from kd_utils.config import ASSETS, Config, make
from kd_utils.data.crops import CropIndex, PhotoPair, load_photo_pairs, read_index
from kd_utils.evaluation import costs, figures, metrics, panels, report, tables
from kd_utils.evaluation.panels import TestPanel
from kd_utils.evaluation.perceptual import Judges, load_judges
from kd_utils.evaluation.scores import (
    ORDER,
    ROWS,
    START,
    Evaluation,
    MadeBy,
    PhotoScores,
    Protocol,
    Scores,
    TeacherName,
    Timing,
    Training,
    mean,
)
from kd_utils.models import student, tiling
from kd_utils.models.student import Student
from kd_utils.models.teacher import Teacher, TeacherRef, load_teacher, resolve_teacher, teacher_target
from kd_utils.overrides import flatten
from kd_utils.training.drive import copies
from kd_utils.training.initialization import resolve_init
from kd_utils.workdir import BASELINE, STUDENT, Workdir

NOT_IN_COMMAND = (
    "preset",
    "workdir",
    "drive",
    "drive_data",
    "device",
    "workers",
)  # where it runs does not change what is measured


@dataclass
class Evaluated:
    """What step 4 returns."""

    metrics: Path
    report: Path
    table: str  # plain text
    headline: str
    table_html: str = field(repr=False)  # the table for a notebook
    shown: list[TestPanel] = field(repr=False)


def require_student(cfg: Config) -> Path:
    """The student to evaluate. Raises EvaluateError where there is none, before the long steps are taken."""
    path = Workdir.of(cfg).student()
    if not path.is_file():
        raise EvaluateError(
            f"{path} is missing: run step 3 first (python -m kd_utils train, or notebook 03). On Colab each notebook "
            "has a machine of its own: tick `drive` in 03 and here, or take ImageSharpeningKD.ipynb: all on one"
        )
    return path


def evaluate(cfg: Config) -> Evaluated:
    """Step 4. Writes ``eval/metrics.json``, ``eval/report.html`` and ``eval/panels/``.

    Raises EvaluateError, StoreError or TeacherError where an earlier step is missing or was made for another
    configuration.
    """
    # load the test photos, the students, the teacher and the networks that judge
    index = read_index(cfg)
    require_student(cfg)
    pairs = load_photo_pairs(cfg)
    if not pairs:
        raise EvaluateError("no test photos: set data.test_photos to a folder of photos and run step 1 again")
    notes: list[str] = []
    ref = resolve_teacher(cfg)
    students = _load_students(cfg, ref, index, notes)
    device = devices.resolve_device(cfg.device)
    teacher = load_teacher(ref, device)
    judges = load_judges(cfg, device, notes)
    nets = {row: net.to(device) for row, net in students.items()}

    # score each photo
    labels = _label_photos(cfg, teacher, pairs, device)
    per_photo, shown = _score_photos(cfg, nets, judges, pairs, labels)

    # costs
    cost, timing = costs.measure(cfg, nets, teacher, device)

    # write
    rows = [row for row in ORDER if row in ROWS or row in nets]
    evaluation = Evaluation(
        teacher=TeacherName(ref.name, ref.sha256, ref.is_stand_in),
        trained={row: Training(_settings(net), net.meta.get("versions")) for row, net in students.items()},
        protocol=_protocol(cfg, index, pairs, judges, timing),
        scores={row: mean([photo.models.get(row, Scores()) for photo in per_photo]) for row in rows},
        costs=cost,
        per_photo=per_photo,
        notes=notes,
        made_by=MadeBy(_command(cfg), cfg.seed, provenance.versions()),
    )
    return _write(cfg, evaluation, shown)


def _score_photos(
    cfg: Config, nets: dict[str, Student], judges: Judges, pairs: list[PhotoPair], labels: list[np.ndarray]
) -> tuple[list[PhotoScores], list[TestPanel]]:
    """The scores of every row on every photo, and panels of the first photos. Two threads compute PSNR and SSIM."""
    per_photo: list[PhotoScores] = []
    shown: list[TestPanel] = []
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        for pair, label in tqdm(zip(pairs, labels), total=len(pairs), desc="scores", unit="photo"):
            images = _sharpen(cfg, nets, pair, judges.device) | {"teacher": label}
            jobs = {row: pool.submit(metrics.score, out, pair.hr, label, cfg.scale) for row, out in images.items()}
            scores = {row: job.result() for row, job in jobs.items()}
            judges.score(scores, images, pair.hr, label)
            per_photo.append(PhotoScores(pair.name, list(pair.hr.shape[1::-1]), scores))

            if len(shown) < cfg.eval.panels:
                images = {"input": pair.lr} | images | {"original": pair.hr}
                folder = Workdir.of(cfg).panels
                shown.append(panels.draw(pair.name, images, scores, folder, len(shown), cfg.degrade.profile))
    return per_photo, shown


def _protocol(cfg: Config, index: CropIndex, pairs: list[PhotoPair], judges: Judges, timing: Timing) -> Protocol:
    photos = index.provenance["photos"]
    return Protocol(
        scale=cfg.scale,
        border=cfg.scale,
        degradation=cfg.degrade.profile,
        photos=[pair.name for pair in pairs],
        photos_trained_on={split: len(names) for split, names in photos.items() if split != "test"},
        vgg=judges.describe(),
        timing=timing,
    )


# ---- the students


def _load_students(cfg: Config, ref: TeacherRef, index: CropIndex, notes: list[str]) -> dict[str, Student]:
    """The student and, where it was trained, the baseline, by row; what the report must admit goes into `notes`."""
    work = Workdir.of(cfg)
    net = _load_student(cfg, work.student(STUDENT), ref, index, notes)
    _note_beginning(net, notes)
    _note_other_settings(cfg, index, ref, net, notes)
    found = {"student": net}
    if start := _load_start(cfg, ref, index, net):
        found = {START: start, "student": net}

    path = work.student(BASELINE)
    if not path.is_file():
        notes.append("There is no baseline (train.baseline=false, or its training is not finished): its row is empty.")
        return found

    baseline = _load_student(cfg, path, ref, index, notes)
    if differ := _differences(baseline, net):
        notes.append(
            f"The baseline that is here is not the same student ({differ}): its row is empty. "
            f"Delete {path.parent} and train with train.baseline=true to have it."
        )
    else:
        found["baseline"] = baseline
    return found


def _load_start(cfg: Config, ref: TeacherRef, index: CropIndex, net: Student) -> Student | None:
    """The student's network before its training: the file of `train.init`, where it is here and of the same size."""
    made = _settings(net)
    sha256 = made.get("train.init_sha256")
    ships = resolve_init(cfg, index, ref).train.init
    for path in (Path(ships), ASSETS / "weights" / str(made.get("train.init"))):
        if sha256 and path.is_file() and files.sha256(path) == sha256:
            start = student.load(path)
            if (start.feat, start.convs, start.scale) == (net.feat, net.convs, net.scale):
                return start
    return None


def _load_student(cfg: Config, path: Path, ref: TeacherRef, index: CropIndex, notes: list[str]) -> Student:
    """One student's file, refused where it was trained with another scale, teacher or other crops."""
    net = student.load(path)
    if net.scale != cfg.scale:
        raise EvaluateError(f"{path} is a x{net.scale} student: set scale={net.scale}, or train one x{cfg.scale}")

    made = _settings(net)
    if not made:
        notes.append(f"{path.name} does not say what it was trained on: it may have seen the test photos.")
        return net
    want = {"labels.crops": index.key, "labels.teacher_sha256": ref.sha256}
    have = {key: made.get(key) for key in want}
    provenance.require_same(path, have, want, "Evaluate with the teacher and crops that it was trained on.")
    return net


def _settings(net: Student) -> dict:
    """What a student's file says of its training: dotted keys; empty where it says nothing."""
    return net.meta.get("provenance") or {}


def _note_beginning(net: Student, notes: list[str]) -> None:
    """The report says what both began with: a fair comparison needs the same initial weights."""
    init = _settings(net).get("train.init")
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


def _note_other_settings(cfg: Config, index: CropIndex, ref: TeacherRef, net: Student, notes: list[str]) -> None:
    """A note where the settings given now are others than the student's.

    A value equal to the preset's counts as not given, because notebook 04 does not ask again for what 03's form says.
    """
    made = _settings(net)
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
    alone, taught = _settings(baseline), _settings(net)
    differ = []
    for key in sorted(alone.keys() & taught.keys()):
        counts = key == "seed" or key.startswith(("student.", "train."))
        if counts and not key.startswith("train.init") and alone[key] != taught[key]:
            differ.append(f"{key} is {alone[key]}, not {taught[key]}")
    return "; ".join(differ)


# ---- pictures of the test photos


def _sharpen(cfg: Config, nets: dict[str, Student], pair: PhotoPair, device: torch.device) -> dict[str, np.ndarray]:
    """A test photo enlarged and by each student, by row: uint8 (H, W, 3) RGB."""
    x = to_tensor(pair.lr[None], device)  # (1, 3, h, w)
    images = {"bicubic": to_uint8(enlarged(x, cfg.scale))[0]}
    for row, net in nets.items():
        images[row] = to_uint8(tiling.run(net, x))[0]
    return images


def _label_photos(cfg: Config, teacher: Teacher, pairs: list[PhotoPair], device: torch.device) -> list[np.ndarray]:
    """The teacher's picture of each test photo at the student's scale, memory-mapped; those on disk are kept."""

    def tiled(x: Tensor) -> Tensor:
        return tiling.run(teacher.net, x)

    labels = []
    for n, pair in enumerate(tqdm(pairs, desc=f"test photos by {teacher.ref.name}", unit="photo")):
        path = Workdir.of(cfg).eval / f"teacher-{n:05d}.safetensors"
        want = provenance.labels_provenance(cfg, teacher.ref, files.sha256(pair.lr.tobytes()))
        if not files.is_made(path, **want):
            y = teacher_target(tiled, to_tensor(pair.lr[None], device), cfg.scale, cfg.label.input_scale)
            files.save_arrays(path, {"label": to_uint8(y)[0]}, want)
        labels.append(files.load_arrays(path)[0]["label"])
    return labels


# ---- the report


def _write(cfg: Config, evaluation: Evaluation, shown: list[TestPanel]) -> Evaluated:
    work = Workdir.of(cfg)
    for stray in set(work.panels.glob("*.png")) - {s.panel for s in shown}:
        stray.unlink()  # of an evaluation with more panels
    files.sweep(work.eval)

    page = report.page(evaluation, [panels.section(s) for s in shown], _curve(work))
    out = Evaluated(
        files.write_json(work.metrics, evaluation.to_dict()),
        files.write_bytes(work.report, page.encode()),
        tables.table(evaluation),
        report.headline(evaluation),
        report.table_html(evaluation),
        shown,
    )
    with copies(work.root, work.drive) as drive:
        if drive:
            for path in (out.metrics, out.report):
                drive.copy_dated(path)
    return out


def _curve(work: Workdir) -> str:
    """The curves of student and baseline in one figure, as a data URI; empty where the student left none."""
    histories = []
    for name in (STUDENT, BASELINE):
        path = work.training(name) / "history.json"
        histories.append(files.read_json(path) if path.is_file() else None)
    if not histories[0]:
        return ""
    return figures.data_uri(figures.curve(histories[0], baseline=histories[1]), "png")


def _command(cfg: Config) -> str:
    """The command that makes the same evaluation. Of a path only its name is told: the report is for others, too."""
    usual = flatten(make(cfg.preset))
    changed = []
    for key, value in flatten(cfg).items():
        if key in NOT_IN_COMMAND or value == usual[key]:
            continue
        if isinstance(value, str) and "/" in value:
            value = Path(value).name
        changed.append(f"{key}={value}")

    command = ["python", "-m", "kd_utils", "evaluate", "--preset", cfg.preset]
    if changed:
        command += ["--set", *changed]
    return shlex.join(command)
