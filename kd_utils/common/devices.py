"""Where a step computes: the device, the precision that is safe on it, and this process's place among many."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch

from kd_utils.common.errors import ConfigError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Runtime:
    """The device and the precision of a step, and which of its processes this one is (torchrun)."""

    device: torch.device
    dtype: torch.dtype  # half precision means autocast; float32 and float64 are computed as they are
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes what all of them made."""
        return self.rank == 0

    @property
    def is_half(self) -> bool:
        return self.dtype in (torch.float16, torch.bfloat16)

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients need a loss scaler: those of fp16 underflow without one."""
        return self.dtype == torch.float16 and self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """The context in which networks are called."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.is_half)


def resolve_runtime(device: str = "auto", dtype: str = "auto", training: bool = False) -> Runtime:
    """The runtime for the settings `device` and `dtype`; ConfigError for what this machine lacks.

    `auto` is the fastest precision that is safe: for training see `training_dtype`, else `inference_dtype`.
    """
    place = resolve_device(device)

    if dtype == "auto":
        kind = training_dtype(place) if training else inference_dtype(place)
    else:
        kind = DTYPES[dtype]
    return Runtime(place, kind, process_rank(), process_count())


def process_rank() -> int:
    """This process's number under torchrun; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device of a setting: `auto` is CUDA where there is one, else the CPU. Raises ConfigError.

    CUDA without a number is the GPU of this process's local rank. Apple's MPS is taken by name only, because only some
    releases of torch have all that SOAP needs there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"

    try:
        device = torch.device(name)
        if device == torch.device("cuda"):
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.empty(1, device=device)  # a device can have a valid name and not be there
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ConfigError(
            f"device={name!r} cannot be used here ({str(e).splitlines()[0]}): try device=auto or device=cpu"
        ) from e
    return device


def training_dtype(device: torch.device) -> torch.dtype:
    """The precision of autocast that trains safely on `device`.

    That is bf16 on a GPU from compute capability 8.0 on, fp16 with a loss scaler on an older one (a T4 is 7.5), and
    fp32 elsewhere, because half precision on a CPU is slow or missing.
    """
    if device.type != "cuda":
        return torch.float32
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32 if _has_broken_fp16(device) else torch.float16


def inference_dtype(device: torch.device) -> torch.dtype:
    """The precision of a network that is only run: fp16 on CUDA, else fp32."""
    if device.type == "cuda" and not _has_broken_fp16(device):
        return torch.float16
    return torch.float32


def _has_broken_fp16(device: torch.device) -> bool:
    """Whether fp16 gives NaN on this GPU, as on all GTX 16xx (pytorch issue 58123)."""
    return "GTX 16" in torch.cuda.get_device_name(device)


def has_fast_bf16() -> bool:
    """Whether this CPU computes bf16 faster than fp32: by matrix units (AMX) or dot products (AVX512_BF16)."""
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("amx_tile", "avx512_bf16"))


def bf16_warning(device: torch.device, key: str, dtype: str) -> str:
    """A warning where the setting `key` asks for bf16 and this CPU only imitates it; "" where there is none."""
    if dtype != "bf16" or device.type != "cpu":
        return ""
    if platform.machine() not in ("x86_64", "AMD64") or has_fast_bf16():
        return ""
    return f"{key}=bf16: this CPU has no bf16 arithmetic, which makes it far slower than fp32 here: --set {key}=fp32"
