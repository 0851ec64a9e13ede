"""Step 2: the teacher, any Real-ESRGAN checkpoint, and its labels.

Checkpoints are read without executing their pickle; what is not a plain Compact network is recognised by spandrel. A
teacher that was named and cannot be had is an error: it is never replaced by another.
"""

from __future__ import annotations

import sys
import types
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from kd_utils import prepare
from kd_utils.common import devices, files, sources
from kd_utils.common.errors import CheckpointError, TeacherError
from kd_utils.common.tensors import bicubic, read_checkpoint, to_tensor, to_uint8
from kd_utils.config import STAND_INS, TEACHERS, Config, shipped, to_dict
from kd_utils.models import pruning, student


@dataclass
class Teacher:
    net: nn.Module  # (N, 3, h, w) RGB in [0, 1] -> (N, 3, 4h, 4w), clamped to [0, 1]
    name: str
    sha256: str
    stand_in: bool  # True: one of our own students teaches, because nothing is to be downloaded
    path: Path
    architecture: str

    def __call__(self, lr: Tensor) -> Tensor:
        return self.net(lr)

    def compact(self) -> student.Student:
        """The network not clamped, where it is of the student's own plain kind. Raises TeacherError where it is not."""
        if not isinstance(self.net.net, student.Student):
            raise TeacherError(
                f"train.init=teacher: {self.name} is of the kind {self.architecture}, and only a RealESRGAN Compact "
                "can be cut down to a student: leave train.init out, or set teacher=general_x4v3"
            )
        return self.net.net


class _Clamped(nn.Module):
    """The raw network with its output clamped as spandrel and RealESRGANer do."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).clamp(0, 1)


def find_teacher(name: str) -> Path:
    """The checkpoint file of a registry name (fetched if need be) or a path. Raises TeacherError or SourceError."""
    if name in STAND_INS:
        return shipped(f"{name}.pth")
    if name in TEACHERS or name.startswith("https://drive.google.com/"):
        return sources.fetch(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise TeacherError(
            f"teacher {name!r} is neither a file nor one of {', '.join(TEACHERS + STAND_INS)}: "
            "check the path, or name one of these"
        )
    return path


def load_teacher(name: str, device: str | torch.device = "cpu") -> Teacher:
    """Load a teacher by registry name or path, in eval mode, fp32, without gradients.

    Official files hold `params_ema` (RRDBNet) or `params` (Compact); both are read. Raises TeacherError for a file
    that is no x4 RGB Real-ESRGAN network.
    """
    path = find_teacher(name)
    try:
        net, architecture = _read(path)
    except CheckpointError as e:
        raise TeacherError(f"teacher {name!r}: {e}") from e
    net = _Clamped(net).eval().requires_grad_(False).to(device)
    shown = name if name in TEACHERS + STAND_INS else path.stem
    return Teacher(net, shown, files.sha256(path), name in STAND_INS, path, architecture)


def _read(path: Path) -> tuple[nn.Module, str]:
    """The network of a checkpoint and its architecture's name. Raises CheckpointError."""
    try:  # our own reader first: importing spandrel takes 9 seconds, four times in a run of the notebooks
        net = student.load(path)
        if net.scale != 4:
            raise CheckpointError(f"{path} is a x{net.scale} student; a teacher must be x4 RGB")
        return net, "RealESRGAN Compact"
    except student.StudentError:
        pass  # not the plain Compact layout
    from spandrel import ModelLoader

    checkpoint = read_checkpoint(path)
    for key in ("params_ema", "params"):
        if isinstance(checkpoint, dict) and key in checkpoint:
            checkpoint = checkpoint[key]
            break
    try:
        found = ModelLoader(device="cpu").load_from_state_dict(checkpoint)
    except Exception as e:  # spandrel raises its own kinds and torch's
        raise CheckpointError(
            f"{path} is not a network that can be recognised ({e or type(e).__name__}): give a x4 Real-ESRGAN "
            f"checkpoint, or name one of {', '.join(TEACHERS)}"
        ) from e
    if (found.scale, found.input_channels, found.output_channels) != (4, 3, 3):
        raise CheckpointError(
            f"{path} is a x{found.scale} network of {found.input_channels} channels in, {found.output_channels} out; "
            "a teacher must be x4 RGB"
        )
    return found.model, found.architecture.name


