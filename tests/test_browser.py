"""In a real Chromium: the slider of the report and of an executed notebook, and a notebook that runs in JupyterLab."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import chromium, jupyterlab, pipeline
from helpers.chromium import left_part, seen, wait_for_pixels, wipe

from kd_utils.evaluation import viewer
from kd_utils.run_notebooks import numbered


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as started:
        yield started


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
    wipe(page, view, 0.5, 0.15)
    assert clip() == pytest.approx(15, abs=2), "the edge follows the mouse"
    wait_for_pixels(page, view, before, same=False)
    handle.press("ArrowRight")
    assert clip() == pytest.approx(15.5, abs=2.1)
    handle.press("End")
    assert clip() == 100
    wait_for_pixels(page, view, before, same=True)
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


@pytest.mark.slow
def test_a_notebook_in_jupyterlab(browser, tmp_path):
    """Notebook 05, which has a slider and a control; `make test-browser` runs all of them."""
    path = numbered()[-1]
    with jupyterlab.started(tmp_path) as lab:
        sliders, controls = jupyterlab.try_out(browser, lab, path)
    assert sliders
    if not jupyterlab.CONTROLS:
        pytest.skip("LEFT OUT: ipywidgets 7 has no controls for JupyterLab 4; the slider was moved")
    assert controls
