"""The real pipeline, run once a session at a tiny size by the command a user types; several test files look at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from kd_utils.own_files import ROOT
from kd_utils.run_notebooks import numbered

TINY = (
    "teacher=student_x4_photo_m loss.perceptual=0.02 "
    "data.limit=2 data.crops_per_photo=6 data.valid_crops_per_photo=2 data.crop=96 data.test_side=128 "
    "train.batch=2 train.warmup=2 train.valid_every=10 train.save_every=10 eval.time_side=32 eval.time_repeats=1"
).split()
FRONT_DOOR = "ImageSharpeningKD"


class Ran(NamedTuple):
    workdir: Path
    out: str
    code: int
    seconds: float

    def notebook(self, stem: str) -> dict[str, Any]:
        return json.loads((self.workdir / "runs" / f"{stem}.ipynb").read_text())

    def outputs(self, stem: str, cell: str) -> list[dict[str, Any]]:
        """The outputs of the cell with this id."""
        return next(c for c in self.notebook(stem)["cells"] if c["id"] == cell)["outputs"]

    def text(self, stem: str, cell: str) -> str:
        return "".join("".join(o.get("text", [])) for o in self.outputs(stem, cell))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def ran(tmp_path_factory) -> Ran:
    """All numbered notebooks and then the front door, on the same work folder, from some other folder."""
    base = tmp_path_factory.getbasetemp() / "pipeline"
    done = base / "done.json"
    if not done.is_file():
        base.mkdir()
        only = ",".join([*(p.stem for p in numbered()), FRONT_DOOR])
        command = ["run", "--preset", "quick", "--workdir", "work dir", "--only", only, "-p", "steps=20"]
        command += ["--set", *TINY]
        began = time.monotonic()
        got = subprocess.run([sys.executable, "-m", "kd_utils", *command], cwd=base, env=environment(), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        done.write_text(json.dumps([got.stdout, got.returncode, time.monotonic() - began]))
    return Ran(base / "work dir", *json.loads(done.read_text()))
