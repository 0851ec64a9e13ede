"""The results table: every model on every set and degradation. `make results`, or python -m benchmarks.results --help

Scores are on the centre (at most --side) of each photo, PSNR and SSIM on Y without a border of `scale` pixels, the
VGG19 distance on RGB, sharpness (mean gradient of Y) over the teacher's, once for each --teacher; means over photos,
95% bootstrap intervals (percentile, 10,000 draws of photos, seed 0). Scores of a model, photo and degradation are kept
in --workdir: what has not changed is not computed again. The times are taken in turns in one run, in PyTorch as
`sharpen` runs it on a CPU. Writes docs/RESULTS.md, the tables of README.md between its markers, and with --panels
pictures of all models (photos of others do not go into the repository).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks import tables
from benchmarks.tables import Rows
from kd_utils.common import files
from kd_utils.common.tensors import bicubic, to_tensor, to_uint8
from kd_utils.data.degradations import degrade
from kd_utils.evaluation import figures, metrics
from kd_utils.evaluation.costs import time_interleaved
from kd_utils.evaluation.perceptual import Judges
from kd_utils.evaluation.scores import Scores
from kd_utils.imaging import folders, reading
from kd_utils.models import engines, shipped, student, teacher, tiling
from kd_utils.models.vgg import load_vgg
from kd_utils.own_files import ROOT

WEIGHTS = ROOT / "assets" / "weights"
FAMILIES = {"x4plus": "photo", "anime_6B": "anime"}  # by teacher
WITHOUT_TEACHER = {"s, no teacher": "before/student_x4_s_no_teacher.pth"}
PERFECT = 100.0  # dB; stands for the infinite PSNR of equal images, so that a mean can be taken


@dataclass
class Model:
    name: str
    key: str  # sha256 of its weights: its scores are kept under it
    run: Callable[[Tensor], Tensor]  # (1, 3, h, w) -> (1, 3, h scale, w scale)
    net: torch.nn.Module | None


@dataclass
class Case:
    photo: str
    key: str  # of photo and degradation
    hr: np.ndarray
    lr: np.ndarray


def gaussian_blur(sigma: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """Scale 1: a Gaussian blur, then noise of sigma 2 and JPEG at 85."""

    def make(hr: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(0, 2, hr.shape)
        soft = np.clip(np.rint(cv2.GaussianBlur(hr.astype(np.float32), (0, 0), sigma) + noise), 0, 255).astype(np.uint8)
        return cv2.cvtColor(cv2.imdecode(cv2.imencode(".jpg", soft[..., ::-1], [1, 85])[1], 1), cv2.COLOR_BGR2RGB)

    return make


def profile(name: str, scale: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda hr, seed: degrade(hr[None], [seed], scale, name)[0]


PROFILES = ("bicubic", "light", "blurred", "two_order")
DEGRADATIONS = {
    4: {name: profile(name, 4) for name in PROFILES},
    2: {name: profile(name, 2) for name in PROFILES},
    1: {"light": profile("light", 1)} | {f"blur {s:g}": gaussian_blur(s) for s in (1.0, 1.5, 2.5)},
}


def cases(folder: Path, side: int, degradation: str, scale: int) -> list[Case]:
    """The centre of each photo of a folder and its degraded input; a function of the photo alone."""
    found = []
    for path in folders.list_images(folder):
        hr = reading.read_rgb(path)
        h, w = (min(n, side) // 8 * 8 for n in hr.shape[:2])
        y, x = (hr.shape[0] - h) // 2, (hr.shape[1] - w) // 2
        hr = np.ascontiguousarray(hr[y : y + h, x : x + w])
        seed = int(files.digest(["results", files.sha256(path)]), 16) >> 2
        lr = DEGRADATIONS[scale][degradation](hr, seed)
        found.append(Case(path.stem, files.digest([files.sha256(hr.tobytes()), files.sha256(lr.tobytes())]), hr, lr))
    return found


@torch.inference_mode()
def score(
    models: list[Model], case: Case, scale: int, teach: Model | None, judges: Judges, cache: Path
) -> dict[str, Scores]:
    """Scores of each model's picture, from the cache where they are known."""
    # a file of the cache is named by the model, the case, and all that judged
    judge = files.sha256(judges.vgg.features[0].weight.numpy().tobytes()) if judges.vgg else "none"
    paths = {}
    for model in models:
        by = files.digest([model.key, case.key, teach.key if teach else "", judge, sorted(tables.SCORES)])
        paths[model.name] = cache / f"{by}.json"
    found = {name: Scores(**files.read_json(path)) for name, path in paths.items() if path.is_file()}

    new = [model for model in models if model.name not in found]
    label = taught(teach, case, cache.parent / "teacher") if teach else None
    images = {model.name: label if model is teach else picture(model, case) for model in new}
    for name, image in images.items():
        found[name] = metrics.score(image, case.hr, label, scale)
        _cap(found[name], image is not label and label is not None)
    judges.score(found, images, case.hr, label)

    for name in images:
        files.write_json(paths[name], asdict(found[name]))
    return {model.name: found[model.name] for model in models}


