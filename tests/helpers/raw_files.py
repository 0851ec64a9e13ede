"""Image files made byte by byte, for kinds that no library writes: odd depths, odd tags, odd chunks."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL = 1, 2, 3, 4, 5, 7, 10
GRAY, RGB, PALETTE, GRAY_ALPHA = 0, 2, 3, 4  # colour types of PNG
COLUMNS, ROWS = 40, 24


def waves(rows: int = ROWS, columns: int = COLUMNS, channels: int = 3) -> np.ndarray:
    """uint8 (rows, columns, channels), smooth, between 20 and 235."""
    down, across = np.mgrid[:rows, :columns]
    layers = [np.cos(across / 7 + n) + np.sin(down / 6 - n) for n in range(channels)]
    return np.rint(128 + 53 * np.stack(layers, axis=2)).astype(np.uint8)


DEEP = waves().astype(np.uint16) * 257  # the same in 16 bits


def marked() -> np.ndarray:
    """`waves` with a red square in the upper left corner, by which one sees how a picture lies."""
    a = waves()
    a[:8, :8] = (255, 0, 0)
    return a


def saved(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


# ---- PNG


def packed(samples: np.ndarray, bits: int) -> list[bytes]:
    """The bytes of each row of (H, W) samples of 1 to 16 bits, highest bit first."""
    shifts = np.arange(bits - 1, -1, -1)
    planes = samples.astype(np.int64)[..., None] >> shifts & 1  # (H, W, bits)
    return [row.tobytes() for row in np.packbits(planes.astype(np.uint8).reshape(len(samples), -1), axis=1)]


def png_file(rows: list[bytes], width: int, bits: int, color: int, *chunks: tuple[bytes, bytes], late=()) -> bytes:
    """A PNG of unfiltered rows, with `chunks` before the picture and `late` ones behind it."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    every = [(b"IHDR", header), *chunks, (b"IDAT", body), *late, (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in every:
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


def rgb_png(*chunks: tuple[bytes, bytes], late=(), pixels: np.ndarray | None = None) -> bytes:
    a = waves() if pixels is None else pixels
    return png_file([row.tobytes() for row in a], a.shape[1], 8, RGB, *chunks, late=late)


def halves_png(bits: int, color: int, left: tuple[int, ...], right: tuple[int, ...], *chunks) -> bytes:
    """32 x 24 pixels, the left half of one value, the right of another."""
    row = np.array([left] * 16 + [right] * 16).reshape(1, -1)
    return png_file(packed(row.repeat(24, axis=0), bits), 32, bits, color, *chunks)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, data) of every chunk; the checksums are checked."""
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    return found


# ---- TIFF and EXIF


class Tag:
    """One entry of a directory: numbers of a type, or bytes."""

    def __init__(self, number: int, kind: int, values, count: int | None = None):
        self.number, self.kind, self.values, self.count = number, kind, values, count

    def data(self, order: str) -> tuple[int, bytes]:
        if isinstance(self.values, bytes):
            return self.count or len(self.values), self.values
        code = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "II", SRATIONAL: "ii"}[self.kind]
        count = len(self.values) // len(code)
        return count, struct.pack(order + code * count, *self.values)


def directory(tags: list[Tag], at: int, order: str, following: int = 0) -> bytes:
    """A classic TIFF directory for the offset `at`, with the values that do not fit behind it."""
    tags = sorted(tags, key=lambda tag: tag.number)
    table, behind = struct.pack(order + "H", len(tags)), b""
    for tag in tags:
        count, data = tag.data(order)
        value = data.ljust(4, b"\0")
        if len(data) > 4:
            value = struct.pack(order + "I", at + 6 + 12 * len(tags) + len(behind))
            behind += data + bytes(len(data) % 2)
        table += struct.pack(order + "HHI", tag.number, tag.kind, count) + value
    return table + struct.pack(order + "I", following) + behind


def tiff_head(order: str) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)


def exif_block(*tags: Tag, inner: tuple[Tag, ...] = (), order: str = "<", thumbnail: bytes = b"") -> bytes:
    """An EXIF block without "Exif" before it: a directory, an inner one, and a thumbnail's."""
    tags = list(tags)
    if inner:
        tags.append(Tag(0x8769, LONG, (0,)))
    length = len(directory(tags, 8, order))
    below = directory(list(inner), 8 + length, order) if inner else b""
    if inner:
        tags[-1] = Tag(0x8769, LONG, (8 + length,))
    behind = b""
    following = 8 + length + len(below) if thumbnail else 0
    if thumbnail:
        small = [Tag(0x103, SHORT, (6,)), Tag(0x201, LONG, (0,)), Tag(0x202, LONG, (len(thumbnail),))]
        small[1] = Tag(0x201, LONG, (following + len(directory(small, following, order)),))
        behind = directory(small, following, order) + thumbnail
    return tiff_head(order) + directory(tags, 8, order, following) + below + behind


def packed_tiff(samples: np.ndarray, bits: int, order: str) -> bytes:
    """(H, W, C) samples of any number of bits, uncompressed, gray or RGB, in one strip."""
    height, width, channels = samples.shape
    body = b"".join(packed(samples.reshape(height, -1), bits))
    body += bytes(len(body) % 2)
    tags = [
        Tag(256, LONG, (width,)), Tag(257, LONG, (height,)), Tag(258, SHORT, (bits,) * channels), Tag(259, SHORT, (1,)),
        Tag(262, SHORT, (2 if channels == 3 else 1,)), Tag(273, LONG, (8,)), Tag(277, SHORT, (channels,)),
        Tag(278, LONG, (height,)), Tag(279, LONG, (len(body),)),
    ]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    return head + body + directory(tags, 8 + len(body), order)


# ---- JPEG


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments right behind its beginning."""
    out = jpeg[:2]
    for marker, data in segments:
        out += bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    return out + jpeg[2:]


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    return with_segments(jpeg, (0xE1, b"Exif\0\0" + block))
