"""What bf16 brings on a CPU, and torch.compile: python -m benchmarks.bf16_cpu TEACHER.pth

Labels of 64x64 inputs, and training steps of batch 8 of the three sizes, in fp32, in bf16 and, the steps, compiled in
bf16 (all channels-last), by turns in one run; medians, milliseconds a crop. Also how far bf16 labels are from fp32
ones. A CPU with AMX has bf16 matrix units, one with AVX512_BF16 has dot products; one with neither may be slower than
in fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from skimage import data

from kd_utils.common.tensors import bicubic, to_tensor, to_uint8
from kd_utils.evaluation import metrics
from kd_utils.evaluation.costs import time_interleaved
from kd_utils.models import student, teacher
from kd_utils.training import losses, optimizers

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def inputs(batch: int) -> torch.Tensor:
    """(batch, 3, 64, 64): the astronaut at a quarter of its size, in overlapping squares."""
    small = bicubic(to_tensor(data.astronaut()[None]), (128, 128)).clamp(0, 1)
    x = torch.cat([small[..., i : i + 64, 8 * i % 64 : 8 * i % 64 + 64] for i in range(0, 8 * batch, 8)])
    return x.contiguous(memory_format=torch.channels_last)


def step(size: str, dtype: torch.dtype, x: torch.Tensor, compiled: bool = False) -> Callable[[], None]:
    net = student.build(size).train().to(memory_format=torch.channels_last)
    if compiled:
        net.compile()
    opt = optimizers.make_optimizer("soap", net.parameters(), 1e-4, [])
    label = bicubic(x, (256, 256))

    def run() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = net(x)
        opt.zero_grad(set_to_none=True)
        losses.l1(out.float(), label).backward()
        opt.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    net = teacher.load_teacher(teacher.find_teacher(args.teacher)).net.to(memory_format=torch.channels_last)
    x = inputs(args.batch)

    @torch.inference_mode()
    def label(dtype: torch.dtype) -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return net(x).float()

    exact, half = label(torch.float32), label(torch.bfloat16)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    psnr = [metrics.psnr(a, b, 0, False) for a, b in zip(to_uint8(half), to_uint8(exact), strict=True)]
    error = -10 * (half - exact).square().mean().log10().item()
    print(f"bf16 labels: {error:.1f} dB from fp32 ones before rounding to 8 bits, {sum(psnr) / len(psnr):.1f} dB after")
    print("| | fp32, ms a crop | bf16 | bf16, compiled | times faster | compiled |\n|---|---|---|---|---|---|")
    rows = {"labels": {k: lambda d=d: label(d) for k, d in KINDS.items()}}
    for size in "sml":
        steps = {k: step(size, d, x) for k, d in KINDS.items()}
        rows[f"a step of {size}"] = steps | {"compiled": step(size, torch.bfloat16, x, compiled=True)}
    for name, jobs in rows.items():
        ms = {kind: took / args.batch for kind, took in time_interleaved(jobs, args.turns).items()}
        cells = [f"{ms[k]:.1f}" if k in ms else "" for k in ("fp32", "bf16", "compiled")]
        cells += [f"{ms['fp32'] / ms[k]:.1f}" if k in ms else "" for k in ("bf16", "compiled")]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
