"""Image files out, with what came in and the format has a place for: depth, alpha, ICC profile, EXIF, XMP.

libvips encodes PNG, JPEG, TIFF (by strips: nothing but the picture is held) and AVIF, Pillow WebP and BMP.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyvips
from PIL import Image

from kd_utils.common import files
from kd_utils.common.errors import ImageError, StoreError
from kd_utils.imaging import exif, jpeg, png, profiles
from kd_utils.imaging.metadata import Metadata, resize_xmp
from kd_utils.imaging.pixels import as_vips, attach, composite_over_white, header, to_8_bit
from kd_utils.imaging.reading import Photo
from kd_utils.imaging.tiff import ICC, IPTC, XMP

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (".png", *JPEG_SUFFIXES, ".webp", *TIFF_SUFFIXES, ".avif", ".bmp")
# The longest side in pixels: libjpeg, WebP and AVIF have limits of their own.
SIDES = {**dict.fromkeys(JPEG_SUFFIXES, 65500), ".webp": 16383, ".avif": 16384}
PNG_LEVEL, PNG_FILTER = 3, pyvips.ForeignPngFilter.AVG  # docs/sharpen.md compares them
BIG = 3 << 30  # bytes of pixels from which on a TIFF is a BigTIFF
QUALITY = 92  # of a JPEG or WebP, at least
AVIF_QUALITY = 85


def check(suffix: str, width: int = 1, height: int = 1) -> None:
    """Raises ImageError where no such file is written, or none with so many pixels."""
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{suffix!r} files are not written: choose .png, .jpg, .webp, .tif, .avif or .bmp")
    limit = SIDES.get(suffix, 2**31 - 1)
    if max(height, width) > limit:
        raise ImageError(f"{width}x{height} pixels do not fit into {suffix} (at most {limit} a side): write a .png")


def save(photo: Photo, path: str | Path) -> list[str]:
    """Write a photo so that a reader sees the old file or the whole new one; returns what could not be kept, in words.

    Raises ImageError as `write`, StoreError where the folder cannot be written.
    """
    path = Path(path)
    part = files.temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "w+b") as file:
                lost = write(photo, file, path.suffix)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, pyvips.Error) as e:
        reason = e.strerror if isinstance(e, OSError) else "the encoder could not write on"
        raise StoreError(f"{path} cannot be written ({reason}): free some space or choose another folder") from e
    return lost


def encode(photo: Photo, suffix: str) -> bytes:
    """The bytes that `save` would write."""
    with tempfile.TemporaryFile() as file:
        write(photo, file, suffix)
        file.seek(0)
        return file.read()


def write(photo: Photo, file: BinaryIO, suffix: str) -> list[str]:
    """Write a photo into an empty file on disk, as the kind that `suffix` names; returns what could not be kept.

    PNG and TIFF keep 16 bits, AVIF 12 of them; JPEG, WebP and BMP have 8 bits, JPEG and BMP no alpha (laid over white).
    A JPEG is written 4:4:4, at the quality that the source had but at least 92; a WebP lossless if the source was.
    Afterwards the file's header is read back. Raises ImageError as `check`, and where the header is not the photo's.
    """
    suffix = suffix.lower()
    height, width, _ = photo.pixels.shape
    check(suffix, width, height)
    photo = replace(photo, meta=_for_size(photo.meta, width, height))
    if suffix != ".png" and photo.meta.colors:
        icc = photo.meta.icc if b"cICP" not in photo.meta.colors else None
        photo.meta = replace(photo.meta, icc=icc or profiles.from_png_colors(photo.meta.colors), colors={})
    if suffix not in (".png", *TIFF_SUFFIXES, ".avif"):
        alpha = None if photo.alpha is None else to_8_bit(photo.alpha)
        photo = replace(photo, pixels=to_8_bit(photo.pixels), alpha=alpha)
    if photo.alpha is not None and suffix in (*JPEG_SUFFIXES, ".bmp"):
        photo = replace(photo, pixels=composite_over_white(photo.pixels, photo.alpha), alpha=None)

    lost = WRITERS[suffix](photo, file)
    file.flush()
    _check_header(photo, file, suffix)
    return lost


def _for_size(meta: Metadata, width: int, height: int) -> Metadata:
    """The metadata with the new size wherever the old one was stated."""
    meta = replace(meta)
    if meta.exif:
        directory = exif.load_exif(meta.exif)
        if directory:
            exif.set_size(directory, width, height)
            meta.exif = exif.dump_exif(directory)
    if meta.xmp:
        meta.xmp = resize_xmp(meta.xmp, width, height)
    return meta


def _not_kept(meta: Metadata, *kept: str) -> list[str]:
    """In words, what a photo has and a format that keeps only these fields has no place for."""
    names = {"icc": "the ICC profile", "exif": "EXIF", "xmp": "XMP", "iptc": "IPTC"}
    names |= {"comment": "the comment", "texts": "PNG text"}
    return [words for field, words in names.items() if getattr(meta, field) and field not in kept]


# ---- one writer a format


def _target(file: BinaryIO) -> pyvips.Target:
    file.flush()
    return pyvips.Target.new_to_descriptor(file.fileno())


def _write_png(photo: Photo, file: BinaryIO) -> list[str]:
    """libvips' file with our chunks between the header and the picture.

    The picture is written where it will stay; then the header goes before it, over the header that libvips wrote.
    """
    chunks, lost = png.head(photo.meta, photo.pixels.shape[2] == 1)
    theirs = 8 + 25 + 21  # the signature, IHDR and pHYs, which ours replaces
    file.seek(8 + 25 + len(chunks) - theirs)
    start = file.tell()
    image = as_vips(photo.pixels, photo.alpha)
    image.pngsave_target(_target(file), compression=PNG_LEVEL, filter=PNG_FILTER, keep=pyvips.ForeignKeep.NONE)
    file.seek(start)
    header = file.read(8 + 25)
    file.seek(0)
    file.write(header + chunks)
    return lost


def _write_jpeg(photo: Photo, file: BinaryIO) -> list[str]:
    """libvips' file, whose first two bytes we replace by these, JFIF and our segments."""
    x, y = (min(round(d), 65535) for d in photo.meta.dpi or (1, 1))
    jfif = b"JFIF\0\1\1" + struct.pack(">BHHBB", 1 if photo.meta.dpi else 0, x, y, 0, 0)  # 1: per inch
    segments, lost = jpeg.head(photo.meta)
    head = b"\xff\xd8" + jpeg.segment(0xE0, jfif) + segments
    file.seek(len(head) - 2)
    quality = max(photo.meta.quality, QUALITY)
    image = as_vips(photo.pixels)
    image.jpegsave_target(_target(file), Q=quality, subsample_mode="off", keep=pyvips.ForeignKeep.NONE)
    file.seek(0)
    file.write(head)
    return lost


