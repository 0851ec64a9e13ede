"""What an image file says beside its pixels, and what of it is in an XMP packet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


def xmp_orientation(xmp: bytes) -> int:
    """The orientation that an XMP packet states; 1 where it states none."""
    found = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])", xmp)
    return int(found[1]) if found else 1


def set_xmp(xmp: bytes, name: bytes, value: int) -> bytes:
    """An XMP packet with a whole-numbered property, such as tiff:Orientation, set where it is stated."""
    pattern = rb"(" + name + rb"(?:\s*=\s*[\"']|>)\s*)\d+"
    return re.sub(pattern, lambda m: m[1] + str(value).encode(), xmp)


def resize_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """An XMP packet that states the new size wherever it stated one."""
    for name, value in (
        (b"tiff:ImageWidth", width),
        (b"tiff:ImageLength", height),
        (b"exif:PixelXDimension", width),
        (b"exif:PixelYDimension", height),
    ):
        xmp = set_xmp(xmp, name, value)
    return xmp


@dataclass
class Metadata:
    """What comes along with the pixels of a photo, as raw blocks."""

    icc: bytes | None = None
    exif: bytes | None = None  # without "Exif\0\0" before it
    xmp: bytes | None = None
    iptc: bytes | None = None  # the IIM records
    comment: bytes | None = None  # of a JPEG
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)  # a PNG's text chunks: (kind, data)
    colors: dict[bytes, bytes] = field(default_factory=dict)  # a PNG's colour chunks, by kind
    dpi: tuple[float, float] | None = None  # of a print, across and down
    quality: int = 0  # of a JPEG, as libjpeg counts, 50 for all below; 0: not a JPEG
    lossless: bool = True  # how a WebP was coded, so that it is written back alike
    lost: list[str] = field(default_factory=list)  # what the file held and could not be kept, for people
