"""The committed notebooks and how to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import pipeline
from kd_utils.own_files import ROOT
from kd_utils.run_notebooks import numbered

FRONT_DOOR = ROOT / "notebooks" / f"{pipeline.FRONT_DOOR}.ipynb"
NOTEBOOKS = [*numbered(), FRONT_DOOR]


def read(path):
    nb = json.loads(path.read_text())
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
    return nb, [c for c in nb["cells"] if c["cell_type"] == "code"]


def filled_in(name: str, folder: Path = ROOT / "notebooks", **form: Any) -> dict[str, Any]:
    """The committed notebook `name` with these values in its form, as a reader types them there."""
    nb = json.loads((folder / f"{name}.ipynb").read_text())
    cell = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))
    lines = "".join(cell["source"]).splitlines()
    for field, value in form.items():
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"{field}: ")]
        kind, _, rest = lines[at].partition(" = ")
        comment = rest[rest.index("  #") :]
        lines[at] = f"{kind} = {value!r}{comment}"
    cell["source"] = "\n".join(lines)
    return nb
