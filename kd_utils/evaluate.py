"""Step 4: the student beside bicubic, beside the baseline (the same student without a teacher), and beside its teacher.

Scores against the original and against the teacher, what each costs, and a report to look at. Everything but the
timings is byte-reproducible. The teacher's outputs are kept (``eval/teacher-*.safetensors``): they are the slow part.
"""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_utils import provenance
from kd_utils.common import devices, files
from kd_utils.common.errors import EvaluateError
from kd_utils.common.tensors import enlarged, to_tensor, to_uint8
from kd_utils.config import Config, make
from kd_utils.data.crops import CropIndex, PhotoPair, load_photo_pairs, read_index
from kd_utils.evaluation import costs, curves, figures, metrics, panels, report, tables
from kd_utils.evaluation.panels import TestPanel
from kd_utils.evaluation.perceptual import Judges, load_judges
from kd_utils.evaluation.scores import (
    ORDER,
    ROWS,
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
from kd_utils.models import tiling
from kd_utils.models.student import Student
from kd_utils.models.teacher import Teacher, load_teacher, resolve_teacher, teacher_target
from kd_utils.overrides import flatten
from kd_utils.training import folders, selection
from kd_utils.training.drive import copies
from kd_utils.training.selection import require_student
from kd_utils.workdir import Workdir

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
    headline: str  # one sentence, and where the student has learned what it gained
    table_html: str = field(repr=False)  # the table for a notebook
    shown: list[TestPanel] = field(repr=False)


def evaluate(cfg: Config) -> Evaluated:
    """Step 4. Writes ``eval/metrics.json``, ``eval/report.html`` and ``eval/panels/``.

    Raises EvaluateError, StoreError or TeacherError where an earlier step is missing or was made for another
    configuration.
    """
    # load the test photos, the students, the teacher and the networks that judge
    index = read_index(cfg)
    path = require_student(cfg)
    pairs = load_photo_pairs(cfg)
    if not pairs:
        raise EvaluateError("no test photos: set data.test_photos to a folder of photos and run step 1 again")
    notes: list[str] = []
    ref = resolve_teacher(cfg)
    chosen = selection.load(cfg, path, ref, index, notes)
    device = devices.resolve_device(cfg.device)
    teacher = load_teacher(ref, device)
    judges = load_judges(cfg, device, notes)
    nets = {row: net.to(device) for row, net in chosen.nets.items()}

    # score each photo
    labels = _label_photos(cfg, teacher, pairs, device)
    per_photo, shown = _score_photos(cfg, nets, judges, pairs, labels)

    # costs
    cost, timing = costs.measure(cfg, nets, teacher, device)

    # write
    rows = [row for row in ORDER if row in ROWS or row in nets]
    evaluation = Evaluation(
        teacher=TeacherName(ref.name, ref.sha256, ref.is_stand_in),
        trained={row: Training(selection.settings_of(net), net.meta.get("versions")) for row, net in nets.items()},
        protocol=_protocol(cfg, index, pairs, judges, timing),
        scores={row: mean([photo.models.get(row, Scores()) for photo in per_photo]) for row in rows},
        costs=cost,
        per_photo=per_photo,
        notes=notes,
        made_by=MadeBy(_command(cfg), cfg.seed, provenance.versions()),
    )
    return _write(cfg, evaluation, shown, chosen.folders)


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


def _write(cfg: Config, evaluation: Evaluation, shown: list[TestPanel], trainings: dict[str, Path]) -> Evaluated:
    work = Workdir.of(cfg)
    for stray in set(work.panels.glob("*.png")) - {s.panel for s in shown}:
        stray.unlink()  # of an evaluation with more panels
    files.sweep(work.eval)

    page = report.page(evaluation, [panels.section(s) for s in shown], _curves(trainings))
    out = Evaluated(
        files.write_json(work.metrics, evaluation.to_dict()),
        files.write_bytes(work.report, page.encode()),
        tables.table(evaluation),
        report.in_words(evaluation),
        report.table_html(evaluation),
        shown,
    )
    if "student" in trainings:  # the scores of each student stay beside it, for `compare`
        files.write_bytes(trainings["student"] / folders.SCORES, out.metrics.read_bytes())
    with copies(work.root, work.drive) as drive:
        if drive:
            for path in (out.metrics, out.report):
                drive.copy_dated(path)
    return out


def _curves(trainings: dict[str, Path]) -> list[str]:
    """The loss and the validation of student and baseline, as data URIs; none where the student left no history."""
    histories = []
    for row in ("student", "baseline"):
        path = trainings[row] / "history.json" if row in trainings else None
        histories.append(files.read_json(path) if path and path.is_file() else None)
    if not histories[0]:
        return []
    drawn = []
    for part in curves.CURVES:
        drawn.append(curves.curve(histories[0], width=560, baseline=histories[1], parts=[part]))
    return [figures.data_uri(image, "png") for image in drawn]


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
