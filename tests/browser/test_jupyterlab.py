"""Every notebook in JupyterLab in Chromium: Run All, then its sliders and controls, moved as a reader moves them.

`make test-browser` runs this folder, `make test` only notebook 05 (tests/test_browser.py). The screenshots stay in
screenshots/, to be looked at.
"""

from __future__ import annotations

import pytest
from helpers import chromium, jupyterlab
from helpers.notebooks import NOTEBOOKS
from helpers.screenshots import keep

# How bright the page's ground and its text are, of 255.
COLOURS = """() => ["backgroundColor", "color"].map(name => {
  const rgb = getComputedStyle(document.body)[name].match(/\\d+/g).map(Number);
  return (rgb[0] + rgb[1] + rgb[2]) / 3;
})"""


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as started:
        yield started


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with jupyterlab.started(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all_then_move_what_moves(browser, lab, path):
    sliders, controls = jupyterlab.try_out(browser, lab, path)
    assert sliders >= (path.stem[:2] in ("04", "05", "Im")), "a slider compares the results"
    assert controls >= (path.stem[:2] in ("01", "05")), "a control of ipywidgets changes a picture"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_report_fits_a_phone_and_a_desk(browser, lab, width, scheme):
    """The report that the notebooks have left: nothing is wider than the window but what scrolls by itself."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.on("request", lambda r: faults.append(r.url) if r.url.startswith("http") else None)
    page.goto((lab.folder / "work dir" / "eval" / "report.html").as_uri())
    keep(page, f"report-{width}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for panel in page.locator(".panel").all():
        assert panel.evaluate("e => e.scrollWidth <= e.clientWidth"), "pictures and captions are not scrolled sideways"
    assert not faults

    ground, ink = page.evaluate(COLOURS)
    assert (ground < ink) == (scheme == "dark") and abs(ground - ink) > 120
    page.close()
