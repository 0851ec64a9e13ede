"""A training step, batch 8 of 64x64, L1 and Adam: ours with its loader beside BasicSR's SRModel with its own.

    python -m benchmarks.training_step [--sizes s,m] [--threads 1] [--profile]

`--profile` also prints which operators a step of ours spends its time in. Both train the same plain network. Crops are
random pixels, of which a PNG takes as long as a photo of strong grain.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure, theirs
from benchmarks.measure import Peaks, Row
from kd_utils import train
from kd_utils.common import devices
from kd_utils.common.devices import Runtime
from kd_utils.config import Config, make
from kd_utils.data.crops import Batch, Crops
from kd_utils.models import student
from kd_utils.training.batches import batches
from kd_utils.training.run import Run
from kd_utils.training.state import TrainState

BATCH, SIDE, COUNT = 8, 64, 64


class MadeCrops(Crops):
    """Crops in memory, read as those of a work folder are."""

    def __init__(self, lr: np.ndarray, hr: np.ndarray):
        self.shards = [(lr, hr, hr)]
        self.starts = [0, len(lr)]


def ours(size: str, crops: MadeCrops, dtype: str) -> Callable[[], None]:
    cfg = settings(size)
    runtime = devices.resolve_runtime("cpu", dtype, training=True)
    net = student.build(size)
    state = TrainState.initial(net.train(), cfg.train, runtime)
    run = _Run(cfg, runtime)
    coming: Iterator[Batch] = batches(crops, cfg, 0, runtime, 0)
    return lambda: train.train_step(run, state, net, next(coming), None)


class _Run(Run):
    """As much of a run as a step asks for."""

    def __init__(self, cfg: Config, runtime: Runtime):
        self.cfg, self.runtime = cfg, runtime


def settings(size: str) -> Config:
    cfg = make("colab", f"student.size={size} student.expand=0 loss.gt=0 loss.gt_end=-1 loss.perceptual=0 train.init=")
    return replace(cfg, train=replace(cfg.train, batch=BATCH, optimizer="adam", clip=0.0))


def bench(args: argparse.Namespace, peaks: Peaks) -> list[Row]:
    rng = np.random.default_rng(0)
    lr = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    hr = rng.integers(0, 256, (COUNT, 4 * SIDE, 4 * SIDE, 3), dtype=np.uint8)
    crops = MadeCrops(lr, hr)
    dtypes = ["fp32", "bf16"] if devices.has_fast_bf16() else ["fp32"]

    rows = []
    for size in args.sizes.split(","):
        feat, convs = student.shape(size)
        with tempfile.TemporaryDirectory() as folder:
            theirs_name = f"BasicSR's SRModel, {size}"
            jobs = {(theirs_name, "torch", "fp32"): theirs.training(feat, convs, lr, hr, Path(folder), BATCH)}
            for dtype in dtypes:
                jobs[f"ours, {size}", "torch", dtype] = ours(size, crops, dtype)
            timed = measure.by_turns(jobs, args.turns, args.threads)
            if args.profile:
                print(
                    f"\nours, {size}: the share of each operator\n\n{profile(jobs[f'ours, {size}', 'torch', 'fp32'])}\n"
                )
        # a step multiplies three times as much as the forward pass
        gmac = 3 * BATCH * student.gmac(student.build(size), side=4 * SIDE)
        names = {name: gmac for name, _, _ in jobs}
        rows += measure.rows_of("training step", timed, args.threads, theirs_name, peaks, names)
    return rows


def profile(step: Callable[[], None], most: int = 8) -> str:
    """The operators that a step spends most time in, and their share of all, as a table."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            step()
    operators = sorted(seen.key_averages(), key=lambda op: -op.self_cpu_time_total)
    everything = sum(op.self_cpu_time_total for op in operators)
    lines = ["| operator | share |", "|---|---|"]
    for op in operators[:most]:
        lines.append(f"| {op.key} | {op.self_cpu_time_total / everything:.1%} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    parser = measure.options(__doc__)
    parser.add_argument("--sizes", default="s,m,l", help="comma between them (default: s,m,l)")
    parser.add_argument("--profile", action="store_true", help="print the operators of a step of ours")
    return parser


if __name__ == "__main__":
    torch.manual_seed(0)
    measure.run(parser().parse_args(), bench)
