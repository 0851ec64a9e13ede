"""What a student, bicubic and the teacher cost: parameters, multiply-adds, and time, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_utils.common import devices
from kd_utils.common.devices import Runtime
from kd_utils.common.tensors import enlarged
from kd_utils.config import Config
from kd_utils.evaluation.scores import ROWS, SHIPPED, START, Cost, Timing
from kd_utils.models import student, teacher


def time_interleaved(jobs: dict[str, Callable[[], object]], turns: int, warm: int = 1) -> dict[str, float]:
    """Median milliseconds of each job.

    They take turns, so that a busy machine slows all alike; the first `warm` turns are not counted. A job that leaves
    work with a GPU must wait for it.
    """
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in tqdm(range(turns + warm), desc="timing", unit="turn", leave=False):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn >= warm:
                took[name].append(1000 * (time.perf_counter() - start))

    return {name: statistics.median(ms) for name, ms in took.items()}


@torch.inference_mode()
def measure(
    cfg: Config, students: dict[str, student.Student], teach: teacher.Teacher, device: torch.device
) -> tuple[dict[str, Cost], Timing]:
    """The costs of each row, and how they were timed.

    The baseline and where the student began are the student's own network, so they are not timed again.
    """
    side = max(4, cfg.eval.time_side // 4 * 4)
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    runtime = Runtime(device, devices.inference_dtype(device))
    runs = {
        "bicubic": lambda: enlarged(x, cfg.scale),
        "student": lambda: students["student"](x),
        "teacher": lambda: teacher.teacher_target(teach.net, x, cfg.scale, cfg.label.input_scale),
    }

    def waited(run: Callable[[], Tensor]) -> None:
        with runtime.autocast():
            run()[0, 0, 0, 0].item()  # waits for the device

    took = time_interleaved({row: partial(waited, run) for row, run in runs.items()}, cfg.eval.time_repeats)

    # parameters and multiply-adds are counted, not measured
    costs = {row: Cost() for row in ROWS}
    teacher_share = cfg.label.input_scale**2  # of the teacher's input that is left at scale 1
    for row, net, share in (("student", students["student"], 1), ("teacher", teach.net, teacher_share)):
        costs[row].params = student.count_parameters(net)
        costs[row].gmac_256 = student.gmac(net, cfg.scale) * share

    megapixels = (side * cfg.scale) ** 2 / 1e6
    for row, ms in took.items():
        costs[row].ms_per_megapixel = ms / megapixels
    for row in ("baseline", START, SHIPPED):
        if row in students:
            costs[row] = costs["student"]

    return costs, Timing(engine(device, runtime.dtype), torch.get_num_threads(), side, cfg.eval.time_repeats)


def engine(device: torch.device, dtype: torch.dtype) -> str:
    """What computes, such as "PyTorch 2.6.0, float32, cpu"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"PyTorch {torch.__version__.split('+')[0]}, {str(dtype).removeprefix('torch.')}, {name}"
