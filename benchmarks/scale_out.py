"""Labelling by one process and by two (torchrun), and what a hundred thousand crops cost beside a thousand.

    python -m benchmarks.scale_out [--crops 3840] [--teacher student_x4_photo_m]

Each process has one core. The clock's seconds count here, so it is no use on a machine that others load; the start of
the processes, which is measured with nothing left to label, is taken off. That two processes train as one does is a
test: tests/test_train_processes.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from benchmarks import measure
from benchmarks.measure import Peaks, Row
from kd_utils import prepare
from kd_utils.config import make


def label(processes: int, words: list[str]) -> float:
    """Milliseconds of step 2 by a number of processes, their start included."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "-m", "kd_utils", "label", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"labelling by {processes} processes failed:\n{done.stderr[-2000:]}")
    return 1000 * (time.perf_counter() - start)


def bench(args: argparse.Namespace, peaks: Peaks) -> list[Row]:
    timed = {}
    with tempfile.TemporaryDirectory() as name:
        photos, work = Path(name, "photos"), Path(name, "work")
        photos.mkdir()
        for n in range(16):  # 14 train: with 256 crops of each as many shards, which are shared out
            grain = np.random.default_rng(n).integers(-6, 7, data.astronaut().shape)
            cv2.imwrite(str(photos / f"{n}.png"), np.clip(data.astronaut() + grain, 0, 255).astype(np.uint8))
        settings = f"data.photos={photos} data.valid_count=1 data.test_count=1 teacher={args.teacher} device=cpu"
        settings += f" data.crops_per_photo={max(1, args.crops // 15)} workdir={work}"
        prepare.prepare(make("quick", settings))
        words = [word for setting in settings.split() for word in ("--set", setting)]

        for processes in (1, 2):
            shutil.rmtree(work / "labels", ignore_errors=True)
            ms = label(processes, words)
            ms -= label(processes, words)  # all is there: this is the start alone
            timed[f"labels by {processes} process{'es' if processes > 1 else ''}", "torch", "fp32"] = ms
    rows = measure.rows_of("scale out", timed, 1, "labels by 1 process", peaks)
    print(f"two processes are {rows[1].ratio:.2f} times as fast as one")
    return rows


def parser() -> argparse.ArgumentParser:
    parser = measure.options(__doc__)
    parser.add_argument("--crops", type=int, default=3840, help="at least 3840, or the shards of 256 do not share out")
    parser.add_argument("--teacher", default="student_x4_photo_m", help="who labels them (default: student_x4_photo_m)")
    return parser


if __name__ == "__main__":
    measure.run(parser().parse_args(), bench)
