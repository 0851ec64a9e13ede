"""Between arrays, files and tensors: the conversions, the one resize and the one safe way to read a .pth."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_utils.common.errors import CheckpointError


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (N, H, W, 3) -> (N, 3, H, W) in [0, 1]."""
    x = torch.tensor(images, device=device)  # a copy: memory-mapped shards are not writable
    # contiguous, because strides choose the convolution's kernel, and with it the last bits
    return x.permute(0, 3, 1, 2).contiguous().to(dtype).div_(255)


def to_uint8(x: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] -> uint8 (N, H, W, 3), rounded."""
    return x.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize of (N, C, H, W) to (N, C, *size); overshoots are left for the caller to clamp."""
    return F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)


def enlarged(x: Tensor, scale: int) -> Tensor:
    """The input enlarged; at scale 1 the input itself."""
    return bicubic(x, (x.shape[-2] * scale, x.shape[-1] * scale)) if scale > 1 else x


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Any .pth as tensors and plain values, never executing its pickle. Raises CheckpointError, naming the file."""
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}): check the path") from e
    if data[:64].lstrip()[:1] == b"<" or not (zipfile.is_zipfile(io.BytesIO(data)) or data[:1] == b"\x80"):
        raise CheckpointError(f"{path} is not a PyTorch checkpoint (a web page or a broken download?): fetch it again")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises several kinds, pickle's among them
        code = re.search(r"GLOBAL ([\w.]+)", str(e))
        if code:
            raise CheckpointError(
                f"{path} cannot be loaded safely: it holds more than weights ({code[1]}); save its state dict alone"
            ) from e
        why = str(e).splitlines()[0][:100]
        raise CheckpointError(
            f"{path} cannot be loaded safely ({why}): it is damaged, or holds more than weights"
        ) from e


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises CheckpointError, naming the file."""
    from safetensors.torch import load

    try:
        return load(Path(path).read_bytes())
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}): check the path") from e
    except Exception as e:  # safetensors raises its own kinds
        raise CheckpointError(f"{path} is no safetensors file, or is damaged ({e}): fetch it again") from e
