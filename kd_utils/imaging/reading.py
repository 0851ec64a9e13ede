"""Image files in: upright pixels at their own depth, with alpha and all that a file says beside them.

libvips decodes JPEG, PNG, WebP, TIFF, GIF and AVIF, Pillow the rest, tifffile and OpenCV the TIFFs that libvips lacks.
Depth is taken from the file's own type, never guessed from its brightest pixel.
"""

from __future__ import annotations

import io
import re
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image, UnidentifiedImageError

from kd_utils.common.errors import ImageError
from kd_utils.imaging import heif, jpeg, png, profiles
from kd_utils.imaging.exif import DESCRIPTION, DESCRIPTIVE, ORIENTATION, clean, dump_exif, load_exif, resolution
from kd_utils.imaging.metadata import Metadata, set_xmp, xmp_orientation
from kd_utils.imaging.pixels import (
    check_size,
    composite_over_white,
    decode,
    header,
    metadata,
    pillow_pixels,
    split_alpha,
    to_8_bit,
    upright,
)
from kd_utils.imaging.tiff import ICC, IPTC, XMP, read_tiff

# What Pillow's readers raise for damaged files; TypeError: a TIFF without a width, ArithmeticError: a BigTIFF's offsets
BROKEN = (
    OSError, ValueError, SyntaxError, struct.error, EOFError, LookupError, TypeError, RuntimeError, ArithmeticError,
    pyvips.Error,
)  # fmt: skip


@dataclass
class Photo:
    """Pixels as they were coded, upright, with what is needed to write them back.

    `pixels` (H, W, 3) RGB or (H, W, 1) gray, uint8 or uint16; `alpha` (H, W) of the same type, not premultiplied.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    meta: Metadata = field(default_factory=Metadata)
    kind: str = ""  # the suffix of files like the one it was read from


def reader_version() -> str:
    """The libraries that decode photos, for the record of what crops were made with."""
    return f"libvips {'.'.join(str(pyvips.version(n)) for n in range(3))}"


def read_rgb(source: str | Path | bytes, name: str = "") -> np.ndarray:
    """uint8 (H, W, 3) RGB of any image file or its bytes: 16 bit rounded, gray repeated, alpha laid over white."""
    return to_rgb(read(source, name))


def to_rgb(photo: Photo) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a photo, as `read_rgb`."""
    rgb = to_8_bit(photo.pixels)
    if rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    if photo.alpha is None:
        return rgb
    return composite_over_white(rgb, to_8_bit(photo.alpha))