def _cap(scores: Scores, has_label: bool) -> None:
    """Equal images have an infinite PSNR, which `metrics.score` leaves out: here it counts."""
    if scores.psnr_y is None:
        scores.psnr_y = PERFECT
    if has_label and scores.psnr_y_teacher is None:
        scores.psnr_y_teacher = PERFECT


@torch.inference_mode()
def picture(model: Model, case: Case) -> np.ndarray:
    return to_uint8(model.run(to_tensor(case.lr[None])))[0]


@torch.inference_mode()
def costs(models: list[Model], scale: int, side: int, turns: int) -> dict[str, dict[str, float]]:
    """Parameters, GMAC and milliseconds for an output of 1024 x 1024, by turns in one run; medians."""
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    quick = {m.name: engines.torch_engine(m.net, torch.device("cpu")) if m.net else m.run for m in models}
    took = time_interleaved({name: partial(run, x) for name, run in quick.items()}, turns)
    out = {}
    for m in models:
        out[m.name] = {"ms": took[m.name] * (1024 / (side * scale)) ** 2}
        if m.net:
            out[m.name] |= {"params": student.count_parameters(m.net), "gmac": student.gmac(m.net, scale)}
    return out


def load(name: str, path: Path) -> Model:
    net = student.load(path)
    return Model(name, files.sha256(path), lambda x: tiling.run(net, x).clamp(0, 1), net)


