"""The chunks of a PNG that are not its picture (PNG 3): libvips drops most of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from kd_utils.imaging.metadata import Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8}  # and their bytes
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
XMP_KEYWORD = b"XML:com.adobe.xmp"
LARGEST = 64 << 20  # bytes that one compressed chunk may grow to


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of every whole chunk but the picture's own."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind != b"IDAT":
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_metadata(data: bytes) -> Metadata:
    """What the chunks say."""
    found = Metadata()
    for kind, body in chunks_of(data):
        keyword, _, rest = body.partition(b"\0")
        if kind == b"eXIf":
            found.exif = body
        elif kind == b"iCCP":
            found.icc = _inflate(rest[1:])
        elif kind in COLOR_CHUNKS:
            if _is_sound(kind, body):
                found.colors[kind] = body
            else:
                found.lost.append(f"a damaged {kind.decode()} chunk")
        elif kind == b"pHYs" and len(body) == 9 and body[8] == 1:  # 1: dots a metre
            x, y = struct.unpack(">II", body[:8])
            found.dpi = (x * 0.0254, y * 0.0254) if x and y else None
        elif kind == b"iTXt" and keyword == XMP_KEYWORD:
            found.xmp = _international_text(rest)
        elif kind in TEXT_CHUNKS and keyword.lower() in (b"raw profile type exif", b"raw profile type app1"):
            found.exif = found.exif or _raw_profile(kind, rest)
        elif kind in TEXT_CHUNKS:
            found.texts.append((kind, body))
    if b"iCCP" in dict(chunks_of(data)) and found.icc is None:
        found.lost.append("a damaged ICC profile")
    return found


def _is_sound(kind: bytes, body: bytes) -> bool:
    """Whether a colour chunk has its length, a gamma that a display could have, and colours that are not all alike."""
    if len(body) != COLOR_CHUNKS[kind]:
        return False
    if kind == b"gAMA":
        return 10_000 <= int.from_bytes(body, "big") <= 1_000_000  # a tenth to ten
    if kind == b"cHRM":
        _, white, rx, ry, gx, gy, bx, by = struct.unpack(">8I", body)
        area = (gx - rx) * (by - ry) - (bx - rx) * (gy - ry)
        return min(white, ry, gy, by) > 0 and area != 0
    return True


def _inflate(data: bytes) -> bytes | None:
    """Decompressed data; None where it is damaged, or larger than any profile or text."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, LARGEST)
    except zlib.error:
        return None
    return plain if unpacker.eof else None


def _international_text(rest: bytes) -> bytes | None:
    """The text of an iTXt chunk, behind its keyword."""
    compressed = rest[:1] == b"\1"
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, text = rest.partition(b"\0")
    return _inflate(text) if compressed else text


def _raw_profile(kind: bytes, rest: bytes) -> bytes | None:
    """The EXIF block that older programs store as hexadecimal text: a name, a length, and the digits."""
    text = _inflate(rest[1:]) if kind == b"zTXt" else rest
    lines = (text or b"").strip().split(b"\n", 2)
    try:
        return bytes.fromhex(lines[2].decode("ascii"))
    except (IndexError, ValueError):
        return None


def head(meta: Metadata, gray: bool) -> tuple[bytes, list[str]]:
    """The chunks that stand before a PNG's picture, and what of `meta` has no place in a PNG."""
    chunks, lost = [], []
    icc = meta.icc
    if icc and icc[16:20] != (b"GRAY" if gray else b"RGB "):  # the standard allows no other
        lost.append(f"the ICC profile (a {'gray' if gray else 'colour'} PNG may not carry one of another kind)")
        icc = None
    for kind, body in meta.colors.items():
        if not (icc and kind == b"sRGB"):  # a profile says the same more exactly
            chunks.append(chunk(kind, body))
    if icc:
        chunks.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if meta.exif:
        chunks.append(chunk(b"eXIf", meta.exif))
    dots = [min(round(d / 0.0254), 2**31 - 1) for d in meta.dpi or ()]
    size = struct.pack(">IIB", *dots, 1) if dots else struct.pack(">IIB", 1, 1, 0)  # 0: no unit, square pixels
    chunks.append(chunk(b"pHYs", size))
    if meta.xmp:
        chunks.append(chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + meta.xmp))
    for kind, body in meta.texts:
        chunks.append(chunk(kind, body))
    if meta.comment:
        chunks.append(chunk(b"tEXt", b"Comment\0" + meta.comment.replace(b"\0", b" ")))
    if meta.iptc:
        lost.append("IPTC (a PNG has no place for it)")
    return b"".join(chunks), lost
