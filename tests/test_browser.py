"""In a real Chromium: the before/after slider of the report and of an executed notebook moves, by mouse and by keys."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import pipeline
from PIL import Image

from kd_utils.evaluation import viewer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


LEVELS = 3  # of 255: Chromium paints a picture that it scales anew with other roundings, a level apart at most


def seen(page, box: dict[str, float]) -> np.ndarray:
    """The page's pixels within `box`, CSS pixels of the window, as int (H, W, 3)."""
    left, top = round(box["x"]), round(box["y"])  # at a fraction of a pixel Chromium would resample the screenshot
    clip = {"x": left, "y": top, "width": max(1, round(box["width"])), "height": max(1, round(box["height"]))}
    return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(int)


def differ(a: np.ndarray, b: np.ndarray) -> float:
    """The share of pixels in which two screenshots differ by more than LEVELS."""
    return float((np.abs(a - b).max(-1) > LEVELS).mean())


def left_part(view) -> dict[str, float]:
    """A box of a slider's picture, left of its middle, that no line, handle or name of a picture touches."""
    box = view.bounding_box()
    x, y = box["x"] + 0.22 * box["width"], box["y"] + 0.05 * box["height"]
    return {"x": x, "y": y, "width": 0.2 * box["width"], "height": 0.8 * box["height"]}


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("LEFT OUT: there is no Chromium on this machine (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return pipeline.ran(tmp_path_factory)


@pytest.fixture(scope="module")
def pages(ran):
    """The report, and notebook 04 as nbconvert makes a page of it."""
    out = ran.workdir / "runs" / "04_evaluate.html"
    command = ["nbconvert", "--to", "html", str(out.with_suffix(".ipynb")), "--output", str(out)]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    return {"report": ran.workdir / "eval" / "report.html", "notebook": out}


@pytest.mark.parametrize("which", ["report", "notebook"])
def test_the_slider_moves(browser, pages, which):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    wanted: list[str] = []
    page.on("request", lambda r: wanted.append(r.url) if r.url.startswith("http") else None)
    page.goto(pages[which].as_uri())
    slider = page.locator(".kd-slider").first
    view = slider.locator(".kd-view")
    after, handle = slider.locator(".kd-after"), slider.locator("input")
    slider.scroll_into_view_if_needed()
    sizes = slider.locator(".kd-view img").evaluate_all(
        "all => all.map(i => [i.complete, i.naturalWidth > 0, i.clientWidth])"
    )
    assert all(done and found for done, found, _ in sizes) and sizes[0][2] == sizes[1][2] > 100

    def clip() -> float:
        style = after.evaluate("e => getComputedStyle(e).clipPath")
        return float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)%\)", style)[1])

    assert clip() == 50
    before = seen(page, left_part(view))
    box = view.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.15, y, steps=8)
    page.mouse.up()
    assert clip() == pytest.approx(15, abs=2), "the edge follows the mouse"
    page.wait_for_timeout(100)
    assert differ(seen(page, left_part(view)), before) > 0.1, "there the other picture is seen now"
    handle.press("ArrowRight")
    assert clip() == pytest.approx(15.5, abs=2.1)
    handle.press("End")
    assert clip() == 100
    for _ in range(50):  # a busy machine paints late
        if differ(seen(page, left_part(view)), before) < 0.001:
            break
        page.wait_for_timeout(100)
    assert differ(seen(page, left_part(view)), before) < 0.001, "the first picture is seen again"
    assert which == "notebook" or not wanted, "the report asks the network for nothing"
    page.close()


def test_any_two_pictures_and_a_zoom_of_whole_pixels(browser, tmp_path):
    shades = {name: np.full((300, 400, 3), value, np.uint8) for name, value in (("a", 40), ("b", 120), ("c", 220))}
    shades["a"][150, 200] = 250
    (tmp_path / "slider.html").write_text(viewer.slider(shades))
    page = browser.new_page(viewport={"width": 390, "height": 700})
    page.goto((tmp_path / "slider.html").as_uri())
    view = page.locator(".kd-view")

    def colour(x: float, y: float = 0.25) -> int:
        box = view.bounding_box()
        at = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "width": 1, "height": 1}
        return int(seen(page, at).mean())

    assert colour(0.2) == pytest.approx(40, abs=3) and colour(0.8) == pytest.approx(120, abs=3)
    page.locator("select").nth(1).select_option(label="c")
    assert colour(0.2) == pytest.approx(40, abs=3) and colour(0.8) == pytest.approx(220, abs=3)
    page.locator("select").nth(0).select_option(label="b")
    assert colour(0.2) == pytest.approx(120, abs=3)
    page.locator("[data-zoom='4']").click()
    assert page.locator(".kd-before img").evaluate("i => i.getBoundingClientRect().width") == 4 * 400
    corner = page.locator(".kd-before img").bounding_box()
    box = view.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 15, box["y"] + 12, steps=4)
    page.mouse.up()
    moved = page.locator(".kd-before img").bounding_box()
    assert (moved["x"] - corner["x"], moved["y"] - corner["y"]) == (10, 7), "a drag beside the line moves the picture"
    page.locator("[data-zoom='0']").click()
    assert page.locator(".kd-before img").bounding_box()["width"] == box["width"]
    page.close()
