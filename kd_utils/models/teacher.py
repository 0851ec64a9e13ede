"""The teacher: any x4 Real-ESRGAN network, found and hashed once, and what it asks of the student.

A teacher that was named and cannot be had is an error: it is never replaced by another.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_utils.common import files, sources
from kd_utils.common.errors import CheckpointError, SourceError, StudentError, TeacherError
from kd_utils.common.tensors import bicubic, read_checkpoint, read_safetensors
from kd_utils.config import STAND_INS, TEACHERS, Config
from kd_utils.models import student
from kd_utils.models.ncnn import read_ncnn
from kd_utils.models.student import Student
from kd_utils.own_files import shipped
from kd_utils.workdir import Workdir


@dataclass(frozen=True)
class TeacherRef:
    """Which network teaches: its name, its file and the hash by which labels and students know it."""

    name: str
    path: Path
    sha256: str  # of the .pth, or of an ncnn network's .bin
    remark: str = ""  # what a report has to say of the weights

    @property
    def is_stand_in(self) -> bool:
        """Whether one of our own students teaches, because nothing is to be downloaded."""
        return self.name in STAND_INS


@dataclass
class Teacher:
    """A loaded teacher, in eval mode and without gradients."""

    ref: TeacherRef
    net: nn.Module  # (N, 3, h, w) RGB in [0, 1] -> (N, 3, 4h, 4w) in [0, 1]
    architecture: str

    def compact(self) -> Student:
        """The network itself where it is a Compact one, as students are. Raises TeacherError where it is not."""
        if not isinstance(self.net.net, Student):
            raise TeacherError(
                f"train.init=teacher: {self.ref.name} is of the kind {self.architecture}, and only a RealESRGAN "
                "Compact can be cut down to a student: leave train.init out, or set teacher=general_x4v3"
            )
        return self.net.net


@dataclass
class Network:
    """A super-resolution network of a file, fp32, in eval mode, on the CPU; its output is not clamped."""

    net: nn.Module
    architecture: str
    scale: int

    @property
    def kind(self) -> str:
        """What a message calls it."""
        return "student" if isinstance(self.net, Student) else "network"


class Clamped(nn.Module):
    """A network whose output is clamped to [0, 1], as RealESRGANer and spandrel do."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, h, w) -> (N, 3, 4h, 4w)
        return self.net(x).clamp(0, 1)


def find_teacher(name: str, official: bool | None = None) -> TeacherRef:
    """The file of a registry name (fetched if need be), of a Drive link or of a path. TeacherError or SourceError.

    The weights of some names come in two kinds, the official file and the same rounded to half precision: `official`
    asks for one of them, None for what can be had.
    """
    if name in TEACHERS:
        weights = sources.fetch_weights(name, official)
        return TeacherRef(name, weights.path, weights.sha256, weights.remark)

    if name in STAND_INS:
        path = shipped(f"{name}.pth")
    elif name.startswith("https://drive.google.com/"):
        path = sources.fetch(name)
    else:
        path = Path(name).expanduser()
    if not path.is_file():
        raise TeacherError(
            f"teacher {name!r} is neither a file nor one of {', '.join(TEACHERS + STAND_INS)}: "
            "check the path, or name one of these"
        )
    # of an ncnn network the weights are in the file beside it
    weights_file = path.with_suffix(".bin") if path.suffix == ".param" else path
    return TeacherRef(name if name in STAND_INS else path.stem, path, files.sha256(weights_file))


def resolve_teacher(cfg: Config) -> TeacherRef:
    """The teacher of a run.

    A work folder whose labels were made by the official file, or by the rounded weights, goes on with the same. The
    presets `quick` and `adapt` take the rounded ones, which come by pip and so to every machine.
    """
    official = False if cfg.preset in ("quick", "adapt") and cfg.teacher in sources.ROUNDED else None
    index = Workdir.of(cfg).label_index
    if index.is_file():
        made_by = files.read_json(index).get("teacher_sha256", "")
        known = sources.is_official(cfg.teacher, made_by)
        official = official if known is None else known
    try:
        return find_teacher(cfg.teacher, official)
    except SourceError as e:
        raise SourceError(f"{e}\nOr let a student that ships be the teacher: --set teacher=student_x4_photo_m") from e


