"""A student in 8-bit integers for OpenVINO, by OpenVINO's own quantiser (nncf), and what that costs in dB.

The quantiser runs the student on pictures to find the range of each activation. The first and the last two convolutions
stay in fp32: that takes a tenth more time, and without it size m lost 2.1 dB instead of .2 (docs/LOG.md). The loss of
PSNR to the teacher is measured on other pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kd_utils.common.errors import ExportError
from kd_utils.models import cpu_engines, onnx_graph, student

ENDS = 2  # convolutions at either end that stay in fp32
MOST_LOSS = 0.3  # dB of PSNR to the teacher: more is not written


@dataclass(frozen=True)
class Int8:
    """A quantised student, and its mean PSNR to the teacher beside that of fp32."""

    model: Any  # openvino.Model
    psnr: float
    psnr_fp32: float

    @property
    def loss(self) -> float:
        return self.psnr_fp32 - self.psnr

    def __str__(self) -> str:
        return f"int8 is {self.psnr:.2f} dB from the teacher, fp32 {self.psnr_fp32:.2f}: a loss of {self.loss:.2f} dB"


def quantize(net: student.Student, teacher: cpu_engines.Run, pictures: Sequence[Tensor]) -> Int8:
    """Quantise by every second picture, (1, 3, h, w) in [0, 1], and measure on the others. Raises ExportError."""
    if not find_spec("nncf") or not find_spec("openvino"):
        raise ExportError("--int8 needs the packages openvino and nncf: pip install openvino nncf, or leave --int8 out")
    if len(pictures) < 2:
        raise ExportError(f"--int8 needs 2 pictures at least, and {len(pictures)} was given: name more photos")
    import nncf
    import openvino

    model = openvino.Core().read_model(onnx_graph.graph(net, prelu=True).SerializeToString())
    seen = nncf.Dataset(list(pictures[::2]), lambda picture: {"image": picture.numpy()})
    # activations behind a PReLU have both signs, which the mixed preset allows for
    mixed = nncf.QuantizationPreset.MIXED
    ends = nncf.IgnoredScope(names=_ends([op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]))
    small = nncf.quantize(model, seen, preset=mixed, subset_size=len(pictures[::2]), ignored_scope=ends)

    fp32, int8 = cpu_engines.openvino_run(net), cpu_engines.openvino_model_run(small)
    with torch.inference_mode():
        psnr, psnr_fp32 = [], []
        for picture in pictures[1::2]:
            wanted = teacher(picture)
            psnr.append(_psnr(int8(picture), wanted))
            psnr_fp32.append(_psnr(fp32(picture), wanted))
    return Int8(small, sum(psnr) / len(psnr), sum(psnr_fp32) / len(psnr_fp32))


def _ends(convolutions: list[Any]) -> list[str]:
    """The names of the convolutions that stay in fp32; of a tiny network less than a third at either end."""
    names = [op.get_friendly_name() for op in convolutions]
    count = min(ENDS, (len(names) - 1) // 3)
    return names[:count] + names[len(names) - count :]


def _psnr(a: Tensor, b: Tensor) -> float:
    """dB of RGB in [0, 1]; 100 for equal pictures."""
    squares = (a.clamp(0, 1) - b).square().mean().item()
    return min(100.0, -10 * math.log10(squares)) if squares else 100.0
