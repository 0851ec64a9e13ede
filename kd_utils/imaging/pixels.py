"""Arrays of pixels: how the libraries' pictures become them, and the few things done to them on the way."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyvips
from PIL import Image

from kd_utils.common.errors import ImageError
from kd_utils.imaging.metadata import Metadata

LARGEST = 2 * 89_478_485  # pixels: above any camera's file; a header may claim anything
Image.MAX_IMAGE_PIXELS = None  # `check_size` comes before anything is decoded
pyvips.cache_set_max(0)  # no operation is repeated, and a kept one would hold its picture in memory
logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # what matters is an exception


def check_size(width: int, height: int, name: str) -> None:
    """Raises ImageError for a header that claims more than 179 megapixels."""
    if width * height > LARGEST:
        raise ImageError(
            f"{name} claims {width}x{height} pixels, more than 179 megapixels: it is damaged, or cut it into parts"
        )


def decode(image: pyvips.Image, name: str) -> np.ndarray:
    """(H, W, C) of a libvips picture, in its own type. Raises ImageError as `check_size`, pyvips.Error for damage."""
    check_size(image.width, image.height, name)
    pixels = image.numpy()
    return pixels.reshape(image.height, image.width, image.bands)


def header(image: pyvips.Image, name: str) -> Any:
    """What libvips read beside a picture by this name, such as "exif-data"; None where there is none."""
    return image.get(name) if name in image.get_fields() else None


def metadata(image: pyvips.Image) -> Metadata:
    """The blocks that libvips reads from all kinds of files alike."""
    return Metadata(header(image, "icc-profile-data"), header(image, "exif-data"), header(image, "xmp-data"))


def attach(image: pyvips.Image, name: str, block: bytes) -> pyvips.Image:
    """The picture with a block of metadata under one of libvips' names."""
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, name, block)  # pyright: ignore[reportArgumentType]
    return image


def as_vips(pixels: np.ndarray, alpha: np.ndarray | None = None) -> pyvips.Image:
    """A libvips picture of (H, W, C) and alpha (H, W), uint8 or uint16, over the same memory: keep the arrays alive."""
    height, width, channels = pixels.shape
    kind = "uchar" if pixels.dtype == np.uint8 else "ushort"
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels).data, width, height, channels, kind)
    if alpha is not None:
        image = image.bandjoin(pyvips.Image.new_from_memory(np.ascontiguousarray(alpha).data, width, height, 1, kind))
    space = ("b-w", "srgb") if pixels.dtype == np.uint8 else ("grey16", "rgb16")
    return image.copy(interpretation=space[channels == 3])


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """(H, W, C) uint8 of a Pillow picture: gray or RGB, with alpha where there is any."""
    if image.mode in ("1", "L", "LA", "La"):
        mode = "LA" if image.has_transparency_data else "L"
    else:
        mode = "RGBA" if image.has_transparency_data else "RGB"
    return np.array(image.convert(mode)).reshape(image.height, image.width, len(mode))


def split_alpha(a: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 1 to 4) -> gray or RGB, and the alpha that is last of 2 and 4; none where all is opaque."""
    if a.shape[2] in (1, 3):
        return np.ascontiguousarray(a), None
    colors, alpha = np.ascontiguousarray(a[..., :-1]), np.ascontiguousarray(a[..., -1])
    if (alpha == np.iinfo(alpha.dtype).max).all():
        return colors, None
    return colors, alpha


def unmultiply(colors: np.ndarray, alpha: np.ndarray, rows: int = 256) -> None:
    """Divide (H, W, C) by alpha (H, W, 1), in place and rounded."""
    peak = np.iinfo(colors.dtype).max
    for y in range(0, len(colors), rows):
        part, below = colors[y : y + rows].astype(np.uint32), alpha[y : y + rows].astype(np.uint32)
        # 65535 * 65535 + 32767 still fits into 32 bits
        colors[y : y + rows] = np.minimum((part * peak + below // 2) // np.maximum(below, 1), peak)


def stretch(a: np.ndarray, bits: int) -> np.ndarray:
    """Samples that fill the upper `bits` of 16, so that white is 65535."""
    if bits >= 16:
        return a
    top = 2**bits - 1
    samples = (a >> (16 - bits)).astype(np.uint32)
    return ((samples * 65535 + top // 2) // top).astype(np.uint16)


def upright(a: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1..8 to (H, W) or (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        a = a.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    return np.ascontiguousarray(a)


def to_8_bit(a: np.ndarray) -> np.ndarray:
    """uint16 rounded to uint8 (65535 is 255); uint8 as it is."""
    if a.dtype == np.uint8:
        return a
    return ((a.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def composite_over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) with uint8 alpha (H, W) over white."""
    a = alpha[..., None].astype(np.uint16)
    return ((rgb * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)
