"""What each term of the loss adds to a training step, and how much of a step waits for data.

    python -m benchmarks.training_terms [--sizes m] [--steps 40]

Trains on crops of scikit-image's photos by a student that ships, so that nothing is downloaded; VGG19 has random
weights, which cost what ImageNet's cost. Times are the clock's, medians of the steps after the first five: no use on
a machine that others load.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Peaks, Row
from kd_utils import label, prepare, train
from kd_utils.config import make
from kd_utils.data.crops import Batch

TERMS = {
    "L1": "",
    "L1, sharper labels": "loss.usm=1.5",
    "L1, VGG19": "loss.perceptual=0.1",
    "L1, adversarial": "loss.adversarial=0.02",
    "L1, VGG19, adversarial, grid": "loss.perceptual=0.1 loss.adversarial=0.02 loss.screen=1",
}
FIRST = 5  # steps that warm up


class Watch:
    """Wraps `train.batches`: the seconds of each step, and those of them in which it waited for its batch."""

    def __init__(self, batches: Callable[..., Iterator[Batch]]):
        self.batches = batches
        self.steps: list[float] = []
        self.waits: list[float] = []

    def __call__(self, *args: object) -> Iterator[Batch]:
        loaded, begun = self.batches(*args), time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(loaded, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - asked)
            yield batch
            self.steps.append(time.perf_counter() - begun)
            begun = time.perf_counter()


def timed(settings: str) -> tuple[float, float]:
    """Milliseconds of a training step, and the share of it that waits for data."""
    real = train.batches
    watch = Watch(real)
    train.batches = watch
    try:
        train.train(make("quick", settings))
    finally:
        train.batches = real
    steps, waits = watch.steps[FIRST:-1], watch.waits[FIRST:-1]  # the last one validates and saves
    return 1000 * statistics.median(steps), sum(waits) / sum(steps)


def bench(args: argparse.Namespace, peaks: Peaks) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        crops = (
            f"teacher=student_x4_photo_s data.crop=256 data.crops_per_photo=4 workdir={Path(name, 'work')} device=cpu"
        )
        prepare.prepare(make("quick", crops))
        label.label(make("quick", crops))
        for size in args.sizes:
            base = 0.0
            for dtype in ("fp32", "bf16") if measure.machine()["bf16"] else ("fp32",):
                for terms, chosen in TERMS.items():
                    settings = f"{crops} student.size={size} student.expand=0 train.init= train.optimizer=adam "
                    settings += (
                        f"train.steps={args.steps} train.valid_every=1000 train.save_every=1000 loss.vgg=random "
                    )
                    settings += f"loss.crop=64 train.baseline=no train.dtype={dtype} {chosen}"
                    ms, waits = timed(settings)
                    base = ms if terms == "L1" else base
                    print(f"{size}, {terms}, {dtype}: {ms / base - 1:+.2f} of a step by L1, {waits:.1%} waits for data")
                    row = Row(
                        "training_terms", f"{size}, {terms}", "torch", dtype, args.threads, ms, None, base / ms, "L1"
                    )
                    rows.append(row)
    return rows


def parser() -> argparse.ArgumentParser:
    parser = measure.options(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["m"], help="of the student (default: m)")
    parser.add_argument("--steps", type=int, default=40, help="of each training (default: 40)")
    return parser


if __name__ == "__main__":
    measure.run(parser().parse_args(), bench)
