"""A network ready to sharpen photos: which file it is of, how far it reaches, and what runs it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kd_utils.common import devices
from kd_utils.common.devices import Runtime
from kd_utils.common.errors import SharpenError, StudentError
from kd_utils.common.tensors import bicubic
from kd_utils.models import onnx_graph, shipped, student, tiling

EVEN = 0.75  # the mean gradient of a blend by w grows like w ** 1.35: measured, docs/sharpen.md


@dataclass
class Tool:
    """A network ready to sharpen."""

    net: Callable[[Tensor], Tensor]  # (1, 3, h, w) in [0, 1] -> (1, 3, h*native, w*native), on `device`
    reach: tiling.ReceptiveField  # of the whole step, which ends at `scale`
    scale: int
    native: int  # the network's own scale
    device: torch.device
    path: Path

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
    """A student (or any x4 Real-ESRGAN checkpoint) by path, or "s", "m" or "l": of that size, of those that ship.

    A model of a larger scale than wanted is resized down. `engine` is "torch", or "onnx" for onnxruntime on the CPU.
    Raises CheckpointError, ConfigError or SharpenError.
    """
    if scale not in shipped.DEFAULT_SIZE:
        raise SharpenError(f"scale={scale}: choose 4, 2 or 1")
    path = shipped.find_student(model, scale)
    where = devices.resolve_device("cpu" if engine == "onnx" and device == "auto" else device)
    net, native = _load_network(path, engine)
    if native < scale:
        raise SharpenError(f"{path} is a x{native} model, it cannot give --scale {scale}: choose --scale {native}")
    for name, values in net.state_dict().items():
        if not values.isfinite().all():
            raise SharpenError(f"{path} holds NaN or infinity ({name}): it is damaged, or its training went wrong")

    try:
        reach = tiling.measure_receptive_field(net)
    except tiling.UnknownReceptiveField as e:
        raise SharpenError(f"{path} cannot be tiled ({e}): choose a student, a Compact or an RRDBNet model") from e
    if native > scale:  # the resize down reads up to 2 input pixels beyond
        radius = math.ceil((reach.radius + 2) / reach.multiple) * reach.multiple
        reach = dataclasses.replace(reach, scale=scale, radius=radius)
    run = onnx_engine(net, where) if engine == "onnx" else torch_engine(net, where)
    return Tool(run, reach, scale, native, where, path)


def _load_network(path: Path, engine: str) -> tuple[torch.nn.Module, int]:
    """A network and its scale: a student, else whatever `load_network` reads. Raises CheckpointError."""
    if path.suffix not in (".param", ".safetensors"):
        try:
            net = student.load(path)
            return net, net.scale
        except StudentError:
            if engine == "onnx":
                raise
    from kd_utils.models.teacher import load_network  # with all that downloads need, so only where it is needed

    found = load_network(path)
    if engine == "onnx" and not isinstance(found.net, student.Student):
        raise SharpenError(f"{path} is no student, which engine onnx needs: leave --engine out")
    return found.net, found.scale


def torch_engine(net: torch.nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    # channels_last is what oneDNN and cuDNN are fastest in: benchmarks/speed.py
    net = net.to(device, memory_format=torch.channels_last)
    runtime = Runtime(device, devices.inference_dtype(device))

    def run(x: Tensor) -> Tensor:
        with runtime.autocast():
            return net(x.contiguous(memory_format=torch.channels_last))

    return run


def onnx_engine(net: student.Student, device: torch.device) -> Callable[[Tensor], Tensor]:
    if device.type != "cpu":
        raise SharpenError(
            f"engine onnx runs on the CPU, not on {device}: leave --device out, or choose --engine torch"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # the arena would keep the largest tile's memory
    data = onnx_graph.graph(net).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
