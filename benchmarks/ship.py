"""One command from photos to a student in assets/weights: python -m benchmarks.ship RECIPE.toml --workdir D --set ...

    python -m benchmarks.ship assets/weights/student_x4_s.toml --workdir D --set data.photos=PHOTOS \\
        data.test_photos=TEST teacher=realesr-general-x4v3.pth

Prepares, labels and trains by the recipe (each goes on where it was), then writes beside the recipe the fused student,
NAME.json (settings, photos with sha256, teacher's sha256, versions, the whole learning curve) and NAME.curve.png.
Recipes that ask for the same crops and labels can share them: link D/crops and D/labels to those of another run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_utils import data, show, store, student, teacher, train
from kd_utils.__main__ import read_recipe
from kd_utils.config import Config, make


def read(recipe: Path, workdir: str, sets: list[str]) -> Config:
    """The recipe's settings, then `sets`. Raises ConfigError."""
    spec = read_recipe(recipe)
    return make(spec.pop("preset", "colab"), [f"{k}={v}" for k, v in spec.items()] + sets, workdir=workdir)


def write(cfg: Config, trained: train.Trained, to: Path) -> None:
    """`to`.pth, .json and .curve.png of a finished training; no path of this machine is kept."""
    net = student.load(trained.student)
    history = store.read_json(trained.history)
    index = data.read_index(cfg)
    settings = {k: v for k, v in net.meta["provenance"].items() if not k.startswith("labels.")}
    if settings.get("train.init"):
        settings["train.init"] = Path(settings["train.init"]).name
    labels = {k.removeprefix("labels."): v for k, v in net.meta["provenance"].items() if k.startswith("labels.")}
    meta = {"provenance": settings, "versions": net.meta["versions"], "history": history["valid"][-1]}
    student.save(net, to.with_suffix(".pth"), meta | {"teacher_sha256": labels["teacher_sha256"]})
    facts = {
        "student": {"params": student.params(net), "gmac_1024": student.gmac(net, cfg.scale)},
        "settings": {k: v for k, v in index["provenance"].items() if k != "photos"} | settings,
        "labels": labels,
        "versions": net.meta["versions"],
        "photos": index["provenance"]["photos"],
        "history": history,
    }
    store.write_json(to.with_suffix(".json"), facts)
    store.write_png(to.with_suffix(".curve.png"), show.curve(history, to.stem))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--to", type=Path, help="where to (default: beside the recipe, under its name)")
    args = parser.parse_args(argv)
    cfg = read(args.recipe, args.workdir, args.set)
    data.prepare(cfg)
    teacher.label(cfg)
    write(cfg, train.train(cfg), args.to or args.recipe)


if __name__ == "__main__":
    main()
