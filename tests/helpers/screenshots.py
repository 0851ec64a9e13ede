"""Screenshots that are kept, for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_utils.own_files import ROOT

FOLDER = ROOT / "screenshots"
TALLEST = 12_000  # CSS pixels of one screenshot of a notebook


def screenshot(name: str) -> Path:
    """Where the screenshot of this name is kept."""
    FOLDER.mkdir(exist_ok=True)
    return FOLDER / f"{name}.png"


def keep(page: Any, name: str) -> None:
    """The whole page, and of JupyterLab the whole notebook, as screenshots/NAME.png."""
    path = screenshot(name)
    notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer")
    if not notebook.count():
        page.screenshot(path=path, full_page=True)
        return

    size = page.viewport_size
    tall = notebook.evaluate("e => e.scrollHeight") + 100
    page.set_viewport_size({"width": size["width"], "height": min(tall, TALLEST)})
    notebook.evaluate("e => e.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    notebook.screenshot(path=path)
    page.set_viewport_size(size)
