"""Where a run computes: device, mixed precision by device, and this process's place among many (torchrun)."""

from __future__ import annotations

import os
import platform
from typing import NamedTuple

import torch

from kd_utils.common.errors import ConfigError


class Ranks(NamedTuple):
    rank: int
    world: int
    local: int


class Amp(NamedTuple):
    dtype: torch.dtype  # autocast to this; float32 means no autocast
    scaler: bool  # fp16 gradients underflow without a loss scaler


def ranks() -> Ranks:
    """This process's place, from torchrun's environment; (0, 1, 0) without torchrun."""
    return Ranks(*(int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, else the CPU; CUDA without a number is that of this process's local rank.

    Raises ConfigError for what this machine lacks.
    Apple's MPS is taken by name only: only some releases of torch have all that SOAP needs there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device == torch.device("cuda"):
            device = torch.device("cuda", ranks().local)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ConfigError(
            f"device={name!r} cannot be used here ({str(e).splitlines()[0]}): try device=auto or device=cpu"
        ) from e
    return device


def autocast(device: torch.device, dtype: str = "auto") -> Amp:
    """Mixed precision that is safe on `device`: bf16 from compute capability 8.0, fp16 with a scaler below
    (T4 is 7.5), fp32 elsewhere, because half precision on a CPU is slow or missing.
    """
    if dtype == "auto":
        if device.type != "cuda":
            return Amp(torch.float32, False)
        old = "fp32" if _broken_half(device) else "fp16"
        dtype = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else old
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "float64": torch.float64}
    return Amp(kinds[dtype], dtype == "fp16" and device.type == "cuda")


def inference_dtype(device: torch.device) -> torch.dtype:
    """The dtype for inference without gradients: fp16 on CUDA, else fp32."""
    return torch.float16 if device.type == "cuda" and not _broken_half(device) else torch.float32


def _broken_half(device: torch.device) -> bool:
    """The GTX 16xx compute NaN in fp16 (pytorch issue 58123)."""
    return "GTX 16" in torch.cuda.get_device_name(device)


def has_fast_bf16() -> bool:
    """Whether this CPU computes bf16 faster than fp32: by matrix units (AMX) or dot products (AVX512_BF16)."""
    return any(getattr(torch.cpu, f"_is_{n}_supported", bool)() for n in ("amx_tile", "avx512_bf16"))


def bf16_warning(device: torch.device, key: str, dtype: str) -> str:
    """A warning where the setting `key` asks for a dtype that this CPU only imitates; "" where there is none."""
    if dtype != "bf16" or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or has_fast_bf16():
        return ""
    return f"{key}=bf16: this CPU has no bf16 arithmetic, which makes it far slower than fp32 here: --set {key}=fp32"
