"""The committed notebooks and how to read them."""

from __future__ import annotations

import json

from helpers import pipeline
from kd_utils.config import ROOT
from kd_utils.run_notebooks import numbered

FRONT_DOOR = ROOT / "notebooks" / f"{pipeline.FRONT_DOOR}.ipynb"
NOTEBOOKS = [*numbered(), FRONT_DOOR]


def read(path):
    nb = json.loads(path.read_text())
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
    return nb, [c for c in nb["cells"] if c["cell_type"] == "code"]
