"""The page of `demo` in a real Chromium: its pixels are those of `sharpen`, and every control does what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import chromium
from helpers.sharpening import save
from PIL import Image

from kd_utils.export import export
from kd_utils.sharpen import sharpen

PATIENCE = 120_000  # milliseconds: a machine that runs other things too is slow
MEMORY_12MP = 700e6  # bytes of the page's process at its peak, for an output of 12 megapixels (docs/export.md)


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as running:
        yield running


@pytest.fixture
def page(browser, demo_server):
    with opened(browser, f"http://127.0.0.1:{demo_server.server_port}/") as page:
        yield page


@contextmanager
def opened(browser, here: str, query: str = "") -> Iterator[Any]:
    """The page, opened. Whatever a test does with it, no request may leave this machine, and none may have a body."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    asked, failures = [], []
    page.context.on("request", lambda request: asked.append(request))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(here + query)
    page.wait_for_selector("#model option", state="attached")
    yield page

    assert not failures
    for request in asked:
        assert request.url.startswith((here, f"blob:{here}", "data:")), request.url
        assert request.method == "GET" and request.post_data is None, request.url
    page.close()


def photo(seed: int, width: int, height: int) -> np.ndarray:
    """Smooth blobs and noise, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return np.clip(smooth + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def choose(page, path: Path, model: str | None = None) -> None:
    if model:
        page.select_option("#model", label=model)
    page.set_input_files("#file", path)


def drag(page, path: Path, *events: str) -> None:
    """A file from the desktop over the page, as Chromium gets it from the window system: dragEnter, dragOver, drop."""
    box = page.locator("#drop").bounding_box()
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    carried = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for event in events:
        session.send("Input.dispatchDragEvent", {"type": event, **at, "data": carried})
    session.detach()


def wait_for(page, text: str | re.Pattern, where: str = "#status", patience: int = PATIENCE) -> None:
    from playwright.sync_api import expect

    expect(page.locator(where)).to_have_text(text, timeout=patience)


def saved(page, to: Path) -> np.ndarray:
    """What the button Download gives, (H, W, 3)."""
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(to)
    with Image.open(to) as image:
        return np.asarray(image.convert("RGB"))


def assert_like_sharpen(page, source: Path, model: str, scale: int) -> None:
    """What the page has made of `source` differs from `sharpen` by 2 levels of 255 at most."""
    sharpen(source, source.with_name("python.png"), model=model, scale=scale, quiet=True)
    want = np.asarray(Image.open(source.with_name("python.png")).convert("RGB")).astype(int)
    difference = np.abs(saved(page, source.with_name("page.png")) - want)
    print(f"at most {difference.max()} levels apart, {difference.mean():.4f} in the mean")
    assert difference.max() <= 2 and difference.mean() < 0.1


@pytest.mark.parametrize("scale, size", [(4, (301, 263)), (2, (319, 258)), (1, (541, 518))])
def test_its_pixels_are_those_of_sharpen(page, models, tmp_path, scale, size):
    """At odd sides, over several tiles, with students that drift in colour."""
    source = save(tmp_path / "photo.png", photo(scale, *size))
    choose(page, source, f"x{scale}")
    wait_for(page, re.compile(r"Done in .* with WASM, \d+ threads?\."))
    width, height = size
    assert page.inner_text("#sizes") == f"{width} x {height} → {width * scale} x {height * scale}"
    assert page.evaluate("crossOriginIsolated"), "threads need it"

    assert_like_sharpen(page, source, models[scale], scale)


def test_the_sample_a_slider_and_the_view_at_1_to_1(page, tmp_path):
    page.focus("#sample")
    page.keyboard.press("Enter")
    wait_for(page, re.compile("Done in"))
    page.screenshot(path=tmp_path / "demo.png")  # docs/demo.jpg is this one

    # the slider by keys: the divider and what is covered of the output follow
    slider = page.locator("#position")
    slider.focus()
    page.keyboard.press("Home")
    assert page.evaluate("after.style.clipPath") == "inset(0px)"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "3" and slider.get_attribute("aria-valuetext") == "3 % before, the rest after"

    # by the mouse
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3 / 4, box["y"] + 40, steps=3)
    page.mouse.up()
    assert abs(int(slider.input_value()) - 75) <= 1

    # 1:1, one pixel of the output for one of the screen; there the mouse moves the photo
    page.click("#actual")
    assert page.get_attribute("#actual", "aria-pressed") == "true"
    assert page.evaluate("stage.offsetWidth * devicePixelRatio") == page.evaluate("after.width")
    before = page.evaluate("[view.scrollLeft, view.scrollTop]")
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 150, steps=3)
    page.mouse.up()
    assert page.evaluate("[view.scrollLeft, view.scrollTop]") == pytest.approx([before[0], before[1] + 50], abs=1)
    page.click("#fit")
    assert page.evaluate("view.scrollWidth <= view.clientWidth && view.scrollHeight <= view.clientHeight")


def test_what_is_no_image_or_no_student_gets_a_sentence(page, models, tmp_path):
    (tmp_path / "letter.jpg").write_bytes(b"Dear Sir or Madam")
    choose(page, tmp_path / "letter.jpg", "x4")
    wait_for(page, re.compile("^letter.jpg is no image that this browser can read. JPEG, PNG"), "#error")
    assert page.locator("#result").is_hidden() and page.locator("#running").is_hidden()

    # too large to be shown
    tall = save(tmp_path / "tall.png", np.zeros((4200, 2, 3), np.uint8))
    choose(page, tall)
    wait_for(page, re.compile("would have 8 x 16800 pixels, more than a browser can show"), "#error")

    # files of one's own: no ONNX, and one of kd-utils export
    small = save(tmp_path / "small.png", photo(5, 40, 30))
    choose(page, small)
    wait_for(page, re.compile("Done in"))
    (tmp_path / "wrong.onnx").write_bytes(b"\xff" * 50)
    choose(page, tmp_path / "wrong.onnx")
    wait_for(page, "wrong.onnx is no ONNX file.", "#error")
    (own,) = export(models[2], tmp_path / "mine.onnx")
    choose(page, own)
    wait_for(page, re.compile("Done in"))
    assert page.inner_text("#error") == "" and page.inner_text("#sizes") == "40 x 30 → 80 x 60"
    assert page.locator("#model option").last.inner_text() == "mine.onnx (yours)"


def test_a_photo_and_a_student_are_dropped(page, models, tmp_path):
    from playwright.sync_api import expect

    source = save(tmp_path / "photo.png", photo(5, 40, 30))
    (own,) = export(models[2], tmp_path / "mine.onnx")
    page.select_option("#model", label="x4")
    target, lit = page.locator("#drop"), re.compile(r"\bover\b")

    drag(page, source, "dragEnter", "dragOver")
    expect(target).to_have_class(lit)
    drag(page, source, "drop")
    wait_for(page, re.compile("Done in"))
    assert page.inner_text("#sizes") == "40 x 30 → 160 x 120"
    expect(target).not_to_have_class(lit)
    assert_like_sharpen(page, source, models[4], 4)

    # the student is taken for the photo that is there
    drag(page, own, "dragEnter", "dragOver", "drop")
    wait_for(page, "40 x 30 → 80 x 60", "#sizes")
    wait_for(page, re.compile("Done in"))
    assert page.locator("#model option:checked").inner_text() == "mine.onnx (yours)"
    assert_like_sharpen(page, source, models[2], 2)


def test_cancel_keeps_the_page_alive(page, tmp_path):
    source = save(tmp_path / "photo.png", photo(2, 900, 700))
    choose(page, source, "photo m (medium), 4 times larger")
    page.wait_for_selector("#result", state="visible")
    page.keyboard.press("Escape")
    wait_for(page, "Cancelled.")
    assert page.locator("#download").is_disabled() and page.locator("#running").is_hidden()
    choose(page, save(tmp_path / "small.png", photo(2, 60, 50)), "x4")
    wait_for(page, re.compile("Done in"))
    assert page.locator("#download").is_enabled()


def test_it_fits_a_phone_and_every_control_has_a_name(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.select_option("#model", label="x1")
    page.click("#sample")
    wait_for(page, re.compile("Done in"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for scheme, color in (("dark", "rgb(22, 24, 26)"), ("light", "rgb(246, 246, 244)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == color
    for control in page.locator("button:visible, select:visible, input:visible").all():
        assert control.bounding_box()["height"] >= 32
    for role, name in (("combobox", "Model"), ("slider", "How much of the photo is shown as it was before")):
        assert page.get_by_role(role, name=name).count() == 1
    for name in ("Choose a file", "Take the sample", "Fit", "1:1", "Download PNG"):
        assert page.get_by_role("button", name=name, exact=True).count() == 1


@pytest.mark.slow
def test_memory_for_an_output_of_12_megapixels(page, browser, tmp_path):
    source = save(tmp_path / "photo.png", photo(7, 1000, 750))
    choose(page, source, "photo s (small), 4 times larger")
    wait_for(page, re.compile("Done in"))
    assert saved(page, tmp_path / "page.png").shape == (3000, 4000, 3)

    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    peaks = []
    for process in processes:
        if process["type"] == "renderer":
            status = Path(f"/proc/{process['id']}/status").read_text()
            peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)
    print(f"peak of the page's process: {max(peaks) / 1e6:.0f} MB")
    assert max(peaks) < MEMORY_12MP
