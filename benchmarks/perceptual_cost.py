"""What the perceptual term costs beside the student's own training step.

    python -m benchmarks.perceptual_cost [--size s] [--batch 16] [--side-lr 64] [--threads N] [--vgg random]

The steps with and without the term alternate in one run, so that a busy machine slows all of them alike; medians.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch

from kd_utils.common import devices
from kd_utils.evaluation.costs import time_interleaved
from kd_utils.models import student
from kd_utils.models.vgg import load_vgg
from kd_utils.training import losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="s", choices=student.SIZES)
    parser.add_argument("--expand", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side-lr", type=int, default=64)
    parser.add_argument("--vgg", default="random", help="the weights do not change the cost")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    runtime = devices.resolve_runtime(args.device, training=True)
    where = runtime.device
    net = student.build(args.size, 4, args.expand).to(where, memory_format=torch.channels_last)
    vgg = load_vgg(args.vgg, device=where)
    adam = torch.optim.Adam(net.parameters(), 1e-4)
    small, large = args.side_lr, 4 * args.side_lr
    lr = torch.rand(args.batch, 3, small, small, device=where).contiguous(memory_format=torch.channels_last)
    target = torch.rand(args.batch, 3, large, large, device=where)
    rng = np.random.default_rng(0)

    def step(side: int, fraction: float) -> None:
        with runtime.autocast():
            pred = net(lr)
            loss = losses.l1(pred, target)
            if side:
                crops = losses.sub_crops(pred, target, side, fraction, rng.random((args.batch, 2)))
                loss = loss + 0.05 * losses.perceptual(*crops, vgg)
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        if where.type == "cuda":
            torch.cuda.synchronize()

    cases = {
        f"with the term on {fraction:.0%} of the batch at {side} px" if side else "the student's own step": (
            side,
            fraction,
        )
        for side, fraction in [(0, 0.0), (32, 0.25), (64, 0.25), (64, 1.0)]
    }
    times = time_interleaved({what: partial(step, *case) for what, case in cases.items()}, args.repeats, warm=2)
    own = times["the student's own step"]
    print(f"student {args.size}, expand {args.expand}, batch {args.batch} of {small}x{small}", end=", ")
    print(f"{where}, {runtime.dtype}, {args.threads} threads")
    for what, ms in times.items():
        print(f"{what:50} {ms:8.1f} ms   the term: {(ms - own) / own:5.2f} of the student's own step")


if __name__ == "__main__":
    main()
