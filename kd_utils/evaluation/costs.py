"""What a student, bicubic and the teacher cost: parameters, multiply-adds, time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kd_utils.common import devices
from kd_utils.common.tensors import enlarged
from kd_utils.config import Config
from kd_utils.evaluation import report, timing
from kd_utils.models import student, teacher


@torch.inference_mode()
def measure(
    cfg: Config, students: dict[str, student.Student], teach: teacher.Teacher, device: torch.device
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Parameters, GMAC for a 1024x1024 output and milliseconds an output megapixel of each row, and how it was timed.

    The student without a teacher is the student's own network: it is not timed again.
    """
    side = max(4, cfg.eval.time_side // 4 * 4)
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    runs = {
        "bicubic": lambda: enlarged(x, cfg.scale),
        "student": lambda: students["student"](x),
        "teacher": lambda: teacher.teacher_target(teach.net, x, cfg.scale, cfg.label.input_scale),
    }
    half = devices.inference_dtype(device)

    def waited(run: Callable[[], Tensor]) -> None:
        with torch.autocast(device.type, half, enabled=half != torch.float32):
            run()[0, 0, 0, 0].item()  # waits for the device

    took = timing.time_interleaved({row: partial(waited, run) for row, run in runs.items()}, cfg.eval.time_repeats)
    megapixels = (side * cfg.scale) ** 2 / 1e6
    costs: dict[str, dict[str, Any]] = {row: dict.fromkeys(report.COSTS) for row in report.ROWS}
    for row, ms in took.items():
        costs[row]["ms_per_megapixel"] = ms / megapixels
    share = cfg.label.input_scale**2  # of the teacher's input that is left at scale 1
    for row, net, part in (("student", students["student"], 1), ("teacher", teach.net, share)):
        costs[row] |= {"params": student.count_parameters(net), "gmac_256": student.gmac(net, cfg.scale) * part}
    if "student_no_teacher" in students:
        costs["student_no_teacher"] = dict(costs["student"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    engine = f"PyTorch {torch.__version__.split('+')[0]}, {str(half).removeprefix('torch.')}, {name}"
    how = {"engine": engine, "threads": torch.get_num_threads(), "input_side": side, "turns": cfg.eval.time_repeats}
    return costs, how
