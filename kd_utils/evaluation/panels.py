"""The pictures of a test photo: its panel, and its part of the report's page with the slider of all its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_utils.common import files
from kd_utils.common.names import display_name, safe_stem
from kd_utils.evaluation import figures, viewer
from kd_utils.evaluation.perceptual import central
from kd_utils.evaluation.report import PanelColumn, PhotoSection
from kd_utils.evaluation.scores import Scores
from kd_utils.evaluation.tables import row_label

SLIDER = (720, 960)  # at most this much of a photo (height, width) goes into a slider: the report stays light
ZOOMS = 2  # magnified places of a panel


@dataclass
class TestPanel:
    """A test photo that is shown: its panel, and its images by row and as "input" and "original"."""

    __test__ = False  # pytest collects what is named so

    name: str
    images: dict[str, np.ndarray]  # uint8 (H, W, 3) RGB; at scale 1 "bicubic" is the input itself
    zooms: list[figures.Box]
    titles: list[str]  # of the panel's columns
    caption: str
    panel: Path


def draw(
    name: str, images: dict[str, np.ndarray], scores: dict[str, Scores], folder: Path, number: int, degradation: str
) -> TestPanel:
    """The pictures of one photo side by side with its most detailed places, as the file `folder`/NUMBER-NAME.png."""
    original = images["original"]
    side = 80 if min(original.shape[:2]) < 700 else 160  # a zoom is shown at 320 pixels: by whole squares
    zooms = figures.spread_zooms(original, side, ZOOMS)

    titled = {}
    for row, image in _distinct(images).items():
        title = row_label(row, 4)
        if row == "input":
            title = f"input {image.shape[1]}x{image.shape[0]}"
        if row in scores and scores[row].psnr_y_teacher:
            title = f"{title}  {scores[row].psnr_y_teacher:.1f} dB"
        titled[title] = image

    label = display_name(Path(name).stem)
    caption = f"{label}: dB are PSNR-Y to the teacher, of the whole photo; degradation: {degradation}"
    path = folder / f"{number:02d}-{safe_stem(name)}.png"
    files.write_png(path, figures.panel(titled, zooms, caption))
    return TestPanel(name, images, zooms, list(titled), caption, path)


def section(shown: TestPanel) -> PhotoSection:
    """A photo's part of the page: its panel, and a slider of all its pictures and their differences from the label."""
    original = shown.images["original"]
    height, width = min(original.shape[0], SLIDER[0]), min(original.shape[1], SLIDER[1])
    label = central(shown.images["teacher"], height, width)

    pictures, differences = [], []
    for row, image in _distinct(shown.images).items():
        factor = original.shape[0] // image.shape[0]
        part = central(image, height // factor, width // factor)
        pictures.append(viewer.Picture(row_label(row, 4), part))
        if part.shape == label.shape and row != "teacher":
            difference = figures.error_map(part, label)
            differences.append(
                viewer.Picture(f"{row_label(row, 4)} − teacher", difference, "difference from the teacher")
            )

    plain = pictures[1].name if pictures[1].name == "bicubic" else "input"
    slider = viewer.slider_fragment([*pictures, *differences], plain, "student")
    columns = []
    drawn = figures.panel_columns(_distinct(shown.images), shown.zooms)
    for title, picture in zip(shown.titles, drawn, strict=True):
        columns.append(PanelColumn(title, figures.data_uri(picture)))
    return PhotoSection(display_name(Path(shown.name).stem), columns, shown.caption, slider)


def _distinct(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without "bicubic" at scale 1, where it is the input."""
    same = images["bicubic"].shape == images["input"].shape
    return {row: image for row, image in images.items() if not (same and row == "bicubic")}
