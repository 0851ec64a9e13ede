"""A picture through each student and each engine, beside animevideov3 and the official enhance with anime_6B.

    python -m benchmarks.upscaling [--input 480x270] [--threads 1] [--no-enhance] [--int8 FOLDER]

480x270 in gives 1080p out. `--int8` also times the models that `export --to openvino --int8` put into a folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import measure, theirs
from benchmarks.measure import Peaks, Row
from kd_utils.common import devices
from kd_utils.common.tensors import to_uint8
from kd_utils.models import cpu_engines, engines, shipped, student
from kd_utils.models.teacher import find_teacher, load_network

PEER = "animevideov3"
ENHANCE = "official enhance, anime_6B"


def networks() -> dict[str, nn.Module]:
    nets: dict[str, nn.Module] = {size: student.fuse(student.load(shipped.find_student(size, 4))) for size in "sml"}
    return nets | {PEER: load_network(find_teacher(PEER).path).net}


def engines_of(net: nn.Module, int8: Path | None) -> dict[tuple[str, str], Callable[[Tensor], Tensor]]:
    cpu = torch.device("cpu")
    runs = {("torch", "fp32"): engines.torch_engine(net, cpu)}
    runs["onnxruntime", "fp32"] = cpu_engines.onnx_run(net)
    runs["OpenVINO", "fp32"] = cpu_engines.openvino_run(net)
    if devices.has_fast_bf16():
        runs["torch", "bf16"] = engines.torch_engine(net, cpu, torch.bfloat16)
        runs["OpenVINO", "bf16"] = cpu_engines.openvino_run(net, bf16=True)
    if int8 and int8.is_file():
        import openvino

        runs["OpenVINO", "int8"] = cpu_engines.openvino_model_run(openvino.Core().read_model(int8))
    return runs


@torch.inference_mode()
def bench(args: argparse.Namespace, peaks: Peaks) -> list[Row]:
    width, height = map(int, args.input.split("x"))
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    jobs, gmac = {}, {}
    for name, net in networks().items():
        gmac[name] = student.gmac(net) * 16 * width * height / 1024**2
        int8 = args.int8 / f"student_x4_{name}.xml" if args.int8 else None
        for (engine, dtype), run in engines_of(net, int8).items():
            jobs[name, engine, dtype] = partial(run, x)

    timed = measure.by_turns(jobs, args.turns, args.threads)
    rows = measure.rows_of("upscaling", timed, args.threads, PEER, peaks, gmac)
    if args.no_enhance:
        return rows

    # once is enough for what takes a hundred times as long
    with tempfile.TemporaryDirectory() as folder:
        enhance = theirs.enhancer("anime_6B", Path(folder))
        image = to_uint8(x)[0]
        start = measure.clock(args.threads)
        enhance(image)
        ms = 1000 * (measure.clock(args.threads) - start)
    best = {
        size: min(ms for (name, _, dtype), ms in timed.items() if name == size and dtype != "int8") for size in "sml"
    }
    both = {(ENHANCE, "torch", "fp32"): ms} | {(size, "its fastest", ""): best[size] for size in best}
    return rows + measure.rows_of("enhance", both, args.threads, ENHANCE, peaks=peaks)


def parser() -> argparse.ArgumentParser:
    parser = measure.options(__doc__)
    parser.add_argument("--input", default="480x270", help="width x height (default: 480x270)")
    parser.add_argument("--no-enhance", action="store_true", help="leave out the official enhance, which is slow")
    parser.add_argument("--int8", type=Path, help="a folder of student_x4_*.xml")
    return parser


if __name__ == "__main__":
    measure.run(parser().parse_args(), bench)
