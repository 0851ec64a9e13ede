"""The results table: every model on every set and degradation. `make results`, or python -m benchmarks.results --help

Scores are on the centre (at most --side) of each photo, PSNR and SSIM on Y without a border of `scale` pixels, the
VGG19 distance on RGB; means over photos with 95% bootstrap intervals (percentile, 10,000 draws of photos, seed 0).
Scores of a model, photo and degradation are kept in --workdir: what has not changed is not computed again. The times
are taken in turns in one run, in PyTorch as `sharpen` runs it on a CPU. Writes docs/RESULTS.md, the table of README.md
between its markers, and with --panels pictures of all models (photos of others do not go into the repository).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_utils import provenance, sharpen
from kd_utils.common import files
from kd_utils.common.tensors import bicubic, to_tensor, to_uint8
from kd_utils.config import ROOT
from kd_utils.data.degradations import degrade
from kd_utils.evaluation import figures, metrics, timing
from kd_utils.imaging import reading
from kd_utils.models import student, teacher, tiling
from kd_utils.models.vgg import load_vgg, vgg_distance

WEIGHTS = ROOT / "assets" / "weights"
X4 = {
    "student s": "student_x4_s.pth",
    "student m": "student_x4_m.pth",
    "student l": "student_x4_l.pth",
    "s, same steps": "before/student_x4_s_2.pth",  # as many as the next, which shows what the teacher brings
    "s, no teacher": "student_x4_s_no_teacher.pth",
}
SCORES = {  # key -> title, digits
    "psnr": ("PSNR-Y", 2),
    "ssim": ("SSIM-Y", 4),
    "vgg": ("VGG19", 3),
    "psnr_teacher": ("PSNR-Y to the teacher", 2),
    "ssim_teacher": ("SSIM-Y to the teacher", 4),
}


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


def blurred(sigma: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """Scale 1: a Gaussian blur, then noise of sigma 2 and JPEG at 85."""

    def make(hr: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(0, 2, hr.shape)
        soft = np.clip(np.rint(cv2.GaussianBlur(hr.astype(np.float32), (0, 0), sigma) + noise), 0, 255).astype(np.uint8)
        return cv2.cvtColor(cv2.imdecode(cv2.imencode(".jpg", soft[..., ::-1], [1, 85])[1], 1), cv2.COLOR_BGR2RGB)

    return make


def profile(name: str, scale: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda hr, seed: degrade(hr[None], [seed], scale, name)[0]


DEGRADATIONS = {
    4: {name: profile(name, 4) for name in ("bicubic", "light", "two_order")},
    1: {"light": profile("light", 1)} | {f"blur {s:g}": blurred(s) for s in (1.0, 1.5, 2.5)},
}


def cases(folder: Path, side: int, degradation: str, scale: int) -> list[Case]:
    """The centre of each photo of a folder and its degraded input; a function of the photo alone."""
    found = []
    for path in reading.list_images(folder):
        hr = reading.read_rgb(path)
        h, w = (min(n, side) // 8 * 8 for n in hr.shape[:2])
        y, x = (hr.shape[0] - h) // 2, (hr.shape[1] - w) // 2
        hr = np.ascontiguousarray(hr[y : y + h, x : x + w])
        seed = int(files.digest(["results", files.sha256(path)]), 16) >> 2
        lr = DEGRADATIONS[scale][degradation](hr, seed)
        found.append(Case(path.stem, files.digest([files.sha256(hr.tobytes()), files.sha256(lr.tobytes())]), hr, lr))
    return found


@torch.inference_mode()
def score(models: list[Model], case: Case, scale: int, teach: Model | None, vgg: Any, cache: Path) -> dict[str, dict]:
    """Scores of each model's picture, from the cache where they are known."""
    by = f"-{teach.key[:16]}" if teach else ""  # scores to the teacher are in it too
    paths = {m.name: cache / f"{m.key[:16]}-{case.key[:16]}{by}.json" for m in models}
    found = {name: files.read_json(path) if path.is_file() else {} for name, path in paths.items()}
    judge = files.sha256(vgg.features[0].weight.numpy().tobytes())[:16] if vgg else None
    new = {m.name: m for m in models if not found[m.name] or (vgg and found[m.name].get("vgg_by") != judge)}
    taught = _taught(teach, case, cache.parent / "teacher") if teach else None
    out = {name: taught if m is teach else picture(m, case) for name, m in new.items()}
    for name, image in out.items():
        for suffix, ref in (("", case.hr), ("_teacher", taught)):
            if ref is not None and ref is not image:
                found[name][f"psnr{suffix}"] = min(metrics.psnr(image, ref, scale, True), 100.0)
                found[name][f"ssim{suffix}"] = metrics.ssim(image, ref, scale, True)
    far: list[Any] = [None] * len(out)
    if vgg and out:
        far = vgg_distance(to_tensor(np.stack(list(out.values()))), to_tensor(case.hr[None]), vgg).tolist()
    for name, distance in zip(out, far, strict=True):
        found[name] |= {"vgg": distance, "vgg_by": judge}
        files.write_json(paths[name], found[name])
    return found


