"""The tables of results in Markdown: docs/RESULTS.md and the short one of the README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kd_utils import provenance
from kd_utils.common import files
from kd_utils.evaluation.scores import Scores

SCORES = {  # field of Scores -> title, digits
    "psnr_y": ("PSNR-Y", 2),
    "ssim_y": ("SSIM-Y", 4),
    "vgg": ("VGG19", 3),
    "psnr_y_teacher": ("PSNR-Y to the teacher", 2),
    "ssim_y_teacher": ("SSIM-Y to the teacher", 4),
    "vgg_teacher": ("VGG19 to the teacher", 3),
    "sharpness": ("sharpness over the teacher's", 2),
}
TO_THE_TEACHER = {"psnr_y_teacher", "ssim_y_teacher", "vgg_teacher", "sharpness"}
VGG = {"vgg", "vgg_teacher"}
IN_README = TO_THE_TEACHER | {"vgg"}

# What one model scored on each photo of a set, by model.
Rows = dict[str, list[Scores]]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95% percentile bootstrap interval of the mean over photos."""
    v = np.array(values)
    means = v[np.random.default_rng(0).integers(len(v), size=(10_000, len(v)))].mean(1)
    return float(v.mean()), *(float(q) for q in np.percentile(means, [2.5, 97.5]))


def show_score(key: str, values: list[float | None]) -> str:
    if any(v is None for v in values):
        return ""
    digits = SCORES[key][1]
    mean, low, high = interval(values)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def score_cells(scores: list[Scores], keys: list[str]) -> list[str]:
    return [show_score(key, [getattr(s, key) for s in scores]) for key in keys]


def header(keys: list[str], before: str = "| |") -> list[str]:
    """The two first lines of a Markdown table: `before` are its first columns."""
    columns = before.count("|") - 1 + len(keys)
    return [f"{before} " + " | ".join(SCORES[key][0] for key in keys) + " |", "|---" * columns + "|"]


def table(rows: Rows, keys: list[str]) -> str:
    """Markdown: a row a model, a column a score."""
    lines = header(keys)
    for name, scores in rows.items():
        lines.append("| " + " | ".join([name, *score_cells(scores, keys)]) + " |")
    return "\n".join(lines)


def cost_table(cost: dict[str, dict[str, float]], teachers: list[str]) -> str:
    """A row for each shape, and how many times as long each teacher takes."""
    takes = " | ".join(f"{name} takes" for name in teachers)
    lines = [
        f"| | parameters | GMAC for 1024x1024 | ms for 1024x1024, CPU | {takes} |",
        "|---|---|---|---|" + "---|" * len(teachers),
    ]
    for name, c in cost.items():
        size = f"{c['params']:,} | {c['gmac']:.1f}" if "params" in c else " | "
        ratios = " | ".join(f"{cost[teacher]['ms'] / c['ms']:.1f} times" for teacher in teachers)
        lines.append(f"| {name} | {size} | {c['ms']:.0f} | {ratios} |")
    return "\n".join(lines)


def document(
    side: int,
    taught: dict[str, dict[tuple[str, str], Rows]],
    one: dict[tuple[str, str], Rows],
    cost: dict[str, dict[str, float]],
    keys: list[str],
) -> str:
    """docs/RESULTS.md. `taught` holds, by teacher, the rows of each set and degradation; `one` those of scale 1."""
    versions = provenance.versions()
    parts = [
        "# Results",
        "Made by `make results`; do not edit. Photos that no training saw, the centre "
        f"({side}x{side} at most) of each. Means over photos, in brackets 95% bootstrap intervals. "
        "PSNR-Y, SSIM-Y and the VGG19 distance (lower is nearer) are to the original unless they say to the teacher; a "
        "sharpness (mean gradient of Y over the teacher's) of 1 is as crisp as the teacher. "
        "What each model is: assets/weights/*.md.",
        f"torch {versions['torch']}, CPU, {torch.get_num_threads()} threads, fp32.",
        "## Cost, x4",
        "Times by turns in one run, medians; trust the ratios. Students of one size cost the same.",
        cost_table(cost, [name for name in taught if name in cost]),
    ]
    for teacher, sets in taught.items():
        parts.append(f"## {'x4' if teacher in cost else 'x2'}, the teacher is {teacher}")
        for (title, name), rows in sets.items():
            parts += [f"### {teacher} · {title} · {name} ({photos(rows)} photos)", table(rows, keys)]
            parts.append(f"PSNR-Y to the teacher above bicubic's, dB: {gains(rows, teacher)}.")
    for (title, name), rows in one.items():
        parts += [f"## Same size (scale 1) · {title} · {name} ({photos(rows)} photos)"]
        parts.append(table(rows, [key for key in keys if key not in TO_THE_TEACHER]))
        base = rows["the input"]
        lost = sum(a.psnr_y < b.psnr_y for a, b in zip(rows["student x1 photo-s"], base, strict=True))
        parts.append(f"Behind its input in PSNR-Y on {lost} of {len(base)} photos.")
    return "\n\n".join(parts) + "\n"


def photos(rows: Rows) -> int:
    return len(rows["bicubic" if "bicubic" in rows else "the input"])


def gains(rows: Rows, teacher: str) -> str:
    """How much nearer to the teacher than bicubic each model is."""
    words = []
    for model, scores in rows.items():
        if model not in ("bicubic", teacher):
            pairs = zip(scores, rows["bicubic"], strict=True)
            words.append(f"{model} {np.mean([a.psnr_y_teacher - b.psnr_y_teacher for a, b in pairs]):+.2f}")
    return ", ".join(words)


def readme(path: Path, four: dict[str, dict[tuple[str, str], Rows]], keys: list[str]) -> None:
    """The short tables, a teacher each, of valid and light, between the two markers of README.md: means alone."""
    begin, end = "<!-- results -->", "<!-- /results -->"
    text = path.read_text()
    if begin not in text or end not in text:
        raise SystemExit(f"{path} has no {begin} ... {end}: the table was not written")
    lines = []
    for teacher, sets in four.items():
        lines += header(keys, f"| to {teacher} |")
        for name, scores in sets["valid", "light"].items():
            cells = [show_score(key, [getattr(s, key) for s in scores]).split(" ")[0] for key in keys]
            lines.append("| " + " | ".join([name, *cells]) + " |")
        lines.append("")
    before, rest = text.split(begin)
    body = f"{begin}\n" + "\n".join(lines) + f"{end}"
    files.write_bytes(path, (before + body + rest.split(end)[1]).encode())
