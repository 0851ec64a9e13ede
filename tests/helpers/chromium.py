"""A real Chromium: starting it, its pixels, and the mouse on a slider."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LEVELS = 3  # of 255: Chromium paints a picture that it scales anew with other roundings, a level apart at most


@contextmanager
def started() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where this machine has no Chromium."""
    if not CHROMIUM:
        pytest.skip("LEFT OUT: there is no Chromium on this machine (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def seen(page: Any, box: dict[str, float]) -> np.ndarray:
    """The page's pixels within `box`, CSS pixels of the window, as int (H, W, 3)."""
    left, top = round(box["x"]), round(box["y"])  # at a fraction of a pixel Chromium would resample the screenshot
    clip = {"x": left, "y": top, "width": max(1, round(box["width"])), "height": max(1, round(box["height"]))}
    return pixels(page.screenshot(clip=clip))


def pixels(screenshot: bytes) -> np.ndarray:
    """A screenshot as int (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB")).astype(int)


def differ(a: np.ndarray, b: np.ndarray) -> float:
    """The share of pixels in which two screenshots differ by more than LEVELS."""
    return float((np.abs(a - b).max(-1) > LEVELS).mean())


# ---- the slider of kd_utils.evaluation.viewer


def left_part(view: Any) -> dict[str, float]:
    """A box of a slider's picture, left of its middle, that no line, handle or name of a picture touches."""
    box = view.bounding_box()
    x, y = box["x"] + 0.22 * box["width"], box["y"] + 0.05 * box["height"]
    return {"x": x, "y": y, "width": 0.2 * box["width"], "height": 0.8 * box["height"]}


def wipe(page: Any, view: Any, begin: float, end: float) -> None:
    """Drag the line from `begin` to `end`, parts of the picture's width."""
    box = view.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=8)
    page.mouse.up()


def wait_for_pixels(page: Any, view: Any, like: np.ndarray, same: bool) -> None:
    """Wait until the left part of a slider looks like the screenshot `like`, or no longer; fail after 10 s."""
    share = 0.0
    for _ in range(100):  # a busy machine paints late
        share = differ(seen(page, left_part(view)), like)
        if share < 0.001 if same else share > 0.1:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{share:.1%} of the pixels differ from the {'same' if same else 'other'} picture")