@torch.inference_mode()
def picture(model: Model, case: Case) -> np.ndarray:
    return to_uint8(model.run(to_tensor(case.lr[None])))[0]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95% percentile bootstrap interval of the mean over photos."""
    v = np.array(values)
    means = v[np.random.default_rng(0).integers(len(v), size=(10_000, len(v)))].mean(1)
    return float(v.mean()), *(float(q) for q in np.percentile(means, [2.5, 97.5]))


def show_score(key: str, values: list[Any]) -> str:
    if any(v is None for v in values):
        return ""
    digits = SCORES[key][1]
    mean, low, high = interval(values)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(rows: dict[str, list[dict[str, Any]]], keys: list[str]) -> str:
    """Markdown: a row a model, a column a score."""
    lines = ["| | " + " | ".join(SCORES[k][0] for k in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, scores in rows.items():
        cells = [show_score(k, [s.get(k) for s in scores]) for k in keys]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


@torch.inference_mode()
def costs(models: list[Model], scale: int, side: int, turns: int) -> dict[str, dict[str, float]]:
    """Parameters, GMAC and milliseconds for an output of 1024 x 1024, by turns in one run; medians."""
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    quick = {m.name: sharpen._torch(m.net, torch.device("cpu")) if m.net else m.run for m in models}
    took = timing.time_interleaved({name: partial(run, x) for name, run in quick.items()}, turns)
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
    side = min(160, min(case.hr.shape[:2]) // 3)
    first = figures.most_detailed(case.hr, side, [])
    zooms = [first, figures.most_detailed(case.hr, side, [first])]
    files.write_png(path, figures.panel(pictures | {"original": case.hr}, zooms, case.photo))


def measure(args: argparse.Namespace, scale: int, models: list[Model], teach: Model | None, vgg: Any) -> dict:
    """{(set, degradation): {model: scores of its photos}}, and a panel of each photo."""
    found: dict[tuple[str, str], dict[str, list]] = {}
    sets = {"valid": args.valid, "Set5": args.set5}
    for title, folder in sets.items():
        for name in DEGRADATIONS[scale]:
            todo = cases(folder, args.side, name, scale)
            rows: dict[str, list] = {m.name: [] for m in models}
            for case in tqdm(todo, desc=f"x{scale} {title} {name}", unit="photo"):
                for model, scores in score(models, case, scale, teach, vgg, args.workdir / "scores").items():
                    rows[model].append(scores)
                if args.panels:
                    pictures = {m.name: picture(m, case) for m in models}
                    panel(case, pictures, args.workdir / "panels" / f"x{scale}-{title}-{name}-{case.photo}.png")
            found[title, name] = rows
    return found


def _taught(teach: Model, case: Case, cache: Path) -> np.ndarray:
    """The teacher's picture of a case, kept."""
    path = cache / f"{teach.key[:16]}-{case.key[:16]}.safetensors"
    if not path.is_file():
        files.save_arrays(path, {"out": picture(teach, case)}, {})
    return files.load_arrays(path)[0]["out"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valid", type=Path, required=True, help="a folder of photos that no training saw")
    parser.add_argument("--set5", type=Path, required=True, help="the originals of Set5")
    parser.add_argument("--teacher", default="general_x4v3", help="a registry name or a checkpoint")
    parser.add_argument("--peer", default="animevideov3", help="what a user would take instead; the same")
    parser.add_argument("--vgg", default="", help="ImageNet's VGG19; without it the VGG19 distance is left out")
    parser.add_argument("--side", type=int, default=384, help="of the centre that is scored, in HR pixels")
    parser.add_argument("--time-side", type=int, default=256, help="of the input that is timed")
    parser.add_argument("--turns", type=int, default=5, help="of the timing")
    parser.add_argument("--panels", action="store_true", help="also draw all models of each photo")
    parser.add_argument("--workdir", type=Path, default=Path("workdir/results"))
    parser.add_argument("--dry", action="store_true", help="print the tables, write no document")
    args = parser.parse_args(argv)
    vgg = load_vgg(args.vgg) if args.vgg else None
    if not vgg:
        print("The VGG19 distance is LEFT OUT: --vgg names no ImageNet weights.")
    x4 = [Model("bicubic", "bicubic-x4", lambda x: bicubic(x, (4 * x.shape[2], 4 * x.shape[3])), None)]
    for name, file in X4.items():
        if (WEIGHTS / file).is_file():
            x4.append(load(name, WEIGHTS / file))
        else:
            print(f"{name} is LEFT OUT: there is no {file}")
    for name, given in ((teacher.find_teacher(args.peer).path.stem, args.peer), ("teacher", args.teacher)):
        big = teacher.load_teacher(teacher.find_teacher(given))
        x4.append(Model(name, big.sha256, big, big.net))
    x4[-1].key = "t" + x4[-1].key  # as the teacher it has no scores to itself, the same file as a peer has
    x1 = [Model("the input", "input-x1", lambda x: x, None), load("student x1 s", WEIGHTS / "student_x1_s.pth")]
    four, one = measure(args, 4, x4, x4[-1], vgg), measure(args, 1, x1, None, vgg)
    timed = costs(x4, 4, args.time_side, args.turns)
    keys = [k for k in SCORES if vgg or k != "vgg"]
    text = document(args, four, one, timed, keys)
    print(text)
    if not args.dry:
        files.write_bytes(ROOT / "docs" / "RESULTS.md", text.encode())
        readme(ROOT / "README.md", four, timed, keys)


def cost_table(timed: dict[str, dict[str, float]]) -> str:
    lines = [
        "| | parameters | GMAC for 1024x1024 | ms for 1024x1024, CPU | of the teacher's |",
        "|---|---|---|---|---|",
    ]
    whole = timed["teacher"]["ms"]
    for name, c in timed.items():
        size = f"{c['params']:,} | {c['gmac']:.1f}" if "params" in c else " | "
        lines.append(f"| {name} | {size} | {c['ms']:.0f} | {c['ms'] / whole:.3f} |")
    return "\n".join(lines)


def document(args: argparse.Namespace, four: dict, one: dict, timed: dict, keys: list[str]) -> str:
    versions = provenance.versions()
    parts = [
        "# Results",
        "Made by `make results`; do not edit. Photos that no training saw, the centre "
        f"({args.side}x{args.side} at most) of each. Means over photos, in brackets 95% bootstrap intervals. "
        "PSNR-Y, SSIM-Y and the VGG19 distance (lower is nearer) are to the original unless they say to the teacher. "
        f"Teacher: {teacher.find_teacher(args.teacher).path.stem}. What each model is: assets/weights/*.md.",
        f"torch {versions['torch']}, CPU, {torch.get_num_threads()} threads, fp32.",
        "## Cost, x4",
        "Times by turns in one run, medians; trust the ratios.",
        cost_table(timed),
    ]
    for (title, name), rows in four.items():
        parts += [f"## x4 · {title} · {name} ({len(next(iter(rows.values())))} photos)", table(rows, keys)]
        base = [s["psnr_teacher"] for s in rows["bicubic"]]
        gains = [
            f"{m} {interval([a['psnr_teacher'] - b for a, b in zip(scores, base, strict=True)])[0]:+.2f}"
            for m, scores in rows.items()
            if m not in ("bicubic", "teacher")
        ]
        parts.append(f"PSNR-Y to the teacher above bicubic's, dB: {', '.join(gains)}.")
    for (title, name), rows in one.items():
        parts += [f"## Same size (scale 1) · {title} · {name} ({len(next(iter(rows.values())))} photos)"]
        parts.append(table(rows, [k for k in keys if not k.endswith("_teacher")]))
        base = [s["psnr"] for s in rows["the input"]]
        lost = sum(a["psnr"] < b for a, b in zip(rows["student x1 s"], base, strict=True))
        parts.append(f"Behind its input in PSNR-Y on {lost} of {len(base)} photos.")
    return "\n\n".join(parts) + "\n"


def readme(path: Path, four: dict, timed: dict, keys: list[str]) -> None:
    """The short table, of valid and light, between the two markers of README.md."""
    begin, end = "<!-- results -->", "<!-- /results -->"
    text = path.read_text()
    if begin not in text or end not in text:
        raise SystemExit(f"{path} has no {begin} ... {end}: the table was not written")
    rows = four["valid", "light"]
    lines = ["| | GMAC | " + " | ".join(SCORES[k][0] for k in keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for name, scores in rows.items():
        cells = [show_score(k, [s.get(k) for s in scores]) for k in keys]
        cost = f"{timed[name]['gmac']:.1f}" if "gmac" in timed[name] else ""
        lines.append("| " + " | ".join([name, cost, *cells]) + " |")
    before, rest = text.split(begin)
    body = f"{begin}\n" + "\n".join(lines) + f"\n{end}"
    files.write_bytes(path, (before + body + rest.split(end)[1]).encode())


if __name__ == "__main__":
    main()
