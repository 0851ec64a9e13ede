"""What the notebooks show of data, labels and a training: tables, terms of the loss, live curves and controls.

Images are uint8 (H, W, 3) RGB arrays, tensors are (N, 3, H, W) in [0, 1]. Every picture is lower than a screen.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import HTML, Markdown, display
from PIL import Image
from torch import Tensor

from kd_utils.common import files
from kd_utils.common.tensors import enlarged, to_tensor, to_uint8
from kd_utils.config import Config
from kd_utils.data import degradations
from kd_utils.data.crops import Batch
from kd_utils.evaluation import curves, figures, metrics, viewer
from kd_utils.models.teacher import TeacherRef
from kd_utils.prepare import Prepared
from kd_utils.train import Trained
from kd_utils.training.losses import baseline_config
from kd_utils.training.validation import ValidationEvent
from kd_utils.workdir import training_title

LISTED = 12  # files of a folder that are listed one by one


# ---- tables and words


def table(rows: Iterable[dict[str, object]]) -> HTML:
    """A table with a line for each of `rows`; the keys of the first are the heads of the columns."""
    heads, lines = "", ""
    for row in rows:
        if not heads:
            heads = "".join(f"<th>{escape(str(head))}</th>" for head in row)
        first, *others = (escape(str(value)) for value in row.values())
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines += f'<tr><th style="text-align:left">{first}</th>{cells}</tr>'

    whole = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return HTML(f'<style>{viewer.source("table.css")}</style><div class="kd-table">{whole}</div>')


def prepared_table(made: Prepared) -> HTML:
    """What step 1 made of which photos."""
    rows = [{"part": part, "photos": made.photos[part], "crops": made.crops[part]} for part in ("train", "valid")]
    rows.append({"part": "test", "photos": made.photos["test"], "crops": "whole photos"})
    return table(rows)


def written(*paths: str | Path) -> HTML:
    """The files that a step wrote, with their sizes: the end of every notebook."""
    rows = []
    for path in map(Path, paths):
        found = sorted(filter(_shown, path.rglob("*"))) if path.is_dir() else [path]
        for file in found[:LISTED]:
            size = f"{file.stat().st_size:,}" if file.is_file() else "not there"
            rows.append({"file": file, "bytes": size})
        rest = found[LISTED:]
        if rest:
            size = sum(file.stat().st_size for file in rest)
            rows.append({"file": f"{len(rest)} more files in {path}", "bytes": f"{size:,}"})
    return table(rows)


def _shown(path: Path) -> bool:
    """Whether a path is a file for readers: a lock is none."""
    return path.is_file() and not path.name.startswith(".")


def teacher_note(ref: TeacherRef) -> Markdown:
    """Which network teaches, and a warning where it is not Real-ESRGAN."""
    if ref.is_stand_in:
        return Markdown(
            f"**The teacher is a stand-in.** `{ref.name}` is a student of this project. Real-ESRGAN taught it, and it "
            "teaches here in Real-ESRGAN's place, so that nothing has to be downloaded. What you see shows that the "
            "method works, not how good Real-ESRGAN is. For the real one, choose the teacher `anime_6B`."
        )
    remark = f" {ref.remark}" if ref.remark else ""
    return Markdown(f"The teacher is **{ref.name}**, read from `{ref.path.name}`.{remark}")


def sharpness_table(lr: np.ndarray, labels: np.ndarray, originals: np.ndarray) -> HTML:
    """How sharp enlarged LR pictures and labels (N, H, W, 3) are beside their originals, and how near to them."""
    scale = originals.shape[1] // lr.shape[1]
    plain = to_uint8(enlarged(to_tensor(lr), scale))
    rows = []
    for name, images in (("bicubic enlargement of LR", plain), ("label", labels), ("original", originals)):
        sharpness, psnr = [], []
        for image, original in zip(images, originals, strict=True):
            sharpness.append(metrics.sharpness(image, original, scale) or 1.0)  # None: the original is flat
            psnr.append(metrics.psnr(image, original, scale, y=True))
        row = {"picture": name, "sharpness": f"{np.mean(sharpness):.2f}"}
        row["PSNR-Y to the original, dB"] = "–" if name == "original" else f"{np.mean(psnr):.1f}"
        rows.append(row)
    return table(rows)


def loss_table(cfg: Config, values: dict[str, Tensor]) -> HTML:
    """The terms of the loss, {field of LossConfig: value}, with their weights for the student and the baseline."""
    names = {
        "teacher": "L1 to the label",
        "gt": "L1 to the original",
        "fft": "L1 of the spectra",
        "gradient": "L1 of neighbouring differences",
        "screen": "a printed 4x4 grid",
        "perceptual": "VGG19 features",
    }
    baseline = baseline_config(cfg).loss
    rows = []
    for key, value in values.items():
        row = {"term": names[key], "setting": f"loss.{key}", "value now": f"{value.item():.4f}"}
        row["weight for the student"] = f"{getattr(cfg.loss, key):g}"
        row["weight for the baseline"] = f"{getattr(baseline, key):g}"
        rows.append(row)
    return table(rows)


# ---- crops


def show_crops(numbers: Sequence[int], **columns: np.ndarray) -> Image.Image:
    """Crops below each other, side by side in each of `columns`, which are arrays (N, H, W, 3)."""
    pictures = []
    for i in numbers:
        pictures += [(f"{name} {i}", images[i]) for name, images in columns.items()]
    return figures.grid(pictures, columns=len(columns), cell=220)


def show_batch(batch: Batch, count: int = 4) -> Image.Image:
    """The first crops of a batch as it is read, uint8 (N, H, W, 3): LR, label and original below each other."""
    pictures = []
    for name, images in (("LR", batch.lr), ("label", batch.label), ("original", batch.hr)):
        pictures += [(f"{name} {i}", image) for i, image in enumerate(images[:count].numpy())]
    return figures.grid(pictures, columns=min(count, len(batch.lr)), cell=190)


def show_degradation(photo: np.ndarray, seed: int, scale: int, profile: str) -> Image.Image:
    """What each step of a degradation makes of a photo (H, W, 3), from the original to the LR picture."""
    steps = degradations.stages(photo, seed, scale, profile)
    last = len(steps) - 1
    pictures = []
    for n, (title, image) in enumerate(steps):
        caption = f"{n}. {title}" if n else title
        if n == last:
            caption += ": the LR picture"
        pictures.append((caption, image))
    return figures.grid(pictures, columns=6, cell=165)


# ---- the terms of the loss


def show_error(pred: Tensor, label: Tensor) -> Image.Image:
    """The student's picture, the label and their absolute difference, of the first crop."""
    student, wanted = to_uint8(pred[:1])[0], to_uint8(label[:1])[0]
    error = figures.error_map(student, wanted)
    return figures.grid([("student", student), ("label", wanted), ("absolute error, bright: large", error)], cell=280)


