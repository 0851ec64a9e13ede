"""Seconds for a megapixel of output: the student in PyTorch and onnxruntime, and the teachers' architectures.

    python -m benchmarks.speed [--model PATH] [--side 192] [--repeats 7] [--threads N]

All take turns, round after round, so that a busy machine slows them alike; medians. The architectures have random
weights: speed does not depend on them. CPU only: there the choice of sharpen's default engine is made.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kd_utils import config
from kd_utils.evaluation.costs import time_interleaved
from kd_utils.models import engines, student
from kd_utils.models.onnx_graph import graph


def rrdbnet(blocks: int) -> nn.Module:
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    return RRDBNet(in_nc=3, out_nc=3, num_filters=64, num_blocks=blocks, scale=4).eval()


def session(net: student.Student, threads: int) -> Callable[[Tensor], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    data = graph(net).SerializeToString()
    run = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: run.run(None, {"image": x.numpy()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a student (default: the x4 one that ships)")
    parser.add_argument("--side", type=int, default=192, help="of the output / 4, in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-rrdbnet", action="store_true", help="leave out the slow official architectures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cpu = torch.device("cpu")
    net = student.load(args.model or config.shipped("student_x4_m.pth"))
    x = torch.rand(1, 3, args.side * 4 // net.scale, args.side * 4 // net.scale)
    name = f"student x{net.scale} {net.feat}/{net.convs}"
    runs = {
        f"{name}, PyTorch as sharpen runs it (channels_last)": (net, engines.torch_engine(student.fuse(net), cpu)),
        f"{name}, PyTorch": (net, student.fuse(net)),
        f"{name}, onnxruntime": (net, session(net, args.threads)),
    }
    small = torch.rand(1, 3, args.side, args.side)
    compact = student.Student(64, 32).eval()
    runs["Compact 64/32 (general_x4v3), PyTorch channels_last"] = (
        compact,
        engines.torch_engine(student.fuse(compact), cpu),
    )
    if not args.no_rrdbnet:
        teacher = rrdbnet(6)
        runs["RRDBNet 64/6 (anime_6B), PyTorch channels_last"] = (teacher, engines.torch_engine(teacher, cpu))
    with torch.inference_mode():
        jobs = {label: partial(run, x if of is net else small) for label, (of, run) in runs.items()}
        times = time_interleaved(jobs, args.repeats)
    base = None
    print(f"{args.threads} threads, torch {torch.__version__}, output {args.side * 4} x {args.side * 4}")
    print("| network and engine | s/MP | slower | GMAC per 1024x1024 |\n|---|---|---|---|")
    for label, (of, _) in runs.items():
        seconds = times[label] / 1000 / ((args.side * 4) ** 2 / 1e6)
        base = base or seconds
        print(f"| {label} | {seconds:.3f} | {seconds / base:.2f}x | {student.gmac(of, getattr(of, 'scale', 4)):.1f} |")


if __name__ == "__main__":
    main()
