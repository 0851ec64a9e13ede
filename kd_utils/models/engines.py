"""A network ready to sharpen photos: which file it is of, how far it reaches, and which engine runs it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from kd_utils.common import devices
from kd_utils.common.devices import Runtime
from kd_utils.common.errors import SharpenError, StudentError
from kd_utils.common.packages import installed_version
from kd_utils.common.tensors import bicubic
from kd_utils.models import cpu_engines, receptive_field, shipped, student
from kd_utils.models.cpu_engines import Run

ENGINES = ("auto", "torch", "onnx", "openvino")
STUDENTS_ONLY = ("onnx", "openvino")  # on the CPU, from the graph that a student is written as
WIDE = 32  # channels of a student from which on PyTorch's bf16 is faster than its fp32: docs/performance.md
EVEN = 0.75  # the mean gradient of a blend by w grows like w ** 1.35: measured, docs/sharpen.md


@dataclass
class Tool:
    """A network ready to sharpen."""

    net: Run  # (1, 3, h, w) in [0, 1] -> (1, 3, h*native, w*native), on `device`
    reach: receptive_field.ReceptiveField  # of the whole step, which ends at `scale`
    scale: int
    native: int  # the network's own scale
    device: torch.device
    path: Path
    engine: str  # what computes, in words

    def step(self, strength: float = 1.0) -> Callable[[Tensor], Tensor]:
        """The network, resized down if its scale is larger, blended with the plain upsampled input by `strength`.

        The blend is of the coded values, by strength ** EVEN: sharpness then grows evenly (docs/sharpen.md).
        """

        def run(x: Tensor) -> Tensor:
            size = (x.shape[2] * self.scale, x.shape[3] * self.scale)
            y = self.net(x).float()
            if self.native != self.scale:
                y = bicubic(y, size)
            if strength == 1:
                return y
            plain = x if self.scale == 1 else bicubic(x, size)
            return plain.lerp(y, strength**EVEN)

        return run


def load(model: str | Path = "", scale: int = 4, device: str = "auto", engine: str = "torch") -> Tool:
    """A student (or any x4 Real-ESRGAN checkpoint) by path, or one that ships by its name, such as "anime-m" or "m".

    A model of a larger scale than wanted is resized down. `engine` is "torch", "onnx" or "openvino" (on the CPU, in
    fp32), or "auto": the fastest here whose pictures are as good. Raises CheckpointError, ConfigError or SharpenError.
    """
    if scale not in shipped.DEFAULTS:
        raise SharpenError(f"scale={scale}: choose 4, 2 or 1")
    path = shipped.find_student(model, scale)
    where = devices.resolve_device("cpu" if engine in STUDENTS_ONLY and device == "auto" else device)
    net, native = _load_network(path, engine)
    if native < scale:
        raise SharpenError(f"{path} is a x{native} model, it cannot give --scale {scale}: choose --scale {native}")
    for name, values in net.state_dict().items():
        if not values.isfinite().all():
            raise SharpenError(f"{path} holds NaN or infinity ({name}): it is damaged, or its training went wrong")

    try:
        reach = receptive_field.measure_receptive_field(net)
    except receptive_field.UnknownReceptiveField as e:
        raise SharpenError(f"{path} cannot be tiled ({e}): choose a student, a Compact or an RRDBNet model") from e
    if native > scale:  # the resize down reads up to 2 input pixels beyond
        radius = math.ceil((reach.radius + 2) / reach.multiple) * reach.multiple
        reach = dataclasses.replace(reach, scale=scale, radius=radius)
    made = choose(net, where, engine)
    return Tool(made.run, reach, scale, native, where, path, str(made))


def _load_network(path: Path, engine: str) -> tuple[torch.nn.Module, int]:
    """A network and its scale: a student, else what `load_network` reads. Raises CheckpointError or SharpenError."""
    if path.suffix not in (".param", ".safetensors"):
        try:
            net = student.load(path)
            return net, net.scale
        except StudentError:
            if engine in STUDENTS_ONLY:
                raise
    from kd_utils.models.teacher import load_network  # with all that downloads need, so only where it is needed

    found = load_network(path)
    if engine in STUDENTS_ONLY and not isinstance(found.net, student.Student):
        raise SharpenError(f"{path} is no student, which engine {engine} needs: leave --engine out")
    return found.net, found.scale


# ---- engines


@dataclass(frozen=True)
class Engine:
    """What computes a network, and in which precision."""

    run: Run
    name: str  # with its version
    dtype: str
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.name} in {self.dtype}" + (f" ({self.remark})" if self.remark else "")


def choose(net: torch.nn.Module, device: torch.device, engine: str) -> Engine:
    """The engine of a name in `ENGINES`, ready to run `net`. Raises SharpenError where it cannot be had here.

    "auto" is PyTorch on a GPU and for networks that are no students. On a CPU it is OpenVINO where that is installed.
    There bf16 is taken where the CPU has it natively and a test picture stays within `cpu_engines.MOST_LEVELS`.
    """
    if engine not in ENGINES:
        raise SharpenError(f"engine={engine!r}: choose one of {', '.join(ENGINES)}")
    if engine in STUDENTS_ONLY and device.type != "cpu":
        raise SharpenError(
            f"engine {engine} runs on the CPU, not on {device}: leave --device out, or choose --engine torch"
        )

    if engine == "onnx":
        _require(engine, "onnxruntime", "export")
        return Engine(cpu_engines.onnx_run(net), _with_version("onnxruntime"), "fp32")
    if engine == "openvino":
        _require(engine, "openvino", "fast")
        return Engine(cpu_engines.openvino_run(net), _with_version("OpenVINO"), "fp32")
    if engine == "torch" or device.type != "cpu":
        return _torch(net, device)
    return _fastest_on_cpu(net, device)


def _torch(net: torch.nn.Module, device: torch.device, remark: str = "") -> Engine:
    dtype = "fp16" if devices.inference_dtype(device) == torch.float16 else "fp32"
    return Engine(torch_engine(net, device), _with_version("PyTorch", "torch"), dtype, remark)


def _fastest_on_cpu(net: torch.nn.Module, device: torch.device) -> Engine:
    by_openvino = isinstance(net, student.Student) and cpu_engines.has_openvino()
    exact = choose(net, device, "openvino") if by_openvino else _torch(net, device)
    if not devices.has_fast_bf16():
        return exact
    if not by_openvino and isinstance(net, student.Student) and net.feat < WIDE:
        return dataclasses.replace(exact, remark=f"bf16 is slower with {net.feat} channels")

    half = cpu_engines.openvino_run(net, bf16=True) if by_openvino else torch_engine(net, device, torch.bfloat16)
    parity = cpu_engines.compare(exact.run, half)
    if parity.is_close:
        return Engine(half, exact.name, "bf16", str(parity))
    return dataclasses.replace(exact, remark=f"bf16 is {parity}")


def _require(engine: str, package: str, extra: str) -> None:
    if not find_spec(package) or not find_spec("onnx"):
        raise SharpenError(
            f"engine {engine} needs the packages onnx and {package}: "
            f'pip install "imagesharpening-kd[{extra}]", or choose --engine torch'
        )


def _with_version(name: str, package: str = "") -> str:
    version = installed_version(package or name.lower()) or ""  # none where a build goes by another name
    return f"{name} {version.split('+')[0]}".strip()


def torch_engine(net: torch.nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Run:
    """PyTorch, in the precision that is safe on the device, or in `dtype`."""
    # channels_last is what oneDNN and cuDNN are fastest in: benchmarks/upscaling.py
    net = net.to(device, memory_format=torch.channels_last)
    runtime = Runtime(device, dtype or devices.inference_dtype(device))

    def run(x: Tensor) -> Tensor:
        with runtime.autocast():
            return net(x.contiguous(memory_format=torch.channels_last))

    return run