def check_input(teacher: Teacher, scale: int, input_scale: float) -> None:
    if scale not in (4, 2, 1) or input_scale not in (1.0, 0.5) or (scale != 1 and input_scale != 1.0):
        raise TeacherError(f"label.input_scale={input_scale} at scale {scale}: 0.5 is for scale 1 only")


@torch.inference_mode()
def teacher_target(teacher: Teacher, lr: Tensor, scale: int, input_scale: float = 1.0) -> Tensor:
    """What the student is to reproduce: (N, 3, h, w) in [0, 1] -> (N, 3, h*scale, w*scale) in [0, 1].

    For scale 4 the teacher's output; below, that output resized down (antialiased bicubic). At scale 1, `input_scale`
    0.5 halves the teacher's input first: better on strong blur, and a quarter of the cost (docs/LOG.md).
    """
    check_input(teacher, scale, input_scale)
    h, w = lr.shape[-2:]
    x = (
        lr
        if input_scale == 1
        else bicubic(lr, (max(1, round(h * input_scale)), max(1, round(w * input_scale)))).clamp(0, 1)
    )
    y = teacher.net(x).float()  # under autocast a last convolution gives bf16, which no resize takes
    return y if y.shape[-2:] == (h * scale, w * scale) else bicubic(y, (h * scale, w * scale)).clamp(0, 1)


@dataclass
class Labelled:
    folder: Path
    shards: int
    crops: int
    made: int  # crops labelled by this call; the rest was there
    teacher: Teacher = field(repr=False)


def identify_teacher(name: str) -> tuple[str, str]:
    """The name and the sha256 that a teacher's artefacts carry, without loading it."""
    return (name if name in TEACHERS + STAND_INS else find_teacher(name).stem), files.sha256(find_teacher(name))


def provenance(cfg: Config, name: str, sha256: str, crops: str) -> dict[str, Any]:
    """What the labels depend on: the teacher's bytes, how it is applied, and the crops."""
    made = {"teacher": name, "teacher_sha256": sha256, "crops": crops} | to_dict(cfg, "scale", "label.input_scale")
    # "auto" goes unsaid: it may change with the device, on which labels may be made again
    return made if cfg.label.dtype == "auto" else made | to_dict(cfg, "label.dtype")


def label(cfg: Config) -> Labelled:
    """Step 2: one label shard for each crop shard, in ``workdir/labels``; resumes; foreign crops or labels are refused.

    With many processes (torchrun, or several machines on one folder) rank r takes the shards r, r + world, ...;
    a shard's bytes do not depend on how many took part, as batches never cross a shard's end.
    """
    crops_dir, out = cfg.path("crops"), cfg.path("labels")
    index = prepare.read_index(cfg)
    rank, world, _ = devices.ranks()
    device = devices.resolve_device(cfg.device)
    teacher = load_teacher(cfg.teacher, device)
    check_input(teacher, cfg.scale, cfg.label.input_scale)
    if cfg.train.init == "teacher":
        pruning.check(teacher.compact(), *student.shape(cfg.student.size))  # said before the labels are made, not after
    if teacher.stand_in and rank == 0:
        print(f"Teacher: {teacher.name}, a student of our own that stands in for Real-ESRGAN (nothing is downloaded).")
    if rank == 0 and (warning := devices.bf16_warning(device, "label.dtype", cfg.label.dtype)):
        print(warning)
    want = provenance(cfg, teacher.name, teacher.sha256, index["key"])
    if (out / "index.json").is_file():  # hours of labelling, perhaps another run's (the folder may be linked)
        remedy = f"Choose another --workdir, or delete {out} to make them anew."
        files.require_same(str(out), files.read_json(out / "index.json"), want, remedy)
    todo = []
    shards = index["shards"]
    for entry in tqdm(
        shards[rank::world], desc="checking labels", unit="shard", delay=3, leave=False, disable=rank > 0
    ):
        if not files.is_made(out / entry["file"], **want, crops_sha256=entry["sha256"]):
            todo.append(entry)
    made = 0
    with tqdm(
        total=sum(e["count"] for e in todo), unit="crop", desc=f"labels by {teacher.name}", disable=rank > 0 or not todo
    ) as bar:
        for entry in todo:
            lr = files.load_arrays(crops_dir / entry["file"])[0]["lr"]
            done = [
                _label_batch(teacher, lr[i : i + cfg.label.batch], cfg, device, bar)
                for i in range(0, len(lr), cfg.label.batch)
            ]
            files.save_arrays(
                out / entry["file"], {"label": np.concatenate(done)}, want | {"crops_sha256": entry["sha256"]}
            )
            made += len(lr)
    if rank == 0:
        files.delete_stale_shards(out, {e["file"] for e in shards})
        files.write_json(out / "index.json", want)
    return Labelled(out, len(shards), sum(e["count"] for e in shards), made, teacher)


