"""One command from photos to a student in assets/weights: python -m benchmarks.ship RECIPE.toml --workdir D --set ...

    python -m benchmarks.ship assets/weights/student_x4_photo_s.toml --workdir D --set data.photos=PHOTOS \\
        data.test_photos=TEST loss.vgg=VGG19

Prepares, labels and trains by the recipe (each goes on where it was), then writes beside the recipe the fused student,
NAME.json (settings, photos with sha256, teacher's sha256, versions, the whole learning curve), NAME.curve.png, and its
card as NAME.md and NAME.card.json (benchmarks/cards.py), with the words of the recipe's table [card].
Recipes that ask for the same crops and labels can share them: link D/crops and D/labels to those of another run.

A recipe may begin with another one's student: `before = "before/student_x4_photo_s_2.toml"`, a path beside it. That one
is then made first, in D/before, with the same --set; `--before FILE.pth` takes a student it made earlier (its .json
beside it). The .json and the curve hold both.

A recipe may end with a table [blend]: `with` names another student in assets/weights, `share` how much of its weights
is in the mean of both that is written (network interpolation, Wang et al. 2018, arXiv:1809.00219, section 3.4).

On many cores, when the crops and labels are there, with --before where there is a `before`:
torchrun --nproc_per_node=2 -m benchmarks.ship ...
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import cards
from kd_utils import label, prepare, train
from kd_utils.__main__ import read_recipe
from kd_utils.common import devices, files
from kd_utils.config import Config, ConfigError, make
from kd_utils.data.crops import read_index
from kd_utils.evaluation import curves
from kd_utils.models import student
from kd_utils.models.student import Student
from kd_utils.own_files import shipped

BLEND = ("blend.with", "blend.share")


def read(recipe: Path, workdir: str, sets: list[str]) -> Config:
    """The recipe's settings, then `sets`. Raises ConfigError."""
    spec = read_recipe(recipe)
    for key in ("before", *BLEND):
        spec.pop(key, None)
    return make(spec.pop("preset", "colab"), [f"{k}={v}" for k, v in spec.items()] + sets, workdir=workdir)


def ship(recipe: Path, workdir: str, sets: list[str], to: Path, before: Path | None = None) -> Path:
    """Make the student of a recipe, and first the one it begins with; returns `to`.pth. Raises ConfigError."""
    first = read_recipe(recipe).get("before")
    if before and not first:
        raise ConfigError(f"--before {before}: {recipe} begins with no other student (it has no `before = ...`)")
    if first:
        under = Path(workdir) / "before"
        if not before and devices.process_count() > 1:
            raise ConfigError(
                f"{recipe} begins with another student: many processes make one student at a time; make "
                f"{recipe.parent / first} first, then give it with --before"
            )
        before = before or ship(recipe.parent / first, str(under), sets, under / Path(first).stem)
        if not before.with_suffix(".json").is_file():
            raise ConfigError(f"{before.with_suffix('.json')} is missing: it tells how {before} was made")
        sets = [*sets, f"train.init={before}"]
    cfg = read(recipe, workdir, sets)
    prepare.prepare(cfg)
    label.label(cfg)
    trained = train.train(cfg)
    if devices.process_rank() == 0:
        write(cfg, trained, blend_of(recipe), to, before)
        cards.write_cards(to.with_suffix(".pth"), recipe)
    return to.with_suffix(".pth")


def blend_of(recipe: Path) -> tuple[str, float] | None:
    """The student that the trained one is blended with, and its share. Raises ConfigError."""
    spec = read_recipe(recipe)
    name, share = (spec.get(key) for key in BLEND)
    if name is None and share is None:
        return None
    if not (isinstance(name, str) and isinstance(share, int | float) and 0 < share < 1):
        raise ConfigError(f"{recipe}: [blend] wants `with`, a student that ships, and `share`, between 0 and 1")
    return name, share


def blended(net: Student, other: Student, share: float) -> Student:
    """The mean of two students' weights, `share` of it from the other. Raises ConfigError for another shape."""
    if (net.feat, net.convs, net.scale) != (other.feat, other.convs, other.scale):
        raise ConfigError("[blend] wants a student of the same size and scale")
    theirs = other.state_dict()
    net.load_state_dict({key: torch.lerp(own, theirs[key], share) for key, own in net.state_dict().items()})
    return net


def joined(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """The learning curve of two trainings, one after the other."""
    done = first["valid"][-1]["step"]
    out = {key: first[key] + then[key] for key in ("loss", "lr")}
    out["step"] = first["step"] + [n + done for n in then["step"]]
    return out | {"valid": first["valid"] + [v | {"step": v["step"] + done} for v in then["valid"]]}


def write(
    cfg: Config, trained: train.Trained, blend: tuple[str, float] | None, to: Path, before: Path | None = None
) -> None:
    """`to`.pth, .json and .curve.png of a finished training; no path of this machine is kept."""
    net = student.load(trained.student)
    history = files.read_json(trained.history)
    index = read_index(cfg)
    settings = {k: v for k, v in net.meta["provenance"].items() if not k.startswith("labels.")}
    labels = {k.removeprefix("labels."): v for k, v in net.meta["provenance"].items() if k.startswith("labels.")}
    meta = {"provenance": settings, "versions": net.meta["versions"], "history": history["valid"][-1]}
    meta |= {"teacher": labels["teacher"], "teacher_sha256": labels["teacher_sha256"]}
    earlier = {}
    if blend:
        path = shipped(f"{blend[0]}.pth")
        net = blended(net, student.load(path), blend[1])
        earlier["blend"] = {"with": blend[0], "sha256": files.sha256(path), "share": blend[1]}
        meta |= {"blend": earlier["blend"]}
    student.save(net, to.with_suffix(".pth"), meta)
    if before:
        facts = files.read_json(before.with_suffix(".json"))
        history = joined(facts["history"], history)
        earlier["before"] = {k: facts[k] for k in ("settings", "labels", "versions", "before") if k in facts}
        earlier["before"]["sha256"] = files.sha256(before.read_bytes())
    facts = {
        "student": {"params": student.count_parameters(net), "gmac_1024": student.gmac(net, cfg.scale)},
        "settings": {k: v for k, v in index.provenance.items() if k != "photos"} | settings,
        "labels": labels,
        "versions": net.meta["versions"],
        "photos": index.provenance["photos"],
        "history": history,
    } | earlier
    files.write_json(to.with_suffix(".json"), facts)
    files.write_png(to.with_suffix(".curve.png"), curves.curve(history, to.stem))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--to", type=Path, help="where to (default: beside the recipe, under its name)")
    parser.add_argument("--before", type=Path, help="the student the recipe begins with, where it was made already")
    args = parser.parse_args(argv)
    ship(args.recipe, args.workdir, args.set, args.to or args.recipe, args.before)


if __name__ == "__main__":
    main()
