"""TIFFs of all kinds in: 1 to 16 bits, whole numbers of 32, floats; gray, RGB, palette, CMYK, Lab; BigTIFF.

libvips decodes most, OpenCV packed samples of 10 to 14 bits and YCbCr, tifffile doubles, Pillow Lab.
"""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pyvips
from PIL import Image

from kd_utils.common.errors import ImageError
from kd_utils.imaging import profiles
from kd_utils.imaging.exif import SHORT, Directory, read_directory, read_layout
from kd_utils.imaging.pixels import check_size, decode, pillow_pixels, split_alpha, stretch, unmultiply

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, KIND = 254, 255, 256, 257, 258, 259, 262
PLANES, EXTRA, FORMAT = 284, 338, 339
STRIPS, STRIP_BYTES, TILES, TILE_BYTES = 273, 279, 324, 325
ICC, XMP, IPTC = 34675, 700, 33723
REDUCED, MASK = 1, 4  # bits of SUBFILE
JPEG = 7  # a COMPRESSION
YCBCR, LAB = 6, 8
# Samples of colour by the number of the photometric interpretation: white or black is zero, RGB, palette, CMYK, YCbCr.
COLORS = {0: 1, 1: 1, 2: 3, 3: 3, 5: 4, YCBCR: 3, LAB: 3}
UINT, INT, FLOAT = 1, 2, 3
PREMULTIPLIED, STRAIGHT = 1, 2


def read_tiff(data: bytes, name: str) -> tuple[tuple[np.ndarray, np.ndarray | None], Directory]:
    """The colours (gray, RGB or CMYK) and alpha of a TIFF's picture as it is stored, and its tags.

    Reduced pictures and masks beside it are passed over. Raises ImageError for several pictures and for kinds that are
    not read, by their names.
    """
    pages = _pages(data)
    number = _picture(list(pages.values()), name)
    at, page = list(pages.items())[number]
    width, height = page.number(WIDTH, 0), page.number(HEIGHT, 0)
    if width < 1 or height < 1:
        raise ImageError(f"{name} is damaged (a TIFF without a size): copy or download it again")
    check_size(width, height, name)

    kind, bits, form = page.number(KIND, 1), int(max(page.numbers(BITS) or (1,))), page.number(FORMAT, UINT)
    if kind not in COLORS or (kind in (YCBCR, LAB) and bits != 8):
        deep = "deep " if bits > 8 else ""
        raise ImageError(f"{name} is a {deep}TIFF that is neither gray nor RGB (photometric {kind}): save it as RGB")
    if (form, bits) not in SAMPLES:
        words = {UINT: "whole numbers", INT: "signed numbers", FLOAT: "floats"}.get(form, "complex numbers")
        raise ImageError(f"{name} has samples of {bits}-bit {words}: convert it to 8 or 16 bit")

    if kind == LAB:
        page.entries.pop(ICC, None)
        return split_alpha(pillow_pixels(profiles.lab_to_rgb(Image.open(io.BytesIO(data))))), page
    _check_extent(page, len(data), name)
    decoder = SAMPLES[form, bits]
    if page.number(PLANES, 1) == 2 and (TILES in page.entries or (form, bits) == (FLOAT, 16)):
        decoder = _by_tifffile  # libvips refuses tiled planes, and mixes planes of half floats up
    if kind == YCBCR and page.number(COMPRESSION, 1) != JPEG:
        decoder = _by_opencv  # libvips takes it for RGB where the colours are not subsampled
    samples = decoder(_declared_straight(data, at, page), number, name)
    return _with_alpha(_whole_numbers(samples, name), page, COLORS[kind]), page


def _pages(data: bytes) -> dict[int, Directory]:
    """The directories of a TIFF by their offsets, in order."""
    layout, at = read_layout(data)
    pages: dict[int, Directory] = {}
    while at and at not in pages:
        pages[at], at = read_directory(data, at, layout)
    return pages


def _picture(pages: list[Directory], name: str) -> int:
    """The number of the one page that is neither a thumbnail nor a mask."""
    full = []
    for number, page in enumerate(pages):
        reduced = page.number(SUBFILE, 0) & (REDUCED | MASK) or page.number(OLD_SUBFILE, 1) == 2
        if not reduced:
            full.append(number)
    if len(full) > 1:
        raise ImageError(f"{name} is a file of {len(full)} pictures: save the one you want as a file of its own")
    return full[0] if full else 0