def _label_batch(teacher: Teacher, lr: np.ndarray, cfg: Config, device: torch.device, bar: Any) -> np.ndarray:
    dtype = (
        devices.inference_dtype(device)
        if cfg.label.dtype == "auto"
        else devices.autocast(device, cfg.label.dtype).dtype
    )
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        x = to_tensor(lr, device)
        if dtype == torch.bfloat16:  # a CPU's bf16 kernels want this order; in fp32 it would move the last bits
            x = x.contiguous(memory_format=torch.channels_last)
        y = teacher_target(teacher, x, cfg.scale, cfg.label.input_scale)
    if not y.isfinite().all():
        kind = str(dtype).removeprefix("torch.")
        raise TeacherError(
            f"{teacher.name} gives labels that are not finite in {kind} on {device}: its file is damaged, or it "
            "cannot be computed so here; try label.dtype=fp32"
        )
    bar.update(len(lr))
    return to_uint8(y)


def official() -> tuple[types.ModuleType, types.ModuleType]:
    """The official packages (realesrgan, basicsr): the reference that ours is held against, never what ours runs on.

    basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 removed; it is bridged
    here and nowhere else. Raises ImportError where they are not installed (Python 3.13 cannot install them).
    """
    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules:
        from torchvision.transforms import functional

        bridge = types.ModuleType(name)
        bridge.rgb_to_grayscale = functional.rgb_to_grayscale
        sys.modules[name] = bridge
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import basicsr
        import realesrgan

    return realesrgan, basicsr


def border_cost(teacher: Teacher, lr: Tensor, crop: int = 64) -> list[float]:
    """What zero padding at a crop's border costs: the mean absolute difference, on 0..255, between the label of the
    central `crop` x `crop` of `lr` (1, 3, h, w) and the same place in the whole image's label, at each distance
    0, 1, 2, ... from the crop's border (in LR pixels). Its fall chooses `loss.margin`.
    """
    h, w = lr.shape[-2:]
    y0, x0 = (h - crop) // 2, (w - crop) // 2
    with torch.inference_mode():
        whole = teacher.net(lr)[..., y0 * 4 : (y0 + crop) * 4, x0 * 4 : (x0 + crop) * 4]
        alone = teacher.net(lr[..., y0 : y0 + crop, x0 : x0 + crop])
    diff = F.avg_pool2d((whole - alone).abs().mean(1, keepdim=True), 4)[0, 0] * 255  # (crop, crop)
    i = torch.arange(crop, device=diff.device)
    edge = torch.minimum(i, crop - 1 - i)
    ring = torch.minimum(edge[:, None], edge[None, :])
    return [diff[ring == d].mean().item() for d in range(crop // 2)]
