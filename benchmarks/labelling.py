"""A label of a 64x64 crop by anime_6B: ours by PyTorch and by ncnn, beside the official enhance, crop by crop.

    python -m benchmarks.labelling [--threads 1]

It also holds the pictures together: ours are to equal enhance's with pre_pad 0 (its default, 10, pads each crop).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from skimage import data

from benchmarks import measure, theirs
from benchmarks.measure import Peaks, Row
from kd_utils.common import devices
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.models import ncnn_run, student
from kd_utils.models.teacher import find_teacher, load_teacher

AGAINST = "official enhance"


@torch.inference_mode()
def bench(args: argparse.Namespace, peaks: Peaks) -> list[Row]:
    crop = np.ascontiguousarray(data.astronaut()[32:96, 192:256])
    x = to_tensor(crop[None])
    teacher = load_teacher(find_teacher("anime_6B"))
    by_ncnn = ncnn_run.load(teacher)
    last = teacher.net(x)

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            teacher.net(x.contiguous(memory_format=torch.channels_last))

    with tempfile.TemporaryDirectory() as folder:
        as_it_comes = theirs.enhancer("anime_6B", Path(folder))
        unpadded = theirs.enhancer("anime_6B", Path(folder), pre_pad=0)
        jobs = {
            (AGAINST, "torch", "fp32"): lambda: as_it_comes(crop),
            ("official enhance, pre_pad 0", "torch", "fp32"): lambda: unpadded(crop),
            ("ours", "torch", "fp32"): lambda: to_uint8(teacher.net(x)),
            ("ours", "ncnn", "fp32"): lambda: to_uint8(by_ncnn(x)),
        }
        if devices.has_fast_bf16():
            jobs["ours", "torch", "bf16"] = half
        timed = measure.by_turns(jobs, args.turns, args.threads)
        same = unpadded(crop).astype(int)

    for engine, made in (("torch", last), ("ncnn", by_ncnn(x))):
        off = np.abs(to_uint8(made)[0] - same)
        print(
            f"ours by {engine} and enhance with pre_pad 0: at most {off.max()} levels, {(off > 0).sum()} of {off.size}"
        )
    gmac = student.gmac(teacher.net) / 16
    multiplied = {name: gmac for name, _, _ in jobs if name != AGAINST}  # whose padding computes more
    return measure.rows_of("labelling", timed, args.threads, AGAINST, peaks, multiplied)


if __name__ == "__main__":
    measure.run(measure.options(__doc__).parse_args(), bench)
