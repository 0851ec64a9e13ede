"""Step 4: the student beside bicubic, beside itself trained without a teacher, and beside its teacher.

Scores against the original and against the teacher, what each costs, and a report to look at. Everything but the
timings is byte-reproducible. The teacher's outputs are kept (``eval/teacher-*.safetensors``): they are the slow part.
"""

from __future__ import annotations

import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from kd_utils import provenance
from kd_utils.common import devices, files, sources
from kd_utils.common.errors import EvaluateError
from kd_utils.common.tensors import enlarged, to_tensor, to_uint8
from kd_utils.config import Config, make
from kd_utils.data.crops import CropIndex, PhotoPair, load_photo_pairs, read_index
from kd_utils.evaluation import costs, figures, metrics, page, report, viewer
from kd_utils.models import student, tiling
from kd_utils.models.teacher import Teacher, TeacherRef, load_teacher, resolve_teacher, teacher_target
from kd_utils.models.vgg import VGGFeatures, load_vgg, vgg_distance
from kd_utils.training.initialization import resolve_auto_init
from kd_utils.workdir import BASELINE, STUDENT, Workdir

DRIFT = 32  # side of the blocks whose mean colours are compared, in output pixels
VGG_SIDE = 512  # the VGG19 distance is of the central square of at most this side: on a CPU it is slow
SLIDER = (720, 960)  # at most this much of a photo (height, width) goes into a slider: the report stays light


@dataclass
class Shown:
    """A test photo of the panels, with its images by row and "input" and "original": uint8 (H, W, 3) RGB."""

    name: str
    images: dict[str, np.ndarray]
    panel: Path


@dataclass
class Evaluated:
    metrics: Path
    report: Path
    table: str  # plain text
    headline: str
    shown: list[Shown] = field(repr=False)


def require_student(cfg: Config) -> Path:
    """The student to evaluate. Raises EvaluateError where there is none, before the long steps are taken."""
    path = cfg.path("student_model.pth")
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
    index = read_index(cfg)
    require_student(cfg)
    pairs = load_photo_pairs(cfg)
    if not pairs:
        raise EvaluateError("no test photos: set data.test_photos to a folder of photos and run step 1 again")
    notes: list[str] = []
    ref = resolve_teacher(cfg)
    students = _students(cfg, ref, index.key, notes)
    device = devices.resolve_device(cfg.device)
    teach = load_teacher(ref, device)
    vgg = _vgg(cfg, device, notes)
    runs = {row: net.to(device) for row, net in students.items()}

    taught = _teacher_outputs(cfg, teach, pairs, device)
    per_photo: list[dict[str, Any]] = []
    shown: list[Shown] = []
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        for pair, wanted in tqdm(zip(pairs, taught), total=len(pairs), desc="scores", unit="photo"):
            x = to_tensor(pair.lr[None], device)
            images = {"bicubic": to_uint8(enlarged(x, cfg.scale))[0]}
            images |= {row: to_uint8(tiling.run(net, x))[0] for row, net in runs.items()} | {"teacher": wanted}
            jobs = {row: pool.submit(_scores, out, pair.hr, wanted, cfg.scale, row) for row, out in images.items()}
            scores = {row: job.result() for row, job in jobs.items()}
            if vgg:
                for row, out in images.items():
                    scores[row]["vgg"] = _distance(out, pair.hr, vgg, device)
            per_photo.append({"name": pair.name, "size": list(pair.hr.shape[1::-1]), "models": scores})
            if len(shown) < cfg.eval.panels:
                images = {"input": pair.lr} | images | {"original": pair.hr}
                shown.append(_panel(cfg, len(shown), pair.name, images, scores))

    cost, timed = costs.measure(cfg, runs, teach, device)
    result = {
        "teacher": {"name": ref.name, "sha256": ref.sha256, "stand_in": ref.is_stand_in},
        "trained": {row: _trained(cfg, index, ref, row, net, notes) for row, net in students.items()},
        "protocol": {
            "scale": cfg.scale,
            "border": cfg.scale,
            "degradation": cfg.degrade.profile,
            "photos": [pair.name for pair in pairs],
            "photos_trained_on": {s: len(p) for s, p in index.provenance["photos"].items() if s != "test"},
            "vgg": f"{vgg.name}, central {VGG_SIDE}x{VGG_SIDE} at most" if vgg else None,
            "timing": timed,
        },
        "models": {row: _mean([p["models"].get(row, {}) for p in per_photo]) | cost[row] for row in report.ROWS},
        "per_photo": per_photo,
        "notes": notes,
    }
    return _write(cfg, result, shown, students["student"].meta.get("provenance") or {})


