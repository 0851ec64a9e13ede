"""The README's picture of all models: python -m benchmarks.pictures --teacher CHECKPOINT --peer CHECKPOINT

Two photos of scikit-image, degraded by profile `light` as benchmarks.results does it, by every model of its table.
Writes assets/models.jpg.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import skimage
from PIL import Image

from benchmarks import results
from kd_utils.common.tensors import bicubic
from kd_utils.config import ROOT
from kd_utils.evaluation.figures import panel
from kd_utils.models import teacher

# photo -> the places magnified (left, top, right, bottom), chosen to show texture, colour edges and a face
ZOOMS = {
    "chelsea": [(136, 0, 232, 96), (118, 162, 214, 258)],
    "astronaut": [(72, 232, 200, 360), (92, 0, 220, 128)],
}
WIDTH = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="general_x4v3", help="a registry name or a checkpoint")
    parser.add_argument("--peer", default="animevideov3", help="the same")
    args = parser.parse_args()
    models = [results.Model("bicubic", "", lambda x: bicubic(x, (4 * x.shape[2], 4 * x.shape[3])), None)]
    shown = {name: file for name, file in results.X4.items() if name != "s, same steps"}  # as student s, to the eye
    models += [results.load(name, results.WEIGHTS / file) for name, file in shown.items()]
    peer = teacher.find_teacher(args.peer).path
    models.append(results.load(peer.stem.removeprefix("realesr-"), peer))
    models.append(results.load("teacher", teacher.find_teacher(args.teacher).path))
    sheets = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ZOOMS:
            (Path(folder) / f"{name}.png").symlink_to(Path(skimage.__file__).parent / "data" / f"{name}.png")
        for case in results.cases(Path(folder), 384, "light", 4):
            pictures = {m.name: results.picture(m, case) for m in models} | {"original": case.hr}
            sheets.insert(0, panel(pictures, ZOOMS[case.photo]))
    whole = Image.new("RGB", (sheets[0].width, sum(s.height for s in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    whole.resize((WIDTH, round(WIDTH * whole.height / whole.width)), Image.Resampling.LANCZOS).save(
        ROOT / "assets" / "models.jpg", quality=90
    )


if __name__ == "__main__":
    main()
