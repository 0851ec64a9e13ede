"""Samples of more than 8 bits: 16-bit PNG and TIFF, and floats, which Pillow would cut to 8 bits. OpenCV reads them."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from kd_utils.common.errors import ImageError

ORIENTATION = 0x0112


def read_high_bit_depth_tiff(data: bytes, name: str, tags: ImageFileDirectory_v2) -> np.ndarray:
    """A TIFF's samples as `read_high_bit_depth`, upright.

    OpenCV reads them and heeds few tags: the rest is done or refused here.
    """
    kind, channels = tags.get(262), tags.get(277, 1)
    if (kind, channels) not in ((0, 1), (1, 1), (2, 3), (2, 4)):
        raise ImageError(f"{name} is a deep TIFF that is neither gray nor RGB: save it as 16-bit RGB, or as 8 bit")
    if channels > 1 and tags.get(284) == 2:  # planes, which OpenCV mixes up
        a = upright(_sixteen(_planes(data, name), name), tags.get(ORIENTATION, 1))
    else:
        a = read_high_bit_depth(data, name)
    if kind == 0:  # white is zero
        a = np.iinfo(a.dtype).max - a
    extra = tags.get(338, (2,))[0] if channels == 4 else 2
    if extra == 1:
        _unmultiply(a)
    return a[..., :3] if extra == 0 else a  # 0: no alpha, but a scanner's infrared, say; Pillow drops it at 8 bits too


def _planes(data: bytes, name: str) -> np.ndarray:
    """(H, W, C) of a TIFF whose channels are stored one after the other."""
    import tifffile  # scikit-image needs it too

    try:
        page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
        return np.moveaxis(page.asarray(), 0, 2)
    except Exception as e:  # noqa: BLE001 - what it lacks or finds damaged is of many types
        raise ImageError(f"{name} is a TIFF of separate planes that is not read ({e}): save it interleaved") from e


def _unmultiply(a: np.ndarray, rows: int = 256) -> None:
    """Divide the colours of (H, W, 4) by alpha, in place and rounded, as Pillow does at 8 bits."""
    peak = np.iinfo(a.dtype).max
    for y in range(0, len(a), rows):
        part = a[y : y + rows].astype(np.uint32)  # 65535 * 65535 + 32767 still fits
        alpha = part[..., 3:]
        a[y : y + rows, :, :3] = np.minimum((part[..., :3] * peak + alpha // 2) // np.maximum(alpha, 1), peak)


def read_high_bit_depth(data: bytes, name: str) -> np.ndarray:
    """Samples of more than 8 bits as uint16 (H, W, C) RGB, by OpenCV; floats must lie in [0, 1]."""
    try:
        a = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as e:
        raise ImageError(f"{name} is damaged or too large ({e.err}): convert it to a 16-bit PNG or TIFF") from e
    if a is None:
        raise ImageError(f"{name} is damaged or of a kind that is not read: convert it to a 16-bit PNG or TIFF")
    a = _sixteen(a.reshape(a.shape[0], a.shape[1], -1), name)
    if a.shape[2] >= 3:
        a = cv2.cvtColor(a, cv2.COLOR_BGRA2RGBA if a.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return a


def _sixteen(a: np.ndarray, name: str) -> np.ndarray:
    """Floats in [0, 1] as uint16; uint8 and uint16 as they are."""
    if a.dtype.kind == "f":
        if not np.isfinite(a).all():
            bad = int((~np.isfinite(a)).any(axis=2).sum())
            raise ImageError(f"{name} holds NaN or infinity at {bad} pixels: replace them, then save as 16 bit")
        if a.min() < -1e-3 or a.max() > 1.001:
            raise ImageError(f"{name} has floats from {a.min():g} to {a.max():g}: scale them to [0, 1] first")
        return np.rint(np.clip(a, 0, 1).astype(np.float32, copy=False) * 65535).astype(np.uint16)
    if a.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name} has samples of type {a.dtype}: convert it to 8 or 16 bit")
    return a


def upright(a: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1..8 to (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        a = a.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    return a
