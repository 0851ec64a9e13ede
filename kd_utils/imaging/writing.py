"""Image files out, with all that came in: depth, alpha, ICC profile, EXIF.

PNG and TIFF are written here by strips, because the libraries' writers copy a large picture several times, and none
keeps 16 bits, profile and EXIF together.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from kd_utils.common.errors import ImageError
from kd_utils.imaging.reading import Photo, composite_over_white, to_8_bit

SIDES = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}  # at most, in pixels
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def check(suffix: str, width: int = 1, height: int = 1) -> None:
    """Raises ImageError where no such file is written, or none with so many pixels."""
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{suffix!r} files are not written: choose .png, .jpg, .webp, .tif or .bmp")
    limit = SIDES.get(suffix, 2**31 - 1)
    if max(height, width) > limit:
        raise ImageError(f"{width}x{height} pixels do not fit into {suffix} (at most {limit} a side): write a .png")


def encode(photo: Photo, suffix: str) -> list[bytes]:
    """The photo as a file of the kind that `suffix` names, in pieces to be written one after the other.

    PNG and TIFF keep everything; JPEG, WebP and BMP have 8 bits, JPEG and BMP no alpha (laid over white). A JPEG
    is written 4:4:4, at the quality that the source had but at least 92; a WebP lossless if the source was. Raises
    ImageError as `check`.
    """
    suffix = suffix.lower()
    height, width, _ = photo.pixels.shape
    check(suffix, width, height)
    exif = _resized_exif(photo.exif, width, height)
    if suffix == ".png":
        return _png(photo, exif)
    if suffix in (".tif", ".tiff"):
        return _tiff(photo, exif)
    pixels, alpha = to_8_bit(photo.pixels), None if photo.alpha is None else to_8_bit(photo.alpha)
    if suffix in (".jpg", ".jpeg"):
        return _jpeg(pixels if alpha is None else composite_over_white(pixels, alpha), photo, exif)
    if alpha is not None and suffix == ".bmp":
        pixels, alpha = composite_over_white(pixels, alpha), None
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(alpha))
    buffer = io.BytesIO()
    if suffix == ".bmp":
        image.save(buffer, "BMP")
    else:
        kept = {"exif": exif or b"", "icc_profile": photo.icc}
        image.save(buffer, "WEBP", quality=92, lossless=photo.lossless, exact=True, **kept)
    return [buffer.getbuffer()]


def _resized_exif(exif: bytes | None, width: int, height: int) -> bytes | None:
    """EXIF states the picture's size, if at all, in tags 0xA002 and 0xA003 of its sub-directory."""
    if not exif:
        return None
    block = Image.Exif()
    block.load(exif)
    inner = block.get_ifd(0x8769)
    if not {0xA002, 0xA003} & inner.keys():
        return exif
    inner[0xA002], inner[0xA003] = width, height
    return block.tobytes()


def _jpeg(pixels: np.ndarray, photo: Photo, exif: bytes | None) -> list[bytes]:
    """`pixels` with what comes along of `photo`."""
    quality, icc = max(photo.quality, 92), photo.icc
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    full = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _swap_red_blue(pixels)  # OpenCV wants BGR; in place and back, because a copy of 100 megapixels is 300 MB
    try:
        ok, data = cv2.imencode(".jpg", pixels, full)
    finally:
        _swap_red_blue(pixels)
    if not ok:
        raise ImageError("the JPEG encoder failed: write a .png")
    data = memoryview(data).cast("B")
    head = b""
    if exif and len(exif) < 65534:  # the standard's limit for one segment
        exif = exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif
        head += b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    parts = [icc[i : i + 65519] for i in range(0, len(icc or b""), 65519)]
    for i, part in enumerate(parts):  # ICC.1:2010, annex B.4
        payload = b"ICC_PROFILE\0" + bytes([i + 1, len(parts)]) + part
        head += b"\xff\xe2" + struct.pack(">H", len(payload) + 2) + payload
    start = 4 + struct.unpack(">H", data[4:6])[0] if data[2:4] == b"\xff\xe0" else 2  # after the JFIF segment
    jfif = bytearray(data[:start])
    if photo.dpi and start > 2:
        jfif[13:18] = struct.pack(">BHH", 1, *(min(round(d), 65535) for d in photo.dpi))  # 1: per inch
    return [bytes(jfif), head, data[start:]]


def _swap_red_blue(pixels: np.ndarray, rows: int = 64) -> None:
    for y in range(0, len(pixels), rows):
        pixels[y : y + rows] = pixels[y : y + rows, :, ::-1].copy()


