"""The curves of a training as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

CURVES = ("loss", "validation")  # the parts of a figure of curves
BLUE, RED, ORANGE, GREY = "#1d7ed6", "#e63946", "#e08a00", "#626a76"


def curve(
    history: dict[str, Any],
    title: str = "",
    width: int = 1000,
    height: int = 360,
    baseline: dict[str, Any] | None = None,
    parts: Sequence[str] = CURVES,
) -> Image.Image:
    """The loss by step (thin: each step; thick: smoothed) and the validation scores, side by side, or one of them.

    `history` is train/student/history.json: {"step": [...], "loss": [...], "valid": [{"step", "psnr_y_teacher",
    "psnr_y"}, ...]}; what is missing or null is left out. The `baseline`'s is drawn dashed into the same figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for part, axes in zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True):
        if part == "loss":
            if baseline:
                _draw_loss(axes, baseline, ORANGE, "baseline")
            _draw_loss(axes, history, BLUE, "student")
            axes.set_title("training loss", loc="left")
        else:
            _draw_validation(axes, history, "-", "student " if baseline else "")
            if baseline:
                _draw_validation(axes, baseline, "--", "baseline ")
            axes.set_title("validation PSNR-Y, dB", loc="left")

        if axes.lines and (part == "validation" or baseline):
            axes.legend(frameon=False)
        axes.set_xlabel("step")
        axes.grid(True, which="major", color="#e4e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _draw_loss(axes: Any, history: dict[str, Any], color: str, label: str) -> None:
    steps, values = np.array(history.get("step", [])), np.array(history.get("loss", []), float)
    if not len(values):
        return

    span = max(1, len(values) // 50)
    padded = np.concatenate([np.full(span - 1, values[:span].mean()), values])
    smooth = np.convolve(padded, np.full(span, 1 / span), "valid")
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8, label="_each step")  # not in the legend
    axes.plot(steps, smooth, color=color, linewidth=1.8, label=label)
    if values.min() > 0:
        axes.set_yscale("log")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(lambda value, _: f"{value:g}")


def _draw_validation(axes: Any, history: dict[str, Any], style: str, whose: str) -> None:
    for key, label, color in (("psnr_y_teacher", "to the teacher", RED), ("psnr_y", "to the original", GREY)):
        points = [(v["step"], v[key]) for v in history.get("valid", []) if v.get(key) is not None]
        if points:
            look = {"color": color, "linestyle": style, "marker": "o", "markersize": 3.5, "linewidth": 1.8}
            axes.plot(*zip(*points, strict=True), label=whose + label, **look)
