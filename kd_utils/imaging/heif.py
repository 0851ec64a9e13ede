"""AVIF and HEIC in: libvips decodes AVIF, pillow-heif HEIC where it is installed (the extra `heic`).

Both turn the picture upright as the container says. 10 and 12 bits arrive in the upper bits of 16.
"""

from __future__ import annotations

import importlib.util
import io

import numpy as np
import pyvips

from kd_utils.common.errors import ImageError
from kd_utils.imaging.metadata import Metadata
from kd_utils.imaging.pixels import check_size, decode, header, metadata, stretch, unmultiply

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
UNSPECIFIED, SRGB_PRIMARIES, SRGB_TRANSFER = 2, 1, 13  # of ITU-T H.273


def can_read_heic() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def kind(data: bytes) -> str:
    """ ".avif" or ".heic" by the brands that a file states, "" for other files."""
    if data[4:8] != b"ftyp":
        return ""
    brands = data[8 : max(8, min(int.from_bytes(data[:4], "big"), 128))]
    if any(brand in brands for brand in AVIF_BRANDS):
        return ".avif"
    return ".heic" if any(brand in brands for brand in HEIC_BRANDS) else ""


def read(data: bytes, name: str) -> tuple[np.ndarray, Metadata]:
    """(H, W, C) uint8 or uint16 with alpha if there is any, upright, and what the file says beside it.

    Of several pictures it is the main one. Raises ImageError for HEIC where pillow-heif is not installed.
    """
    _check_extent(data, name)
    return _read_heic(data, name) if kind(data) == ".heic" else _read_avif(data, name)


def _read_avif(data: bytes, name: str) -> tuple[np.ndarray, Metadata]:
    image = pyvips.Image.heifload_buffer(data, access="sequential", fail_on="truncated", unlimited=True)
    pixels = decode(image, name)
    if pixels.dtype == np.uint16:
        pixels = stretch(pixels, header(image, "bits-per-sample"))
    meta = metadata(image)

    at = data.find(b"colrnclx")  # the box of the main picture's colours comes first
    if at >= 0:
        primaries, transfer = (int.from_bytes(data[n : n + 2], "big") for n in (at + 8, at + 10))
        _set_colors(meta, primaries, transfer)
    return pixels, meta


def _read_heic(data: bytes, name: str) -> tuple[np.ndarray, Metadata]:
    if not can_read_heic():
        raise ImageError(
            f"{name} is HEIC, which needs one more package: pip install pillow-heif; or convert it to JPEG"
        )
    import pillow_heif

    heif = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    check_size(*heif.size, name)
    pixels = np.asarray(heif)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype == np.uint16:
        pixels = stretch(pixels, heif.info["bit_depth"])
    if heif.premultiplied_alpha:
        pixels = pixels.copy()
        unmultiply(pixels[..., :-1], pixels[..., -1:])

    info = heif.info
    meta = Metadata(info.get("icc_profile"), info.get("exif"), info.get("xmp"))
    colors = info.get("nclx_profile")
    if colors:
        _set_colors(meta, colors["color_primaries"], colors["transfer_characteristics"])
    return pixels, meta


def _set_colors(meta: Metadata, primaries: int, transfer: int) -> None:
    """Keep what the container says of the colours as a PNG's cICP chunk says it. An ICC profile goes before that."""
    primaries = SRGB_PRIMARIES if primaries == UNSPECIFIED else primaries
    transfer = SRGB_TRANSFER if transfer == UNSPECIFIED else transfer
    if not meta.icc and (primaries, transfer) != (SRGB_PRIMARIES, SRGB_TRANSFER):
        meta.colors[b"cICP"] = bytes([primaries, transfer, 0, 1])  # 0: RGB, 1: full range


def _check_extent(data: bytes, name: str) -> None:
    """Raises ImageError where a box of the file ends beyond it, because decoders fill what is missing."""
    at = 0
    while 0 <= at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:  # the size has 8 bytes, behind the box's kind
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # to the end
            return
        if size < 8 or at + size > len(data):
            raise ImageError(f"{name} is damaged or cut short (its boxes end beyond it): copy or download it again")
        at += size