def panel(case: Case, pictures: dict[str, np.ndarray], path: Path) -> None:
    zooms = figures.spread_zooms(case.hr, min(160, min(case.hr.shape[:2]) // 3), 2)
    files.write_png(path, figures.panel(pictures | {"original": case.hr}, zooms, case.photo))


def measure(
    args: argparse.Namespace,
    sets: dict[str, Path],
    degradations: list[str],
    scale: int,
    models: list[Model],
    teach: Model | None,
    judges: Judges,
) -> dict[tuple[str, str], Rows]:
    """The scores by set and degradation, and a panel of each photo."""
    found: dict[tuple[str, str], Rows] = {}
    for title, folder in sets.items():
        for name in degradations:
            rows: Rows = {model.name: [] for model in models}
            todo = cases(folder, args.side, name, scale)
            for case in tqdm(todo, desc=f"x{scale} {title} {name}", unit="photo"):
                scores = score(models, case, scale, teach, judges, args.workdir / "scores")
                for model, of_photo in scores.items():
                    rows[model].append(of_photo)
                if args.panels:
                    pictures = {model.name: picture(model, case) for model in models}
                    panel(case, pictures, args.workdir / "panels" / f"x{scale}-{title}-{name}-{case.photo}.png")
            found[title, name] = rows
    return found


def taught(teach: Model, case: Case, cache: Path) -> np.ndarray:
    """The teacher's picture of a case, kept."""
    path = cache / f"{teach.key[:16]}-{case.key[:16]}.safetensors"
    if not path.is_file():
        files.save_arrays(path, {"out": picture(teach, case)}, {})
    return files.load_arrays(path)[0]["out"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valid", type=Path, required=True, help="a folder of photos that no training saw")
    parser.add_argument("--set5", type=Path, required=True, help="the originals of Set5")
    parser.add_argument("--teacher", nargs="+", default=list(FAMILIES), help="registry names or checkpoints")
    parser.add_argument("--peer", default="animevideov3", help="what a user would take instead; the same")
    parser.add_argument("--vgg", default="", help="ImageNet's VGG19; without it the VGG19 distance is left out")
    parser.add_argument("--side", type=int, default=384, help="of the centre that is scored, in HR pixels")
    parser.add_argument("--time-side", type=int, default=128, help="of the input that is timed")
    parser.add_argument("--turns", type=int, default=5, help="of the timing")
    parser.add_argument("--readme", action="store_true", help="only README's tables: valid, light, x4")
    parser.add_argument("--panels", action="store_true", help="also draw all models of each photo")
    parser.add_argument("--workdir", type=Path, default=Path("workdir/results"))
    parser.add_argument("--dry", action="store_true", help="print the tables, write no document")
    args = parser.parse_args(argv)
    judges = Judges(torch.device("cpu"), load_vgg(args.vgg) if args.vgg else None, side=None)
    if not judges.vgg:
        print("The VGG19 distance is LEFT OUT: --vgg names no ImageNet weights.")

    sets = {"valid": args.valid} if args.readme else {"valid": args.valid, "Set5": args.set5}
    degradations = ["light"] if args.readme else list(DEGRADATIONS[4])

    four, timed = {}, {"bicubic": bicubic_by(4)}
    for name in args.teacher:
        models = models_x4(name, args.peer)
        four[models[-1].name] = measure(args, sets, degradations, 4, models, models[-1], judges)
        timed |= {model.name: model for model in models if model.net}

    keys = [key for key in tables.SCORES if judges.vgg or key not in tables.VGG]
    if not args.dry:
        in_readme = {name: of_teacher for name, of_teacher in four.items() if name in FAMILIES}
        tables.readme(ROOT / "README.md", in_readme, [key for key in keys if key in tables.IN_README])
    if args.readme:
        return

    x2 = models_x2()
    two = measure(args, sets, list(DEGRADATIONS[2]), 2, x2, x2[-1], judges)
    x1 = [
        Model("the input", "input-x1", lambda x: x, None),
        load("student x1 photo-s", WEIGHTS / "student_x1_photo_s.pth"),
    ]
    one = measure(args, sets, list(DEGRADATIONS[1]), 1, x1, None, judges)
    cost = costs(one_of_a_size(list(timed.values())), 4, args.time_side, args.turns)

    text = tables.document(args.side, four | {x2[-1].name: two}, one, cost, keys)
    print(text)
    if not args.dry:
        files.write_bytes(ROOT / "docs" / "RESULTS.md", text.encode())


def bicubic_by(scale: int) -> Model:
    """Plain enlargement."""
    return Model("bicubic", f"bicubic-x{scale}", lambda x: bicubic(x, (scale * x.shape[2], scale * x.shape[3])), None)


def resized_down(name: str, key: str, net: torch.nn.Module) -> Model:
    """A x4 network at scale 2, as `sharpen --scale 2` takes it."""

    def run(x: Tensor) -> Tensor:
        return bicubic(tiling.run(net, x), (2 * x.shape[2], 2 * x.shape[3])).clamp(0, 1)

    return Model(f"{name}, resized down", key, run, None)


def models_x2() -> list[Model]:
    """Bicubic, the student of scale 2, two of scale 4 resized down, and last x4plus resized down, which taught them."""
    models = [bicubic_by(2), load("student x2 photo-s", WEIGHTS / "student_x2_photo_s.pth")]
    for name in ("photo-s", "photo-m"):
        path = shipped.find_student(name, 4)
        models.append(resized_down(f"student {name}", "x2" + files.sha256(path), student.load(path)))
    ref = teacher.find_teacher("x4plus")
    return [*models, resized_down("x4plus", "t2" + ref.sha256, teacher.load_teacher(ref).net)]


def models_x4(teacher_name: str, peer_name: str) -> list[Model]:
    """Bicubic, those of our students that this teacher taught, one without a teacher, the peer, the teacher last."""
    models = [bicubic_by(4)]
    family = FAMILIES.get(teacher_name)
    for name in shipped.shipped_names(4):
        if family in (None, name.split("-")[0]):
            models.append(load(f"student {name}", shipped.find_student(name)))
    models += [load(name, WEIGHTS / file) for name, file in WITHOUT_TEACHER.items()]

    for given in (peer_name, teacher_name):
        ref = teacher.find_teacher(given)
        net = teacher.load_teacher(ref).net
        models.append(Model(f"{ref.path.stem if given == peer_name else ref.name}", ref.sha256, net, net))
    models[-1].key = "t" + models[-1].key  # as the teacher it has no scores to itself, the same file as a peer has
    return models


def one_of_a_size(models: list[Model]) -> list[Model]:
    """Students of one size cost the same: the first of each stays. So does what is no student."""
    found = {}
    for model in models:
        is_student = model.name.startswith("student ")
        size = student.count_parameters(model.net) if is_student and model.net else model.name
        found.setdefault(size, model)
    return list(found.values())


if __name__ == "__main__":
    main()