def read(source: str | Path | bytes, name: str = "") -> Photo:
    """Decode a file or its bytes, in full fidelity and upright.

    Raises ImageError for what is no image, damaged, cut short, animated, of several pages, above 179 megapixels, or
    holds NaN.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else read_bytes(Path(source), name)
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again")

    kind = _kind(data)
    reader = READERS.get(kind, _read_by_pillow)
    try:
        photo = reader(data, name)
    except ImageError:
        raise
    except UnidentifiedImageError as e:
        known = "JPEG, PNG, WebP, TIFF, AVIF, BMP"
        raise ImageError(f"{name} is no image that can be read ({known}): convert it first") from e
    except BROKEN as e:
        reason = str(e).strip().splitlines()[-1].strip() if str(e).strip() else type(e).__name__
        raise ImageError(f"{name} is damaged or cut short ({reason}): copy or download it again") from e
    photo.kind = photo.kind or kind
    if photo.meta.icc and not profiles.usable(photo.meta.icc, photo.pixels.shape[2]):
        photo.meta.icc = None
        photo.meta.lost.append("an ICC profile that cannot be used")
    return photo


def read_bytes(path: Path, name: str = "") -> bytes:
    """All of a file. Raises ImageError for one that cannot be read, or is a pipe or a device, which may never end."""
    name = name or str(path)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ImageError(f"{name} is a pipe, a socket or a device: give a file, or - for a pipe")
        return path.read_bytes()
    except OSError as e:
        raise ImageError(f"{name} cannot be read ({e.strerror}): check the path and its permissions") from e


def _kind(data: bytes) -> str:
    """The suffix of the kind of file that its first bytes tell, "" for one that Pillow may know."""
    if data.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if data.startswith(png.SIGNATURE):
        return ".png"
    if data.startswith(b"GIF8"):
        return ".gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ".tif"
    return heif.kind(data)


# ---- one reader a kind


def _read_jpeg(data: bytes, name: str) -> Photo:
    jpeg.check_frame(data, name)
    try:
        pixels = decode(pyvips.Image.jpegload_buffer(data, access="sequential", fail_on="truncated"), name)
    except pyvips.Error:
        # some programs leave the end marker out; with one put there, libjpeg warns where more than that is missing
        whole = data + jpeg.END
        pixels = decode(pyvips.Image.jpegload_buffer(whole, access="sequential", fail_on="warning"), name)
    return _without_inks(_upright(Photo(pixels, None, jpeg.read_metadata(data))))


def _read_png(data: bytes, name: str) -> Photo:
    frames = dict(png.chunks_of(data)).get(b"acTL", b"")
    _refuse_animation(int.from_bytes(frames[:4], "big"), name)
    image = pyvips.Image.pngload_buffer(data, access="sequential", fail_on="truncated", unlimited=True)
    _refuse_inflation(image, data, name)
    return _upright(Photo(*split_alpha(decode(image, name)), png.read_metadata(data)))


def _refuse_inflation(image: pyvips.Image, data: bytes, name: str) -> None:
    """Refuse a PNG whose pixels cannot be in its bytes before room is made for them: deflate packs 1032 into 1."""
    check_size(image.width, image.height, name)
    unpacked = image.width * image.height // 8  # bytes; at one bit a pixel, the least there is
    if unpacked > 1040 * len(data):
        raise ImageError(
            f"{name} is damaged or cut short ({image.width}x{image.height} pixels are not in {len(data):,} bytes): "
            "copy or download it again"
        )


def _read_webp(data: bytes, name: str) -> Photo:
    image = pyvips.Image.webpload_buffer(data, access="sequential", fail_on="truncated")
    _refuse_animation(header(image, "n-pages"), name)
    meta = metadata(image)
    meta.lossless = b"VP8L" in data
    return _upright(Photo(*split_alpha(decode(image, name)), meta))


def _read_gif(data: bytes, name: str) -> Photo:
    image = pyvips.Image.gifload_buffer(data, access="sequential", fail_on="truncated")
    _refuse_animation(header(image, "n-pages"), name)
    return Photo(*split_alpha(decode(image, name)))


def _read_heif(data: bytes, name: str) -> Photo:
    pixels, meta = heif.read(data, name)
    return _upright(Photo(*split_alpha(pixels), meta), turned=True)


def _read_tiff(data: bytes, name: str) -> Photo:
    (pixels, alpha), directory = read_tiff(data, name)
    blocks = {tag: entry.data for tag, entry in directory.entries.items() if tag in (ICC, XMP, IPTC)}
    meta = Metadata(blocks.get(ICC), xmp=blocks.get(XMP), iptc=blocks.get(IPTC), dpi=resolution(directory))
    orientation = directory.number(ORIENTATION, 1)
    clean(directory, DESCRIPTIVE)
    described = directory.entries.get(DESCRIPTION)
    if described and described.data.startswith((b'{"shape"', b"shape=(", b"ImageJ=", b"<?xml")):
        del directory.entries[DESCRIPTION]  # programs' own description of the samples, which states the old size
        meta.lost.append("a program's description of the samples")
    if directory.entries or directory.children:
        meta.exif = dump_exif(directory)
    return _without_inks(_turn(Photo(pixels, alpha, meta), orientation))


def _read_by_pillow(data: bytes, name: str) -> Photo:
    """BMP and what only few folders hold: TGA, PPM, ICO, JPEG 2000."""
    image = Image.open(io.BytesIO(data))
    check_size(image.width, image.height, name)
    _refuse_animation(getattr(image, "n_frames", 1), name)
    if image.mode[0] in "IF" or (image.format == "PPM" and _peak(data) > 255):
        raise ImageError(f"{name} is a {image.format} file of more than 8 bits: convert it to a 16-bit PNG or TIFF")
    meta = Metadata(icc=image.info.get("icc_profile"))
    pixels = pillow_pixels(image)
    if image.format == "BMP" and "dpi" in image.info:
        meta.dpi = image.info["dpi"]
    return Photo(*split_alpha(pixels), meta, f".{(image.format or '').lower()}")


READERS = {
    ".jpg": _read_jpeg,
    ".png": _read_png,
    ".webp": _read_webp,
    ".gif": _read_gif,
    ".avif": _read_heif,
    ".heic": _read_heif,
    ".tif": _read_tiff,
}


# ---- what the readers share


def _upright(photo: Photo, turned: bool = False) -> Photo:
    """Turn the pixels by EXIF, else by XMP, and state in both that they are upright; `turned`: they are already."""
    meta = photo.meta
    orientation = 1
    if meta.xmp:
        orientation = xmp_orientation(meta.xmp)
        meta.xmp = set_xmp(meta.xmp, b"tiff:Orientation", 1)
    if meta.exif:
        directory = load_exif(meta.exif)
        meta.exif = None
        if directory is None:
            meta.lost.append("a damaged EXIF block")
        else:
            orientation = directory.number(ORIENTATION, orientation)
            meta.dpi = meta.dpi or resolution(directory)
            clean(directory)
            meta.exif = dump_exif(directory)
    return photo if turned else _turn(photo, orientation)


def _turn(photo: Photo, orientation: int) -> Photo:
    if orientation in range(2, 9):
        photo.pixels = upright(photo.pixels, orientation)
        photo.alpha = None if photo.alpha is None else upright(photo.alpha, orientation)
        if photo.meta.dpi and orientation >= 5:
            across, down = photo.meta.dpi
            photo.meta.dpi = down, across
    return photo


def _without_inks(photo: Photo) -> Photo:
    """CMYK as sRGB, through its own profile where that can be used; other photos as they are."""
    if photo.pixels.shape[2] == 4:
        icc, photo.meta.icc = photo.meta.icc, None
        if icc and not profiles.usable(icc, 4):
            photo.meta.lost.append("an ICC profile that cannot be used")
            icc = None
        photo.pixels = profiles.cmyk_to_rgb(photo.pixels, icc)
    return photo


def _refuse_animation(pictures: int | None, name: str) -> None:
    if pictures and pictures > 1:
        raise ImageError(f"{name} is an animation of {pictures} pictures: save the one you want as a file of its own")


def _peak(data: bytes) -> int:
    """The value of white that a PGM or PPM states; 0 for one that states none."""
    found = re.match(rb"P[2356]\s+(?:(?:#[^\n]*\n\s*)*\d+\s+){2}(?:#[^\n]*\n\s*)*(\d+)", data[:4096])
    return int(found[1]) if found else 0