def _write_tiff(photo: Photo, file: BinaryIO) -> list[str]:
    """Deflated strips with the horizontal predictor, by libvips; our tags join its own."""
    meta, pixels = photo.meta, photo.pixels
    if photo.alpha is not None and pixels.dtype == np.uint16 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)  # OpenCV and others read gray with alpha in 8 bits only
    image = as_vips(pixels, photo.alpha)
    image.tiffsave_target(
        _target(file),
        compression="deflate",
        predictor="horizontal",
        level=PNG_LEVEL,
        bigtiff=pixels.nbytes > BIG,
        keep=pyvips.ForeignKeep.NONE,
    )
    added = exif.load_exif(meta.exif or b"") or exif.Directory()
    if meta.dpi:
        dots = [round(d * 1000) for d in meta.dpi]
        added.put(exif.X_RESOLUTION, exif.RATIONAL, dots[0], 1000)
        added.put(exif.Y_RESOLUTION, exif.RATIONAL, dots[1], 1000)
        added.put(exif.RESOLUTION_UNIT, exif.SHORT, 2)  # 2: per inch
    for tag, data, kind in ((ICC, meta.icc, exif.UNDEFINED), (XMP, meta.xmp, exif.BYTE), (IPTC, meta.iptc, exif.BYTE)):
        if data:
            added.entries[tag] = exif.Entry(kind, len(data), data)
    exif.extend_first_directory(file, added)
    return _not_kept(meta, "icc", "exif", "xmp", "iptc")


