"""What the verification of crops and labels costs beside a training step:

    python -m benchmarks.verification --workdir DIR [--preset quick] [--set ...]

DIR has crops and labels of these settings (steps 1 and 2). CPU time is counted, so that a busy machine does not matter
much: of opening every shard with its checksum and without, and of a step as the difference of two trainings.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from kd_utils import train
from kd_utils.common import files
from kd_utils.config import Config, make
from kd_utils.data.crops import read_index
from kd_utils.workdir import Workdir

FEW, MANY = 5, 25  # steps of the two trainings


def opening(cfg: Config, verify: bool) -> float:
    """CPU seconds of opening all shards that a training reads."""
    work, index = Workdir.of(cfg), read_index(cfg)
    began = time.process_time()
    for shard in index.shards:
        files.load_arrays(work.crops / shard.file, verify)
        files.load_arrays(work.labels / shard.file, verify)
    return time.process_time() - began


def training(cfg: Config, steps: int) -> float:
    """CPU seconds of a training of so many steps, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("crops", "labels"):
            os.symlink(cfg.path(part).resolve(), Path(folder, part))
        settings = replace(cfg.train, steps=steps, baseline=False)
        began = time.process_time()
        train.train(replace(cfg, workdir=folder, train=settings))
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = make(args.preset, args.set, workdir=args.workdir)

    size = sum(p.stat().st_size for part in ("crops", "labels") for p in cfg.path(part).glob("*.safetensors"))
    cost = statistics.median(opening(cfg, True) - opening(cfg, False) for _ in range(args.turns))
    training(cfg, 1)  # what is loaded once
    step = statistics.median((training(cfg, MANY) - training(cfg, FEW)) / (MANY - FEW) for _ in range(args.turns))
    print(f"{size / 2**20:.0f} MiB of crops and labels: verified in {1000 * cost:.0f} ms of CPU time, once a run")
    print(f"a training step (student {cfg.student.size}, batch {cfg.train.batch}): {1000 * step:.0f} ms")
    print(
        f"that is the time of {cost / step:.1f} steps, {100 * cost / step / cfg.train.steps:.2f}% of the "
        f"{cfg.train.steps:,} steps of a run"
    )


if __name__ == "__main__":
    main()