def load_teacher(ref: TeacherRef, device: str | torch.device = "cpu") -> Teacher:
    """The network of `ref` on `device`, fp32. Raises TeacherError for a file that holds no x4 RGB network."""
    try:
        found = load_network(ref.path)
    except CheckpointError as e:
        raise TeacherError(f"teacher {ref.name!r}: {e}") from e
    if found.scale != 4:
        raise TeacherError(
            f"teacher {ref.name!r}: {ref.path} is a x{found.scale} {found.kind}; a teacher must be x4 RGB"
        )

    net = Clamped(found.net).eval().requires_grad_(False).to(device)
    return Teacher(ref, net, found.architecture)


def load_network(path: Path) -> Network:
    """Any RGB super-resolution network of a file: a student, a Compact model, or what spandrel recognises.

    Read are .pth, .safetensors and ncnn's .param (with its .bin). Raises CheckpointError.
    """
    state = read_state(path)
    try:
        net = student.from_state_dict(state)
        return Network(net, "RealESRGAN Compact", net.scale)
    except StudentError:
        pass  # it is of another kind

    # spandrel takes 9 seconds to import, so it is asked only for what our own reader does not know
    from spandrel import ModelLoader

    try:
        found = ModelLoader(device="cpu").load_from_state_dict(state)
    except Exception as e:  # spandrel raises its own kinds of error and torch's
        raise CheckpointError(
            f"{path} is not a network that can be recognised ({e or type(e).__name__}): give a x4 Real-ESRGAN "
            f"checkpoint, or name one of {', '.join(TEACHERS)}"
        ) from e
    if (found.input_channels, found.output_channels) != (3, 3):
        raise CheckpointError(
            f"{path} is a x{found.scale} network of {found.input_channels} channels in, {found.output_channels} out; "
            "it must be RGB"
        )
    return Network(found.model.eval(), found.architecture.name, found.scale)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by the official names, fp32."""
    if path.suffix == ".param":
        return read_ncnn(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return student.state_dict_of(read_checkpoint(path))


@torch.inference_mode()
def teacher_target(net: Callable[[Tensor], Tensor], lr: Tensor, scale: int, input_scale: float = 1.0) -> Tensor:
    """What the student is to reproduce: (N, 3, h, w) in [0, 1] -> (N, 3, h*scale, w*scale) in [0, 1].

    `net` is a teacher's network. At scale 4 the target is its output, and below that its output resized down
    (antialiased bicubic). At scale 1 an `input_scale` of 0.5 halves the teacher's input first, which is better on
    strong blur and a quarter of the cost (docs/LOG.md). Raises TeacherError for scales that do not go together.
    """
    if scale not in (4, 2, 1) or input_scale not in (1.0, 0.5) or (scale != 1 and input_scale != 1.0):
        raise TeacherError(f"label.input_scale={input_scale} at scale {scale}: 0.5 is for scale 1 only")

    h, w = lr.shape[-2:]
    x = lr
    if input_scale != 1:
        half = (max(1, round(h * input_scale)), max(1, round(w * input_scale)))
        x = bicubic(lr, half).clamp(0, 1)

    y = net(x).float()  # under autocast the last convolution gives bf16, which cannot be resized
    if y.shape[-2:] == (h * scale, w * scale):
        return y
    return bicubic(y, (h * scale, w * scale)).clamp(0, 1)


def official() -> tuple[types.ModuleType, types.ModuleType]:
    """The official packages (realesrgan, basicsr): the reference that ours is held against, never what ours runs on.

    basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 removed; it is bridged
    here and nowhere else. Raises ImportError where they are not installed (Python 3.13 cannot install them).
    """
    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules:
        from torchvision.transforms import functional

        bridge = types.ModuleType(name)
        bridge.__dict__["rgb_to_grayscale"] = functional.rgb_to_grayscale
        sys.modules[name] = bridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import basicsr  # pyright: ignore (not on 3.13)
        import realesrgan  # pyright: ignore

    return realesrgan, basicsr