def _check_extent(page: Directory, length: int, name: str) -> None:
    """Raises ImageError where strips or tiles lie beyond the file's end, which decoders may fill with black."""
    for offsets, sizes in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES)):
        for offset, size in zip(page.numbers(offsets), page.numbers(sizes), strict=False):
            if offset + size > length:
                raise ImageError(f"{name} is cut short (its pixels end at byte {offset + size}): copy it again")


def _declared_straight(data: bytes, at: int, page: Directory) -> bytes:
    """The file with premultiplied alpha declared straight: libvips would divide by it and round down."""
    kinds = page.numbers(EXTRA)
    if PREMULTIPLIED not in kinds:
        return data
    layout, _ = read_layout(data)
    entry = struct.pack(layout.entry, EXTRA, SHORT, len(kinds), b"")[: -struct.calcsize(layout.number)]
    place = data.find(entry, at) + len(entry)
    if place < at or 2 * len(kinds) > struct.calcsize(layout.number):
        return data
    straight = [STRAIGHT if kind == PREMULTIPLIED else kind for kind in kinds]
    return data[:place] + struct.pack(f"{layout.endian}{len(kinds)}H", *straight) + data[place + 2 * len(kinds) :]


def _by_vips(data: bytes, number: int, name: str) -> np.ndarray:
    image = pyvips.Image.tiffload_buffer(data, page=number, access="sequential", fail_on="truncated")
    return decode(image, name)


def _by_opencv(data: bytes, number: int, name: str) -> np.ndarray:
    """Packed samples, which come in the upper bits of 16, and YCbCr as RGB."""
    found, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if not found or number >= len(pages):
        raise ValueError("OpenCV cannot read it")
    a = pages[number]
    if a.ndim == 3:
        a = cv2.cvtColor(a, cv2.COLOR_BGRA2RGBA if a.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return a.reshape(a.shape[0], a.shape[1], -1)


def _by_tifffile(data: bytes, number: int, name: str) -> np.ndarray:
    import tifffile  # few TIFFs need it, and its import takes longer than those of all else here

    page = tifffile.TiffFile(io.BytesIO(data)).pages[number].aspage()
    a = page.asarray()
    if a.ndim == 3 and page.planarconfig == 2:  # separate planes
        a = np.moveaxis(a, 0, 2)
    return a.reshape(page.imagelength, page.imagewidth, -1)


def _packed(bits: int):
    return lambda data, number, name: stretch(_by_opencv(data, number, name), bits)


# Who decodes samples, by their format and bits.
SAMPLES = {
    **{(UINT, bits): _by_vips for bits in (1, 2, 4, 8, 16, 32)},
    **{(UINT, bits): _packed(bits) for bits in (10, 12, 14)},
    (FLOAT, 16): _by_vips,
    (FLOAT, 32): _by_vips,
    (FLOAT, 64): _by_tifffile,
}


def _whole_numbers(a: np.ndarray, name: str) -> np.ndarray:
    """Floats in [0, 1] and whole numbers of 32 bits as uint16; uint8 and uint16 as they are."""
    if a.dtype.kind == "f":
        if not np.isfinite(a).all():
            bad = int((~np.isfinite(a)).any(axis=2).sum())
            raise ImageError(f"{name} holds NaN or infinity at {bad} pixels: replace them, then save as 16 bit")
        if a.min() < -1e-3 or a.max() > 1.001:
            raise ImageError(f"{name} has floats from {a.min():g} to {a.max():g}: scale them to [0, 1] first")
        return np.rint(np.clip(a, 0, 1).astype(np.float32, copy=False) * 65535).astype(np.uint16)
    if a.dtype == np.uint32:
        return ((a.astype(np.uint64) + 32768) // 65537).astype(np.uint16)
    return a


def _with_alpha(a: np.ndarray, page: Directory, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The first `count` samples, and the extra one that is alpha; a scanner's infrared or a spot colour is dropped."""
    extra = a.shape[2] - count
    if extra <= 0:
        return np.ascontiguousarray(a), None
    kinds = page.numbers(EXTRA) or (STRAIGHT,)
    for place, kind in enumerate(kinds[:extra], count):
        if kind in (PREMULTIPLIED, STRAIGHT):
            colors, alpha = a[..., :count].copy(), a[..., place : place + 1]
            if kind == PREMULTIPLIED:
                unmultiply(colors, alpha)
            return split_alpha(np.concatenate([colors, alpha], axis=2))
    return np.ascontiguousarray(a[..., :count]), None
