"""Between arrays, files and tensors: the conversions, the one resize and the one safe way to read a .pth."""

from __future__ import annotations

import hashlib
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
    """Any .pth as tensors and plain values, never executing its pickle.

    Where it carries a checksum, as our students do, that is verified. Raises CheckpointError, naming the file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}): check the path") from e
    if data[:64].lstrip()[:1] == b"<" or not (zipfile.is_zipfile(io.BytesIO(data)) or data[:1] == b"\x80"):
        raise CheckpointError(f"{path} is not a PyTorch checkpoint (a web page or a broken download?): fetch it again")

    try:
        _refuse_inflation(data)
        _verify_pickle(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        _refuse_repetition(loaded)
    except Exception as e:  # torch raises several kinds, pickle's among them
        code = re.search(r"GLOBAL ([\w.]+)", str(e))
        if code:
            raise CheckpointError(
                f"{path} cannot be loaded safely: it holds more than weights ({code[1]}); save its state dict alone"
            ) from e
        why = (str(e) or type(e).__name__).splitlines()[0][:100]
        if why.startswith("Weights only load failed"):  # torch goes on to say how to load it unsafely
            why = "its pickle is not one of weights"
        raise CheckpointError(
            f"{path} cannot be loaded safely ({why}): it is damaged, or holds more than weights"
        ) from e

    if not _is_as_saved(loaded):
        raise CheckpointError(
            f"{path} is damaged (the checksum of its weights differs): copy it again, or delete it and make it again"
        )
    return loaded


def _verify_pickle(data: bytes) -> None:
    """Refuse a file whose pickle differs from the checksum that its zip has of it, which torch does not look at.

    The pickle holds the names: one flipped bit in "meta" would lose the checksum of the weights without a word.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return  # the format of before 2020 has no checksums
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        for name in z.namelist():
            if name.endswith("/data.pkl"):
                z.read(name)  # raises BadZipFile where the checksum differs


def checksum(state: dict[str, Tensor]) -> str:
    """The sha256 of named tensors: their names, types, shapes and values."""
    sha256 = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha256.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def _is_as_saved(loaded: Any) -> bool:
    """Whether the weights are those of the checksum beside them; a file without one is taken as it is."""
    meta = loaded.get("meta") if isinstance(loaded, dict) else None
    want = meta.get("sha256") if isinstance(meta, dict) else None
    if not want:
        return True
    try:
        return checksum(loaded["params"]) == want
    except (KeyError, AttributeError, TypeError, RuntimeError):
        return False


def _refuse_inflation(data: bytes) -> None:
    """Refuse a zip that unpacks to far more than it is: torch stores weights as they are."""
    if data[:1] == b"\x80":
        return
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        unpacked = sum(member.file_size for member in z.infolist())
    if unpacked > 2 * len(data) + (1 << 20):
        raise ValueError(f"it would unpack to {unpacked:,} bytes")


def _refuse_repetition(loaded: Any) -> None:
    """Refuse a tensor that claims more values than the file holds."""
    if isinstance(loaded, Tensor) and loaded.layout == torch.strided:
        if loaded.numel() * loaded.element_size() > loaded.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {tuple(loaded.shape)} repeats few values")
    elif isinstance(loaded, dict):
        for value in loaded.values():
            _refuse_repetition(value)
    elif isinstance(loaded, (list, tuple)):
        for value in loaded:
            _refuse_repetition(value)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises CheckpointError, naming the file."""
    from safetensors.torch import load

    try:
        return load(Path(path).read_bytes())
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}): check the path") from e
    except Exception as e:  # safetensors raises its own kinds
        raise CheckpointError(f"{path} is no safetensors file, or is damaged ({e}): fetch it again") from e
