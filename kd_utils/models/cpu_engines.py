"""A student on the CPU by onnxruntime or OpenVINO, and how far an engine's pictures are from PyTorch's in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import torch
from torch import Tensor

from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.models import onnx_graph, student

Run = Callable[[Tensor], Tensor]  # (1, 3, h, w) in [0, 1] -> (1, 3, h*scale, w*scale)

MOST_LEVELS, LEAST_PSNR = 2, 50.0  # what half precision may change: levels of 255, and dB


@dataclass(frozen=True)
class Parity:
    """How far two engines' pictures are apart after rounding to 8 bits."""

    levels: int  # the largest difference, of 255
    psnr: float  # dB; infinity for equal pictures

    @property
    def is_close(self) -> bool:
        """Whether an engine may be chosen for its speed alone."""
        return self.levels <= MOST_LEVELS and self.psnr >= LEAST_PSNR

    def __str__(self) -> str:
        if self.levels == 0:
            return "equal to fp32 on a test picture"
        return f"at most {self.levels} of 255 levels from fp32 on a test picture, {self.psnr:.1f} dB"


def onnx_run(net: student.Student) -> Run:
    """onnxruntime in fp32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # the arena would keep the largest tile's memory
    data = onnx_graph.graph(net).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def openvino_run(net: student.Student, bf16: bool = False) -> Run:
    """OpenVINO in fp32, or in bf16. It has PReLU within its convolutions, so the graph keeps it."""
    import openvino

    data = onnx_graph.graph(net, prelu=True).SerializeToString()
    return openvino_model_run(openvino.Core().read_model(data), bf16)


def openvino_model_run(model, bf16: bool = False) -> Run:
    """An openvino.Model with one input and one output, compiled for this CPU and torch's number of threads."""
    import openvino

    settings = {
        # where the CPU has bf16 it is OpenVINO's own default, so fp32 has to be asked for
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(x: Tensor) -> Tensor:
        made = request.infer({0: x.numpy()}, share_inputs=True)[0]  # a copy: the next tile does not overwrite it
        return torch.from_numpy(made)

    return run


def has_openvino() -> bool:
    """Whether the optional extra `fast` is installed, with what writes the graph that OpenVINO reads."""
    return bool(find_spec("openvino") and find_spec("onnx"))


@torch.inference_mode()
def compare(exact: Run, fast: Run) -> Parity:
    """The difference of two engines of one network on a photo that scikit-image brings."""
    x = sample()
    a, b = to_uint8(exact(x).float()).astype(int), to_uint8(fast(x).float()).astype(int)
    squares = ((a - b) ** 2).mean()
    psnr = 10 * math.log10(255**2 / squares) if squares else math.inf
    return Parity(int(abs(a - b).max()), psnr)


def sample() -> Tensor:
    """(1, 3, 128, 128): the astronaut at a quarter of its size."""
    from skimage import data

    small = cv2.resize(data.astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    return to_tensor(small[None])
