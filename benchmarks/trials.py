"""Trials of training choices: python -m benchmarks.trials FILE.toml [NAME ...] --workdir DIR [--set ...]

Each trial of the file is a set of overrides on the common ones; it trains in DIR/trials/NAME on the crops and labels of
DIR, which are made first, unless it changes what these depend on. Writes DIR/trials/trials.md: what each changes, what
it cost, and the scores of the EMA student on the common validation crops, to the common teacher. A trial that was done
is not done again: two processes can share the work by NAME.
"""

from __future__ import annotations

import argparse
import os
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_utils import config, label, prepare, provenance, train
from kd_utils.common import files
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.data import crops
from kd_utils.evaluation import metrics
from kd_utils.models import student
from kd_utils.models.vgg import VGGFeatures, load_vgg, vgg_distance
from kd_utils.workdir import Workdir

OWN = {"crops": ("data.", "degrade."), "labels": ("data.", "degrade.", "label.", "teacher")}  # what asks for its own


def run(
    cfg: config.Config, folder: Path, common: config.Config, changed: list[str], vgg: VGGFeatures | None
) -> dict[str, Any]:
    """Train `cfg` in `folder`, on the crops and labels of `common` where it `changed` nothing of theirs; its scores."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "trial.json"
    settings = config.to_dict(cfg, "seed", "scale", *OWN["labels"], "student.", "loss.", "train.")
    if done.is_file():
        kept = files.read_json(done)
        made = provenance.with_defaults(kept.get("settings", {}), settings)
        provenance.require_same(done, made, settings, f"Delete {folder} to do this trial anew.")
        return kept
    here = replace(cfg, workdir=str(folder))
    for name, keys in OWN.items():
        if any(key.startswith(keys) for key in changed):
            {"crops": prepare.prepare, "labels": label.label}[name](here)
        elif not (folder / name).exists():
            (folder / name).symlink_to(os.path.relpath(Workdir.of(common).root / name, folder))
    start = time.process_time()
    out = train.train(here)
    cost = {"settings": settings, "cpu_s": time.process_time() - start, "steps": cfg.train.steps}
    net = student.load(out.student)
    files.write_json(done, cost | {"gmac": student.gmac(net, cfg.scale)} | scores(common, net, vgg))
    return files.read_json(done)


@torch.inference_mode()
def scores(cfg: config.Config, net: student.Student, vgg: VGGFeatures | None) -> dict[str, float]:
    """Means over the validation crops of `cfg`; the VGG19 distance to the original over every fourth (it is slow)."""
    batch = crops.Crops(Workdir.of(cfg), crops.read_index(cfg), "valid").all()
    lr, labels, hr = batch.lr.numpy(), batch.label.numpy(), batch.hr.numpy()
    out = np.concatenate([to_uint8(net(to_tensor(lr[i : i + 16]))) for i in range(0, len(lr), 16)])
    found: dict[str, float] = {}
    for name, ref in (("teacher", labels), ("original", hr)):
        for key, score in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
            found[f"{key}_{name}"] = float(np.mean([score(a, b, 4, True) for a, b in zip(out, ref, strict=True)]))
    if vgg:
        found["vgg"] = vgg_distance(to_tensor(out[::4]), to_tensor(hr[::4]), vgg).mean().item()
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("names", nargs="*", help="default: all trials of the file")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    spec = tomllib.loads(args.file.read_text())
    trials = {name: spec["trials"][name] for name in args.names or spec["trials"]}

    def make(changes: dict) -> config.Config:
        cfg = config.make(spec["preset"], spec["common"] | {"workdir": args.workdir})
        config.override(cfg, args.set)
        config.check(config.override(cfg, changes))
        return cfg

    common = make({})
    prepare.prepare(common)
    label.label(common)
    vgg = load_vgg(common.loss.vgg) if common.loss.vgg != "imagenet" else None
    if not vgg:
        print("The VGG19 distance is left out: set loss.vgg to the path of ImageNet weights.")
    folder = Path(args.workdir) / "trials"
    for name, changes in trials.items():
        print(f"trial {name}: {changes}\n{run(make(changes), folder / name, common, list(changes), vgg)}", flush=True)
    lines = [
        "| trial | changes | GMAC | steps | CPU s | PSNR-Y, SSIM-Y to the teacher | to the original | VGG19 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, changes in spec["trials"].items():
        if (folder / name / "trial.json").is_file():
            r = files.read_json(folder / name / "trial.json")
            what = ", ".join(f"{k}={v}" for k, v in changes.items()) or "nothing"
            pairs = [f"{r[f'psnr_{ref}']:.2f}, {r[f'ssim_{ref}']:.4f}" for ref in ("teacher", "original")]
            row = [
                name,
                what,
                f"{r['gmac']:.1f}",
                r["steps"],
                f"{r['cpu_s']:.0f}",
                *pairs,
                f"{r['vgg']:.3f}" if "vgg" in r else "",
            ]
            lines.append("| " + " | ".join(map(str, row)) + " |")
    text = "\n".join(lines) + "\n"
    files.write_bytes(folder / "trials.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
