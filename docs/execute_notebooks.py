"""Run the notebooks and put the executed copies into docs/notebooks/, from where `make docs` makes pages of them.

    python docs/execute_notebooks.py [--preset quick] [--workdir build/notebooks] [--set key=value ...]

The copies are for readers: progress bars, widgets that need a running notebook, the cell that finds the project, the
one that papermill adds, and the paths of this machine are taken out. They are not committed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from kd_utils import run_notebooks  # noqa: E402
from kd_utils.common import files  # noqa: E402
from kd_utils.own_files import ROOT  # noqa: E402

FRONT_DOOR = "ImageSharpeningKD"
WIDGET = "application/vnd.jupyter.widget-view+json"


def publish(executed: Sequence[Path], workdir: Path, folder: Path) -> list[Path]:
    """Write the readers' copies of executed notebooks into `folder`."""
    copies = []
    for path in executed:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(for_readers(notebook), indent=1, ensure_ascii=False)
        for place, name in ((workdir, "workdir"), (ROOT, ".")):
            text = text.replace(json.dumps(str(place))[1:-1], name)
        copies.append(files.write_bytes(folder / path.name, text.encode() + b"\n"))
    return copies


def for_readers(notebook: dict[str, Any]) -> dict[str, Any]:
    """An executed notebook without what only the run needed."""
    cells = []
    for cell in notebook["cells"]:
        if cell["id"] == "bootstrap" or "injected-parameters" in cell["metadata"].get("tags", []):
            continue
        cell["metadata"].pop("papermill", None)
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in map(_without_widget, cell["outputs"]) if _is_shown(output)]
        cells.append(cell)
    metadata = {"kernelspec": notebook["metadata"]["kernelspec"]}
    return notebook | {"cells": cells, "metadata": metadata}


def _without_widget(output: dict[str, Any]) -> dict[str, Any]:
    """A widget leaves its text behind, which says nothing without it: both go."""
    if WIDGET in output.get("data", {}):
        return output | {"data": {}}
    return output


def _is_shown(output: dict[str, Any]) -> bool:
    if output["output_type"] == "stream":
        return output["name"] == "stdout"  # the bars are on stderr
    return output["output_type"] == "error" or bool(output["data"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--workdir", type=Path, default=ROOT / "build" / "notebooks")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", dest="sets")
    args = parser.parse_args()

    workdir = args.workdir.expanduser().resolve()
    notebooks = run_notebooks.numbered() + run_notebooks.select(FRONT_DOOR)
    ran = run_notebooks.run(notebooks, args.preset, workdir, sets=args.sets)
    for path in publish(ran.notebooks, workdir, DOCS / "notebooks"):
        print(path)


if __name__ == "__main__":
    main()
