"""JupyterLab as a reader has it: a server of its own, a notebook opened in Chromium, Run All, what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers import chromium, pipeline
from helpers.notebooks import filled_in
from helpers.screenshots import keep, screenshot
from kd_utils.notebook_forms import form_of

TOKEN = "test"
CONTROLS = int(version("ipywidgets").split(".")[0]) >= 8  # those of 7, which Colab has, are not shown in JupyterLab 4
CELLS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell"
MINUTES = 10  # that one notebook may take

# All cells are drawn and the kernel answers: before, Run All is a click into the air.
READY = """([cells, count]) => {
  const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
  return document.querySelectorAll(cells).length === count && kernel?.connectionStatus === "connected"
    && kernel.status === "idle";
}"""

# What a test cannot have: news from the network, and cells that are drawn only once they are scrolled to.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "extensionmanager-extension/plugin": {"enabled": False},
}


@dataclass
class Opened:
    """A notebook that is open in the browser."""

    page: Any
    faults: list[str] = field(default_factory=list)  # what the browser's console calls an error

    def answer(self, route: Any) -> None:
        """Nothing but Colab's badge may come from the network; here it comes from nowhere."""
        url = route.request.url
        if not url.endswith("colab-badge.svg"):
            self.faults.append(f"asks the network for {url}")
        route.fulfill(content_type="image/svg+xml", body='<svg xmlns="http://www.w3.org/2000/svg"/>')

    def prompts(self) -> list[str]:
        """The execution counts of the code cells, such as ``[3]:``, ``[*]:`` or ``[ ]:``."""
        script = "(all, _) => all.map(cell => cell.querySelector('.jp-InputPrompt').textContent.trim())"
        return self.page.locator(CELLS).evaluate_all(script)

    def run_all(self) -> None:
        """Press Run > Run All Cells and wait for the last cell, or for one that fails."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end:
            prompts = self.prompts()
            if self.red() or (prompts and all(p.strip("[]:").isdigit() for p in prompts)):
                return
            self.page.wait_for_timeout(200)
        raise AssertionError(f"not done after {MINUTES} minutes: {self.prompts()}")

    def red(self) -> list[str]:
        """The texts of all outputs that are shown in red: errors, and what went to stderr."""
        kinds = ("application/vnd.jupyter.stderr", "application/vnd.jupyter.error")
        return self.page.locator(", ".join(f'{CELLS} [data-mime-type="{kind}"]' for kind in kinds)).all_inner_texts()

    def move_sliders(self) -> int:
        """Wipe every comparison and see its pixels change and come back; the number of them."""
        sliders = self.page.locator(f"{CELLS} .kd-slider").all()
        for slider in sliders:
            view = slider.locator(".kd-view")
            view.scroll_into_view_if_needed()
            before = chromium.seen(self.page, chromium.left_part(view))
            chromium.wipe(self.page, view, 0.5, 0.1)
            chromium.wait_for_pixels(self.page, view, before, same=False)
            slider.locator("input").press("End")
            chromium.wait_for_pixels(self.page, view, before, same=True)
        return len(sliders)

    def compare_three(self, name: str) -> None:
        """Choose three models in the last comparison, two at a time, move the line, and keep both screenshots."""
        slider = self.page.locator(f"{CELLS} .kd-slider:has(select)").last
        left, right = slider.locator("select").all()
        models = left.locator("option").all_inner_texts()[-3:]
        slider.scroll_into_view_if_needed()
        left.select_option(label=models[0])
        for model, position in zip(models[1:], (0.3, 0.7), strict=True):
            right.select_option(label=model)
            chromium.wipe(self.page, slider.locator(".kd-view"), 0.5, position)
            assert abs(float(slider.locator("input").input_value()) - 100 * position) < 2
            slider.screenshot(path=screenshot(f"{name}-{model}-at-{position:.0%}"))
            slider.locator("input").evaluate("e => { e.value = 50; e.dispatchEvent(new Event('input')); }")

    def move_controls(self) -> int:
        """Move the first slider of every group of ipywidgets and see its picture change; the number of them."""
        groups = self.page.locator(f"{CELLS} .widget-vbox:has(.widget-image)").all()
        for group in groups:
            picture, handle = group.locator(".widget-image"), group.locator(".noUi-handle").first
            shown = chromium.pixels(picture.screenshot())
            handle.focus()
            handle.press("Home")  # the smallest value: a step to the neighbour can be too little to be seen
            for _ in range(600):
                now = chromium.pixels(picture.screenshot())
                if now.shape == shown.shape and chromium.differ(now, shown) > 0.05:
                    break
                self.page.wait_for_timeout(100)
            else:
                raise AssertionError("the control was moved, and its picture stayed as it was")
        return len(groups)


@dataclass
class Lab:
    """A running JupyterLab; `folder` is what its file browser shows."""

    url: str
    folder: Path

    def open(self, browser: Any, name: str, **form: Any) -> Opened:
        """Open a committed notebook with these values in its form."""
        notebook = filled_in(name, **form)
        (self.folder / f"{name}.ipynb").write_text(json.dumps(notebook))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        opened = Opened(page)
        page.on("console", lambda m: opened.faults.append(f"{m.text} {m.location}") if m.type == "error" else None)
        page.on("pageerror", lambda e: opened.faults.append(str(e)))
        page.route(lambda url: url.startswith("https:"), opened.answer)
        page.goto(f"{self.url}/lab/tree/{name}.ipynb?token={TOKEN}&reset")
        count = sum(cell["cell_type"] == "code" for cell in notebook["cells"])
        page.wait_for_function(READY, arg=[CELLS, count], timeout=MINUTES * 60_000)
        return opened


def try_out(browser: Any, lab: Lab, path: Path) -> tuple[int, int]:
    """Run a notebook at a tiny size, keep its screenshot, and move all that moves; how many (sliders, controls).

    Nothing may be red, and the browser's console may hold no error.
    """
    form = {"preset": "quick", "workdir": str(lab.folder / "work dir"), "overrides": " ".join(pipeline.TINY)}
    if "steps" in form_of(path):
        form["steps"] = 20
    opened = lab.open(browser, path.stem, **form)
    opened.run_all()
    assert not opened.red()
    keep(opened.page, path.stem)

    sliders = opened.move_sliders()
    if path.stem.startswith("05"):
        opened.compare_three(path.stem)
    controls = opened.move_controls() if CONTROLS else 0
    assert not opened.red()
    assert not opened.faults or not CONTROLS, opened.faults
    opened.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")  # its memory is wanted
    opened.page.close()
    return sliders, controls


@contextmanager
def started(base: Path) -> Iterator[Lab]:
    """A JupyterLab with settings of its own, on an empty folder outside the clone."""
    folder = base / "home"
    for name, values in SETTINGS.items():
        path = base / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folder.mkdir()
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
    }  # fmt: skip
    env = pipeline.environment() | {name: str(base / place) for name, place in places.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += ["--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]

    with (base / "log.txt").open("w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
        try:
            yield Lab(_address(base, server), folder)
        finally:
            server.terminate()


def _address(base: Path, server: subprocess.Popen) -> str:
    for _ in range(1200):
        for found in (base / "runtime").glob("jpserver-*.json"):
            try:
                return json.loads(found.read_text())["url"].rstrip("/")
            except ValueError:  # half written
                break
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{(base / 'log.txt').read_text()[-2000:]}")
