"""What the notebooks show of a student at work: photos sharpened, compared with other models, at several strengths.

Photos are `Photo`s or uint8 (H, W, 3) RGB arrays. Every picture is lower than a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML
from PIL import Image

from kd_utils import colab, look, sharpen
from kd_utils.common.errors import SharpenError
from kd_utils.config import Config
from kd_utils.data import degradations
from kd_utils.evaluation import figures
from kd_utils.imaging import reading
from kd_utils.imaging.reading import Photo
from kd_utils.lessons import with_picture
from kd_utils.models.pipeline import Tool, apply
from kd_utils.sharpen import Summary

COMPARED = 768  # pixels: side of the pictures that notebook 05 compares, each of which it holds in full


def small_picture(path: str) -> Photo:
    """A picture to begin with: the most detailed part of the photo `path`, or a sample that is made small and soft."""
    if path:
        return Photo(reading.to_rgb(most_detailed_part(Path(path), 256)))
    from skimage.data import coffee

    return Photo(degradations.degrade(coffee()[None], [1], 4, "light")[0])


def sharpen_photos(cfg: Config, tool: Tool, given: Sequence[Path], strength: float) -> Summary:
    """Sharpen what `uploads.chosen_photos` gave, into ``sharpened/`` on Drive or, without one, in the work folder.

    Raises SharpenError where not one photo could be sharpened.
    """
    folder = Path(cfg.drive or cfg.workdir).expanduser() / "sharpened"
    options = {"model": tool.path, "scale": tool.scale, "strength": strength, "device": cfg.device}
    done = sharpen.sharpen(list(given), folder, **options)
    if not done.sources:
        raise SharpenError("; ".join(why for _, why in done.failed))
    return done


def compare(cfg: Config, tool: Tool, photo: Photo) -> HTML:
    """The chosen model beside plain enlargement, your own student, its baseline, and those that ship."""
    models = colab.models_to_compare(cfg, tool.path, tool.scale)
    pixels = reading.to_rgb(photo)
    left, top, right, bottom = figures.most_detailed(pixels, COMPARED // tool.scale)
    return HTML(look.widget(pixels[top:bottom, left:right], models, tool.scale, cfg.device))


def most_detailed_part(path: Path, side: int) -> Photo:
    """The square of `side` pixels of a photo that has the most detail."""
    photo = reading.read(path)
    left, top, right, bottom = figures.most_detailed(reading.to_rgb(photo), side)
    part = slice(top, bottom), slice(left, right)
    alpha = photo.alpha if photo.alpha is None else photo.alpha[part]
    return replace(photo, pixels=photo.pixels[part], alpha=alpha)


def show_strengths(tool: Tool, photo: Photo, strengths: Sequence[float] = (0, 0.5, 1)) -> Image.Image:
    """A photo sharpened with several strengths, and below each its most detailed place."""
    images = {f"strength {s:g}": sharpened(tool, photo, s) for s in strengths}
    last = list(images.values())[-1]
    return figures.panel(images, [figures.most_detailed(last, max(last.shape) // 4)])


def sharpened(tool: Tool, photo: Photo, strength: float) -> np.ndarray:
    """A photo sharpened, uint8 (H, W, 3) RGB; with strength 0 it is only enlarged."""
    return reading.to_rgb(apply(tool, photo, strength))


def explore_strength(tool: Tool, photo: Photo, strength: float) -> Any:
    """A widget that sharpens a photo with a strength of one's choice."""
    import ipywidgets as widgets

    plain = sharpened(tool, photo, 0)

    def draw(strength: float) -> Image.Image:
        sharp = sharpened(tool, photo, strength)
        return figures.grid([("enlarged only", plain), (f"strength {strength:g}", sharp)], cell=480)

    slider = widgets.FloatSlider(strength, min=0, max=1, step=0.05, description="strength", continuous_update=False)
    return with_picture(draw, slider)
