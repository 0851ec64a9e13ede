"""In a real Chromium: the before/after slider of the report and of an executed notebook moves, by mouse and by keys."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from helpers import pipeline

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
    after, handle = slider.locator("img.kd-after"), slider.locator("input")
    slider.scroll_into_view_if_needed()
    sizes = slider.locator("img").evaluate_all("all => all.map(i => [i.complete, i.naturalWidth > 0, i.clientWidth])")
    assert all(done and found for done, found, _ in sizes) and sizes[0][2] == sizes[1][2] > 100

    def clip() -> float:
        style = after.evaluate("e => getComputedStyle(e).clipPath")
        return float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)%\)", style)[1])

    def ground(x: float) -> bytes:  # a piece of the picture at x of its width, below the round handle
        box = slider.bounding_box()
        at = {"x": box["x"] + x * box["width"] - 8, "y": box["y"] + box["height"] * 0.75, "width": 16, "height": 40}
        return page.screenshot(clip=at)

    assert clip() == 50
    before = ground(0.35)
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.15, y, steps=8)
    page.mouse.up()
    assert clip() == pytest.approx(15, abs=2), "the edge follows the mouse"
    assert ground(0.35) != before, "there the other picture is seen now"
    handle.press("ArrowRight")
    assert clip() == pytest.approx(15.5, abs=2.1)
    handle.press("End")
    assert clip() == 100 and ground(0.35) == before
    assert which == "notebook" or not wanted, "the report asks the network for nothing"
    page.close()
