"""A teacher computed by ncnn on a CPU: its fast (Winograd) convolutions take .56 to .67 of PyTorch's time in fp32."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_utils.common.errors import CheckpointError, NcnnError, TeacherError
from kd_utils.models.ncnn import layers_of
from kd_utils.models.ncnn_writer import write_network
from kd_utils.models.teacher import Teacher, read_state


class NcnnNet(nn.Module):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, 4h, 4w) in [0, 1], fp32, with torch's number of threads.

    One image is computed after the other, so the result does not depend on the batch.
    """

    def __init__(self, param: Path):
        import ncnn

        super().__init__()
        # the package does not declare what its compiled module holds
        self.Mat = ncnn.Mat  # pyright: ignore[reportAttributeAccessIssue]
        self.net = ncnn.Net()  # pyright: ignore[reportAttributeAccessIssue]
        options = self.net.opt
        options.num_threads = torch.get_num_threads()
        options.use_vulkan_compute = False
        for name in ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed", "use_bf16_storage"):
            setattr(options, name, False)

        if self.net.load_param(str(param)) or self.net.load_model(str(param.with_suffix(".bin"))):
            raise NcnnError(f"{param} cannot be loaded by ncnn: copy or download it again")

    def forward(self, x: Tensor) -> Tensor:
        images = []
        for image in x:
            run = self.net.create_extractor()
            run.input("data", self.Mat(np.ascontiguousarray(image.numpy())))
            failed, made = run.extract("output")
            if failed:
                raise NcnnError(f"ncnn could not compute an image of {tuple(image.shape)}: set label.engine=torch")
            images.append(torch.from_numpy(np.array(made)))
        return torch.stack(images).clamp(0, 1)


def can_run(path: Path) -> bool:
    """Whether ncnn is installed, and the network of `path` is one that can be written for it."""
    if not find_spec("ncnn"):
        return False
    try:
        layers_of(read_state(path))
    except CheckpointError:
        return False
    return True


def load(teacher: Teacher) -> NcnnNet:
    """The teacher's network in ncnn. TeacherError where that cannot be had, or does not compute what PyTorch does."""
    ref = teacher.ref
    if not find_spec("ncnn"):
        raise TeacherError("label.engine=ncnn needs the package ncnn: pip install ncnn, or set label.engine=torch")

    path = ref.path
    try:
        with tempfile.TemporaryDirectory() as folder:
            if path.suffix != ".param":
                path = write_network(read_state(path), Path(folder, "teacher.param"))
            net = NcnnNet(path)
    except CheckpointError as e:
        raise TeacherError(f"label.engine=ncnn: teacher {ref.name!r}: {e}; or set label.engine=torch") from e
    _require_equal(net, teacher)
    return net


@torch.inference_mode()
def _require_equal(net: NcnnNet, teacher: Teacher) -> None:
    """Labels take hours, so what is to make them is held against PyTorch first."""
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = (net(x) - teacher.net(x)).abs().max().item() * 255
    if not levels < 0.1:
        raise TeacherError(
            f"label.engine=ncnn: ncnn's picture of {teacher.ref.name} is {levels:.2g} levels of 255 from PyTorch's on "
            "this CPU: set label.engine=torch"
        )
