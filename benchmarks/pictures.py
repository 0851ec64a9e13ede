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
from kd_utils.config import ROOT
from kd_utils.evaluation.figures import panel

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
    models = []
    for model in results.models_x4(args.teacher, args.peer):
        model.name = model.name.removeprefix("realesr-")
        if model.name != "s, same steps":  # to the eye it is student s
            models.append(model)

    sheets = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ZOOMS:
            (Path(folder) / f"{name}.png").symlink_to(Path(skimage.__file__).parent / "data" / f"{name}.png")
        for case in results.cases(Path(folder), 384, "light", 4):
            pictures = {model.name: results.picture(model, case) for model in models} | {"original": case.hr}
            sheets.insert(0, panel(pictures, ZOOMS[case.photo]))

    # one below the other, small enough for a README
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    size = (WIDTH, round(WIDTH * whole.height / whole.width))
    whole.resize(size, Image.Resampling.LANCZOS).save(ROOT / "assets" / "models.jpg", quality=90)


if __name__ == "__main__":
    main()