def _strips(photo: Photo, rows: int = 256) -> Iterator[np.ndarray]:
    """(rows, W, C) strips of the photo, alpha last: of what a file stores, one copy at a time."""
    for y in range(0, len(photo.pixels), rows):
        strip = photo.pixels[y : y + rows]
        yield strip if photo.alpha is None else np.dstack([strip, photo.alpha[y : y + rows]])


def _png(photo: Photo, exif: bytes | None) -> list[bytes]:
    """PNG (ISO/IEC 15948), each row with the filter of the least sum of absolute differences."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))

    h, w, c = photo.pixels.shape
    kind = (0 if c == 1 else 2) + (0 if photo.alpha is None else 4)
    size = struct.pack(">IIBBBBB", w, h, 8 * photo.pixels.itemsize, kind, 0, 0, 0)
    out = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", size)]
    if photo.icc and photo.icc[16:20] == (b"GRAY" if c == 1 else b"RGB "):  # the standard allows no other
        out.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc)))
    if exif:
        out.append(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    if photo.dpi:
        out.append(chunk(b"pHYs", struct.pack(">IIB", *(min(round(d / 0.0254), 2**31 - 1) for d in photo.dpi), 1)))
    packer = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
    step = (c + (photo.alpha is not None)) * photo.pixels.itemsize  # bytes a pixel
    above = np.zeros(w * step, np.uint8)
    for strip in _strips(photo, 64):
        raw = strip.astype(">u2") if strip.dtype == np.uint16 else strip
        rows = np.ascontiguousarray(raw).view(np.uint8).reshape(len(strip), -1)  # (rows, bytes)
        data = packer.compress(_filtered(rows, above, step))
        above = rows[-1].copy()
        if data:
            out.append(chunk(b"IDAT", data))
    return [*out, chunk(b"IDAT", packer.flush()), chunk(b"IEND", b"")]


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """(n, bytes) uint8 -> (n, 1 + bytes): each row behind the number of its filter (Sub, Up, Average, Paeth)."""
    n, width = rows.shape
    b = np.vstack([above[None], rows[:-1]]).astype(np.int16)
    a, c = np.zeros((n, width), np.int16), np.zeros((n, width), np.int16)
    a[:, step:], c[:, step:] = rows[:, :-step], b[:, :-step]
    pa, pb, pc = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
    tries = np.stack([(rows - guess).astype(np.uint8) for guess in (a, b, (a + b) >> 1, paeth)])  # modulo 256
    best = np.abs(tries.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64).argmin(axis=0)
    out = np.empty((n, 1 + width), np.uint8)
    out[:, 0] = best + 1
    out[:, 1:] = tries[best, np.arange(n)]
    return out


def _tiff(photo: Photo, exif: bytes | None) -> list[bytes]:
    """TIFF 6.0, deflated strips with the horizontal predictor; the EXIF block's own directory is the file's first."""
    if photo.alpha is not None and photo.pixels.dtype == np.uint16 and photo.pixels.shape[2] == 1:
        photo = replace(photo, pixels=np.repeat(photo.pixels, 3, axis=2))  # no reader knows gray with alpha at 16 bit
    h, w, c = photo.pixels.shape
    n = c + (photo.alpha is not None)
    strips = []
    for strip in _strips(photo):
        left = np.zeros_like(strip)
        left[:, 1:] = strip[:, :-1]
        strips.append(zlib.compress((strip - left).astype(strip.dtype.newbyteorder("<")).tobytes(), 6))
    ifd = Image.Exif()
    if exif:
        ifd.load(exif)
    ifd.endian = "<"
    lengths = [len(s) for s in strips]
    tags = {
        256: w, 257: h, 258: (8 * photo.pixels.itemsize,) * n, 259: 8, 262: 1 if c == 1 else 2, 277: n,
        278: 256, 317: 2, 279: tuple(lengths),
        273: (0, *np.cumsum(lengths[:-1]).tolist()),  # Pillow counts these from the directory's end
    }  # fmt: skip
    if photo.alpha is not None:
        tags[338] = 2  # not premultiplied
    if photo.icc:
        tags[34675] = photo.icc
    if photo.dpi and 282 not in ifd:
        tags |= {282: photo.dpi[0], 283: photo.dpi[1], 296: 2}  # 2: per inch
    for tag, value in tags.items():
        ifd[tag] = value
    return [ifd.tobytes()[6:], *strips]