def _students(cfg: Config, ref: TeacherRef, crops: str, notes: list[str]) -> dict[str, student.Student]:
    """The rows "student" and, where it was trained, "student_no_teacher"; what the report must admit is noted."""
    found = {}
    work = Workdir.of(cfg)
    places = {"student": work.student(STUDENT), "student_no_teacher": work.student(BASELINE)}
    for row, path in places.items():
        if not path.is_file():
            notes.append("The same student without a teacher was not trained (train.baseline=false): its row is empty.")
            continue
        net = student.load(path)
        if net.scale != cfg.scale:
            raise EvaluateError(f"{path} is a x{net.scale} student: set scale={net.scale}, or train one x{cfg.scale}")
        if made := net.meta.get("provenance"):
            if row == "student" and made.get("train.init"):
                name = Path(made["train.init"]).name
                how = "as its teacher, cut down" if name == "teacher" else f"from {name}"
                notes.append(
                    f"The student began {how}, the one without a teacher from nothing: "
                    "the difference between the two holds that, too."
                )
            want = {"labels.crops": crops, "labels.teacher_sha256": ref.sha256}
            have = {key: made.get(key) for key in want}
            provenance.require_same(path, have, want, "Evaluate with the teacher and crops that it was trained on.")
            if row == "student_no_teacher" and (differ := _unlike(made, found["student"])):
                notes.append(
                    f"The student without a teacher that is here is not the same student ({differ}): its row is empty. "
                    f"Delete {path.parent} and train with train.baseline=true to have it."
                )
                continue
        else:
            notes.append(f"{path.name} does not say what it was trained on: it may have seen the test photos.")
        found[row] = net
    return found


def _unlike(made: dict[str, Any], with_teacher: student.Student) -> str:
    """What of network and training, beside loss and beginning, was otherwise without a teacher than with one."""
    taught = with_teacher.meta.get("provenance") or {}
    keys = [k for k in made.keys() & taught.keys() if k == "seed" or k.startswith(("student.", "train."))]
    keys = sorted(k for k in keys if not k.startswith("train.init") and made[k] != taught[k])
    return "; ".join(f"{k} is {made[k]}, not {taught[k]}" for k in keys)


def _trained(
    cfg: Config, index: CropIndex, ref: TeacherRef, row: str, net: student.Student, notes: list[str]
) -> dict[str, Any]:
    """How a student was made; a note where the settings given now are others.

    What is as the preset has it was not given: notebook 04 does not ask again for what 03's form says.
    """
    made = net.meta.get("provenance") or {}
    preset = make(cfg.preset)
    plain = replace(cfg, student=preset.student, loss=preset.loss, train=preset.train)
    now, usual = (provenance.training_provenance(resolve_auto_init(c, index, ref), {}) for c in (cfg, plain))
    other = sorted(k for k in made.keys() & now.keys() if made[k] != now[k] != usual.get(k))
    other = [f"{k} was {made[k]}, now {now[k]}" for k in other]
    if row == "student" and other:
        notes.append(f"The student was trained with other settings than were given now ({'; '.join(other)}).")
    return {"settings": made, "versions": net.meta.get("versions")}


def _vgg(cfg: Config, device: torch.device, notes: list[str]) -> VGGFeatures | None:
    """ImageNet's VGG19 where the training had it, else a note: random features may teach, but they cannot judge."""
    if cfg.loss.vgg == "random" or (cfg.loss.vgg == "imagenet" and not cfg.loss.uses_vgg):
        notes.append("The VGG19 distance is left out: it needs ImageNet weights (set loss.vgg to their path).")
        return None
    try:
        return load_vgg(cfg.loss.vgg, device=device)
    except sources.SourceError as error:
        notes.append(f"The VGG19 distance is left out: {error}")
        return None


def _teacher_outputs(cfg: Config, teach: Teacher, pairs: list[PhotoPair], device: torch.device) -> list[np.ndarray]:
    """The teacher's picture of each test photo at the student's scale, memory-mapped; those on disk are kept."""
    tiled = lambda x: tiling.run(teach.net, x)  # noqa: E731
    out = []
    for n, pair in enumerate(tqdm(pairs, desc=f"test photos by {teach.ref.name}", unit="photo")):
        path = cfg.path("eval", f"teacher-{n:05d}.safetensors")
        want = provenance.labels_provenance(cfg, teach.ref, files.sha256(pair.lr.tobytes()))
        if not files.is_made(path, **want):
            y = teacher_target(tiled, to_tensor(pair.lr[None], device), cfg.scale, cfg.label.input_scale)
            files.save_arrays(path, {"label": to_uint8(y)[0]}, want)
        out.append(files.load_arrays(path)[0]["label"])
    return out