def _write_avif(photo: Photo, file: BinaryIO) -> list[str]:
    meta, image = photo.meta, as_vips(photo.pixels, photo.alpha)
    kept, lost = pyvips.ForeignKeep.ICC | pyvips.ForeignKeep.XMP, _not_kept(meta, "icc", "exif", "xmp")
    if meta.icc:
        image = attach(image, "icc-profile-data", meta.icc)
    if meta.xmp:
        image = attach(image, "xmp-data", meta.xmp)
    if meta.exif:  # without one, libvips would make an EXIF block up
        image = attach(image, "exif-data", b"Exif\0\0" + meta.exif)
        kept |= pyvips.ForeignKeep.EXIF
    image.heifsave_target(
        _target(file),
        compression="av1",
        Q=AVIF_QUALITY,
        bitdepth=8 if photo.pixels.itemsize == 1 else 12,
        subsample_mode="off",
        effort=1,
        keep=kept,
    )
    if meta.exif:
        lost += _lost_tags(meta.exif, file)
    return lost


def _lost_tags(block: bytes, file: BinaryIO) -> list[str]:
    """What of EXIF is not in the file: libvips writes it anew, and some makers' notes as it understands them."""
    file.seek(0)
    image = pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "")
    written = header(image, "exif-data") or b""
    before, after = exif.all_tags(block), exif.all_tags(written.removeprefix(b"Exif\0\0"))
    note = exif.MAKER_NOTE
    lost = ["the camera maker's own notes in EXIF"] if before.get(note) != after.get(note) else []
    numbers = ", ".join(f"0x{tag:04x}" for tag in sorted(before.keys() - after.keys() - {note}))
    return lost + ([f"EXIF tags {numbers}"] if numbers else [])


def _write_webp(photo: Photo, file: BinaryIO) -> list[str]:
    """By Pillow, which keeps EXIF as it is; libvips would write it anew and lose the camera maker's notes."""
    meta = photo.meta
    blocks = {"icc_profile": meta.icc or b"", "exif": meta.exif or b"", "xmp": meta.xmp or b""}
    _pillow(photo).save(file, "WEBP", quality=QUALITY, lossless=meta.lossless, exact=True, **blocks)
    return _not_kept(meta, "icc", "exif", "xmp")


def _write_bmp(photo: Photo, file: BinaryIO) -> list[str]:
    _pillow(photo).save(file, "BMP", dpi=photo.meta.dpi or (96, 96))
    return _not_kept(photo.meta)


def _pillow(photo: Photo) -> Image.Image:
    """A photo of 8 bits as a Pillow picture."""
    gray = photo.pixels.shape[2] == 1
    image = Image.fromarray(photo.pixels.squeeze(2) if gray else photo.pixels)
    if photo.alpha is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(photo.alpha))
    return image


WRITERS: dict[str, Callable[[Photo, BinaryIO], list[str]]] = {
    **dict.fromkeys(JPEG_SUFFIXES, _write_jpeg),
    **dict.fromkeys(TIFF_SUFFIXES, _write_tiff),
    ".png": _write_png,
    ".webp": _write_webp,
    ".avif": _write_avif,
    ".bmp": _write_bmp,
}


def _check_header(photo: Photo, file: BinaryIO, suffix: str) -> None:
    """Raises ImageError unless the file that was written opens with the photo's size, depth and orientation."""
    height, width, _ = photo.pixels.shape
    directory = exif.load_exif(photo.meta.exif or b"") or exif.Directory()
    want = (width, height, photo.pixels.itemsize, directory.number(exif.ORIENTATION, 1))
    file.seek(0)
    try:
        if suffix == ".bmp":
            image = Image.open(file)
            have = (image.width, image.height, 1, 1)
        else:
            image = pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "")
            depth = 1 if image.format == "uchar" else 2
            have = (image.width, image.height, depth, header(image, "orientation") or 1)
    except (pyvips.Error, OSError) as e:
        raise ImageError(f"the {suffix} that was written does not open ({e}): write a .png") from e
    if have != want:
        raise ImageError(f"the {suffix} that was written has {have} where {want} was meant: write a .png")
