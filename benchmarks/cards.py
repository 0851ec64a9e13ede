"""The card of a student that ships, for people (NAME.md) and for a model library (NAME.card.json).

    python -m benchmarks.cards assets/weights/student_x4_photo_m.pth ...     (default: all students that ship)

Both are made of the same facts: the weights, NAME.json beside them, which `benchmarks.ship` writes, and the words of
the recipe's table `[card]`. The JSON is an entry of OpenModelDB: put it there as data/models/ID.json. `benchmarks.ship`
calls this for every student that it makes, so run it only after words or code have changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from PIL import Image, ImageFilter

from benchmarks.card import Card, card_file, read_card
from kd_utils.common import files
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.imaging import reading
from kd_utils.own_files import REPO_SLUG, ROOT

LICENCE = "BSD-3-Clause"
LIBRARY_TEACHERS = {"realesr-general-x4v3": "4x-realesr-general-x4v3"}  # the id of a teacher in the library

# Photos of scikit-image in which the samples lie: left and top of a square. No student that ships was trained on them.
SAMPLES = {"chelsea": (110, 60), "astronaut": (176, 70)}
SAMPLE_SIDE = {4: 96, 2: 192, 1: 288}  # of the input, by scale
SAMPLE_BLUR = {4: 0.0, 2: 0.8, 1: 1.2}  # sigma; an enlarged photo is soft by itself


def write_cards(weights: Path, recipe: Path) -> list[Path]:
    """Write NAME.md, NAME.card.json and the sample pictures beside NAME.pth, which has its NAME.json; returns them.

    Raises ConfigError where the recipe's [card] has an unknown key.
    """
    card = read_card(weights, recipe)
    samples = write_samples(card)
    text = files.write_bytes(weights.with_suffix(".md"), as_markdown(card, samples).encode())
    entry = files.write_json(card_file(weights), as_library_entry(card, samples))
    return [text, entry, *(path for pair in samples for path in pair)]


# ---- sample pictures


@torch.inference_mode()
def write_samples(card: Card) -> list[tuple[Path, Path]]:
    """(input, output) of each sample, in the folder `samples` beside the weights."""
    scale, folder = card.net.scale, card.file.parent / "samples"
    side = SAMPLE_SIDE[scale]
    pairs = []
    for photo, (left, top) in SAMPLES.items():
        rgb = reading.read_rgb(Path(skimage.__file__).parent / "data" / f"{photo}.png")
        if SAMPLE_BLUR[scale]:
            soft = Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(SAMPLE_BLUR[scale]))
            rgb = np.asarray(soft)
        top = min(top, rgb.shape[0] - side)
        left = min(left, rgb.shape[1] - side)
        small = rgb[top : top + side, left : left + side].copy()
        sharp = to_uint8(card.net(to_tensor(small[None])))[0]

        before = folder / f"x{scale}_{photo}.png"  # students of one scale share it
        after = folder / f"{card.file.stem}_{photo}.jpg"
        folder.mkdir(exist_ok=True)
        files.write_png(before, Image.fromarray(small))
        Image.fromarray(sharp).save(after, quality=90)
        pairs.append((before, after))
    return pairs


# ---- for a model library


def as_library_entry(card: Card, samples: list[tuple[Path, Path]]) -> dict[str, Any]:
    """An entry of OpenModelDB, whose file there is data/models/`card.library_id`.json.

    Only a x4 student is of an architecture that the library knows.
    """
    here = f"https://github.com/{REPO_SLUG}/raw/main/assets/weights/"
    settings = card.parts[-1]
    entry = {
        "name": card.name,
        "author": REPO_SLUG.split("/")[0],
        "license": LICENCE,
        "tags": card.words.tags,
        "description": "\n\n".join(
            [
                card.summary,
                f"Teacher: {card.teacher}. Validation: {card.validation}. "
                f"{card.facts['student']['params']:,} parameters, "
                f"{card.facts['student']['gmac_1024']:.1f} GMAC for a 1024x1024 output.",
                *card.words.text.strip().split("\n\n"),
            ]
        ).strip(),
        "date": card.date,
        "architecture": "compact" if card.net.scale == 4 else "compact-unshuffle",
        "size": [f"{card.net.feat}nf", f"{card.net.convs}nc"],
        "scale": card.net.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [
            {
                "platform": "pytorch",
                "type": "pth",
                "size": card.file.stat().st_size,
                "sha256": files.sha256(card.file),
                "urls": [here + card.file.name],
            }
        ],
        "trainingIterations": card.facts["history"]["step"][-1],
        "trainingBatchSize": settings["train.batch"],
        "trainingHRSize": settings["data.crop"],
        "trainingOTF": False,
        "dataset": card.dataset,
        "datasetSize": len(card.facts["photos"]["train"]),
        "images": [
            {"type": "paired", "LR": f"{here}samples/{before.name}", "SR": f"{here}samples/{after.name}"}
            for before, after in samples
        ],
    }
    teacher = LIBRARY_TEACHERS.get(card.facts["labels"]["teacher"])
    if teacher and card.parts[0]["train.init"] == "teacher":
        entry["pretrainedModelG"] = teacher
    return entry


# ---- for people


def as_markdown(card: Card, samples: list[tuple[Path, Path]]) -> str:
    name = card.file.stem
    rows = {
        "network": card.network,
        "teacher": card.teacher,
        "photos": f"{card.dataset}; names and hashes in [{name}.json]({name}.json)",
        "crops": card.crops,
        "loss": card.loss,
        "training": card.training,
        "validation": f"{card.validation} ([curve]({name}.curve.png))",
        "file": f"{card.file.stat().st_size:,} bytes, sha256 {files.sha256(card.file)[:12]}..., licence {LICENCE}",
        "for a model library": f"[{name}.card.json]({name}.card.json), there as data/models/{card.library_id}.json",
        "settings, versions, learning curve": f"[{name}.json]({name}.json), and `meta` in the file",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())

    command = f"python -m benchmarks.ship assets/weights/{name}.toml --workdir D --set data.photos=PHOTOS"
    made = f"    {command} \\\n        data.test_photos=TEST {card.words.arguments}".rstrip()
    if card.before:
        first = Path("assets/weights") / Path(card.before).with_suffix(".pth")
        made += f"\n\nwhich makes what it begins with, too; `--before {first.as_posix()}` takes that from here."

    pictures = " ".join(f"![{after.stem}](samples/{after.name})" for _, after in samples)
    sigma = SAMPLE_BLUR[card.net.scale]
    blurred = f", blurred by sigma {sigma:g} before" if sigma else ""
    sections = [
        f"# {card.file.name}",
        card.summary,
        f"| | |\n|---|---|\n{table}",
        f"Scores: [README](../../README.md#results), [docs/RESULTS.md](../../docs/RESULTS.md). Made by\n\n{made}",
        card.words.text.strip(),
        f"{pictures}\n\nParts of scikit-image's {' and '.join(SAMPLES)} through it{blurred}, {_enlargement(card)}.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _enlargement(card: Card) -> str:
    if card.net.scale == 1:
        return "at their own size"
    return f"enlarged {card.net.scale} times"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", type=Path, help="students with their .json and .toml beside them")
    args = parser.parse_args(argv)
    for weights in args.weights or sorted((ROOT / "assets" / "weights").glob("student_*.pth")):
        write_cards(weights, weights.with_suffix(".toml"))
        print(f"{weights.with_suffix('.md')}, {card_file(weights).name}")


if __name__ == "__main__":
    main()