def _scores(out: np.ndarray, original: np.ndarray, taught: np.ndarray, border: int, row: str) -> dict[str, Any]:
    """All scores of one picture; None for what does not apply or is infinite."""
    scores: dict[str, Any] = {}
    for y, channel in ((True, "y"), (False, "rgb")):
        for name, score in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
            scores[f"{name}_{channel}"] = _finite(score(out, original, border, y))
    for name, score in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        scores[f"{name}_y_teacher"] = None if row == "teacher" else _finite(score(out, taught, border, True))
    return scores | {"drift_rgb": _drift(out, original)}


def _drift(a: np.ndarray, b: np.ndarray) -> list[float]:
    """How far the mean colour of 32x32 blocks is off, per channel, in levels of 255 (mean of absolute differences)."""
    size = [max(1, n // DRIFT) for n in a.shape[1::-1]]
    low = [cv2.resize(x.astype(np.float32), size, interpolation=cv2.INTER_AREA).reshape(-1, 3) for x in (a, b)]
    return [round(float(v), 4) for v in np.abs(low[0] - low[1]).mean(0, dtype=np.float64)]


def _distance(a: np.ndarray, b: np.ndarray, vgg: VGGFeatures, device: torch.device) -> float:
    height, width = (min(VGG_SIDE, n) for n in a.shape[:2])
    a, b = (to_tensor(_centre(x, height, width)[None], device) for x in (a, b))
    return vgg_distance(a, b, vgg).item()


def _centre(x: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over photos of each score; None where one photo has none."""
    out: dict[str, Any] = {}
    for key in (*report.SCORES, "vgg"):
        values = [s.get(key) for s in scores]
        out[key] = None if None in values else statistics.fmean(values)
    drifts = [s.get("drift_rgb") for s in scores]
    out["drift_rgb"] = None if None in drifts else [statistics.fmean(d) for d in zip(*drifts)]
    return out


def _panel(cfg: Config, n: int, name: str, images: dict[str, np.ndarray], scores: dict[str, Any]) -> Shown:
    """The input, bicubic, student, teacher and original of one photo with its two most detailed places, as a file."""
    original = images["original"]
    side = 80 if min(original.shape[:2]) < 700 else 160  # a zoom is shown at 320 pixels: by whole squares
    zooms: list[figures.Box] = []
    for _ in range(2):
        zooms.append(figures.most_detailed(original, side, zooms))
    height, width = images["input"].shape[:2]
    titles = {f"input {width}x{height}": "input"}
    for row in ("bicubic", "student") if cfg.scale > 1 else ("student",):
        db = scores[row]["psnr_y_teacher"]
        titles[f"{row}  {db:.1f} dB" if db else row] = row
    titles |= {"teacher": "teacher", "original": "original"}
    caption = f"{Path(name).stem}: dB are PSNR-Y to the teacher, of the whole photo; degradation: {cfg.degrade.profile}"
    sheet = figures.panel({title: images[row] for title, row in titles.items()}, zooms, caption)
    path = cfg.path("eval", "panels", f"{n:02d}-{Path(name).stem}.png")
    return Shown(name, images, files.write_png(path, sheet))


def _write(cfg: Config, result: dict[str, Any], shown: list[Shown], trained: dict[str, Any]) -> Evaluated:
    folder = cfg.path("eval")
    for stray in set((folder / "panels").glob("*.png")) - {s.panel for s in shown}:
        stray.unlink()  # of an evaluation with more panels
    history = cfg.path("train", "student", "history.json")
    curve = figures.data_uri(figures.curve(files.read_json(history)), "png") if history.is_file() else ""
    pictures = []
    for s in shown:
        size = [min(n, most) for n, most in zip(s.images["original"].shape, SLIDER)]
        before, after, wanted = (_centre(s.images[row], *size) for row in ("bicubic", "student", "teacher"))
        base = "bicubic" if cfg.scale > 1 else "input"
        pairs = {base: before, "student": after}, {"student": after, "teacher": wanted}
        pictures.append((Path(s.name).stem, figures.data_uri(Image.open(s.panel)), [viewer.slider(p) for p in pairs]))
    text = page.html(result, trained, pictures, curve)
    out = Evaluated(
        files.write_json(folder / "metrics.json", result),
        files.write_bytes(folder / "report.html", text.encode()),
        report.table(result),
        report.headline(result),
        shown,
    )
    if cfg.drive:
        for path in (out.metrics, out.report):
            # a new name for new content: Drive loses files that are rewritten
            name = f"{path.stem}-{files.sha256(path)[:8]}{path.suffix}"
            files.backup(path, Path(cfg.drive).expanduser() / "eval" / name)
    return out