def show_spectra(pred: Tensor, label: Tensor) -> Image.Image:
    """The logarithm of the 2-d spectra of the same pictures: low frequencies in the middle, high ones outside."""
    spectra = []
    for x in (pred, label, pred - label):
        grey = x[0].detach().float().mean(0)  # (H, W)
        spectra.append(torch.fft.fftshift(torch.fft.fft2(grey)).abs().log1p())
    brightest = spectra[1].max()
    images = [_grey(spectrum / brightest) for spectrum in spectra]
    return figures.grid(list(zip(["student", "label", "their difference"], images, strict=True)), cell=280)


def show_differences(pred: Tensor, label: Tensor) -> Image.Image:
    """How much neighbouring pixels differ in the same pictures, across and down together: bright lines are edges."""
    edges = []
    for x in (pred, label):
        grey = x[0].detach().float().mean(0)  # (H, W)
        edges.append(grey.diff(dim=0)[:, 1:].abs() + grey.diff(dim=1)[1:].abs())
    brightest = edges[1].quantile(0.99).clamp(min=1e-3)
    images = [_grey(x / brightest) for x in (*edges, (edges[0] - edges[1]).abs())]
    return figures.grid(list(zip(["student", "label", "their difference"], images, strict=True)), cell=280)


def show_squares(pred: Tensor, label: Tensor, count: int = 3) -> Image.Image:
    """The first squares of the student's pictures and of the labels that VGG19 compares, pair by pair."""
    pictures = []
    for i, (student, wanted) in enumerate(zip(to_uint8(pred[:count]), to_uint8(label[:count]), strict=True)):
        pictures += [(f"student {i}", student), (f"label {i}", wanted)]
    return figures.grid(pictures, columns=6, cell=160)


def _grey(x: Tensor) -> np.ndarray:
    """(H, W), black at 0 and white from 1 on, as a picture."""
    return to_uint8(x.clamp(0, 1)[None, None].expand(1, 3, -1, -1))[0]


# ---- a training while it runs


def live() -> Callable[[ValidationEvent], None]:
    """A `watch` for `train.train`: the curve and the validation pictures of each training, renewed in place."""
    places: dict[tuple[str, str], Any] = {}

    def watch(seen: ValidationEvent) -> None:
        step = seen.history.valid[-1].step
        pictures = {
            "curve": curves.curve(seen.history.to_dict(), title=f"{training_title(seen.name)}, step {step}"),
            "pictures": figures.grid(seen.pictures, columns=4, cell=180),
        }
        for kind, picture in pictures.items():
            place = places.get((seen.name, kind))
            if place:
                place.update(picture)
            else:
                places[seen.name, kind] = display(picture, display_id=True)

    return watch


def show_curves(trained: Trained) -> Image.Image:
    """The curves of the student and, where it was trained, of the baseline in one figure."""
    history = files.read_json(trained.history)
    if not trained.baseline:
        return curves.curve(history)
    baseline = files.read_json(trained.baseline.parent / "history.json")
    return curves.curve(history, baseline=baseline)


# ---- controls of a running notebook


def explore_degradation(photo: np.ndarray, scale: int) -> Any:
    """A widget that degrades a photo by a seed, a profile and a scale of one's choice."""
    import ipywidgets as widgets

    def draw(seed: int, profile: str, scale: int) -> Image.Image:
        return show_degradation(photo, seed, scale, profile)

    seeds = widgets.IntSlider(3, 0, 99, description="seed")
    profiles = widgets.Dropdown(options=degradations.PROFILES, value="two_order", description="profile")
    scales = widgets.Dropdown(options=degradations.SCALES, value=scale, description="scale")
    return with_picture(draw, seeds, profiles, scales)


def with_picture(draw: Callable[..., Image.Image], *controls: Any) -> Any:
    """Controls above what `draw` makes of their values: now, and again when one of them changes."""
    import ipywidgets as widgets

    picture = widgets.Image(format="png")

    def redraw(_: Any = None) -> None:
        buffer = io.BytesIO()
        draw(*(control.value for control in controls)).save(buffer, "PNG")
        picture.value = buffer.getvalue()

    redraw()
    for control in controls:
        control.observe(redraw, "value")
    return widgets.VBox([widgets.HBox(controls), picture])
