"""EXIF blocks and TIFF directories, which share one structure (TIFF 6.0, section 2; EXIF 2.32, section 4.5).

A directory is a list of tags, each with a type, a count and its values. Cameras write odd types and lost offsets, so
whatever cannot be read is left out and never spoils its neighbours.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

# The struct code of a value's parts, by the number of its type. A rational has two parts.
CODES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d",
         13: "I", 16: "Q", 17: "q", 18: "Q"}  # fmt: skip
BYTE, SHORT, LONG, RATIONAL, UNDEFINED = 1, 3, 4, 5, 7

DESCRIPTION, ORIENTATION = 0x010E, 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
MAKER_NOTE, PIXEL_WIDTH, PIXEL_HEIGHT = 0x927C, 0xA002, 0xA003
EXIF_POINTER, GPS_POINTER, INTEROP_POINTER = 0x8769, 0x8825, 0xA005
POINTERS = (EXIF_POINTER, GPS_POINTER, INTEROP_POINTER)

# Tags of a first directory that describe how pixels are stored, with the blocks that we keep elsewhere (XMP, IPTC,
# Photoshop's, ICC): none of them is true of another file.
STORAGE = {
    0x00FE, 0x00FF, *range(0x0100, 0x0104), 0x0106, *range(0x0107, 0x010B), 0x0111, *range(0x0115, 0x011A), 0x011C,
    *range(0x0120, 0x0126), 0x013D, *range(0x0140, 0x014B), *range(0x0150, 0x0158), 0x015B, *range(0x0200, 0x020A),
    *range(0x0211, 0x0215), 0x02BC, 0x80E3, 0x83BB, 0x8649, 0x8773, ORIENTATION,
}  # fmt: skip
# Tags of a TIFF's first directory that describe the photo: its title, camera, date, author, rights and print size.
DESCRIPTIVE = {
    0x010D, DESCRIPTION, 0x010F, 0x0110, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, 0x0131, 0x0132, 0x013B, 0x013C,
    0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0),
}  # fmt: skip
# Tags in pixels of the old size: the subject's place, the sensor's resolution, the related picture's sides.
IN_PIXELS = {0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210, 0x1001, 0x1002}


class Layout(NamedTuple):
    """The byte order of a file, and whether its counts and offsets have 8 bytes (BigTIFF)."""

    endian: str = "<"
    big: bool = False

    @property
    def number(self) -> str:
        """The struct code of an offset."""
        return self.endian + ("Q" if self.big else "I")

    @property
    def entries(self) -> str:
        """The struct code of the count of entries."""
        return self.endian + ("Q" if self.big else "H")

    @property
    def entry(self) -> str:
        """The struct code of a tag's number, type, count, and value or offset."""
        return self.endian + ("HHQ8s" if self.big else "HHI4s")


class Entry(NamedTuple):
    kind: int
    count: int
    data: bytes  # in the byte order of the directory


@dataclass
class Directory:
    """The tags of one directory, by number, and the directories that its pointers lead to."""

    endian: str = "<"
    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)

    def numbers(self, tag: int) -> tuple[float, ...]:
        """A tag's values; () where the tag is missing. A rational with the denominator 0 is NaN."""
        if tag not in self.entries:
            return ()
        kind, count, data = self.entries[tag]
        values = struct.unpack(f"{self.endian}{CODES[kind] * count}", data)
        if len(CODES[kind]) == 1:
            return values
        pairs = zip(values[::2], values[1::2], strict=True)
        return tuple(a / b if b else math.nan for a, b in pairs)

    def number(self, tag: int, default: int) -> int:
        """A tag's first value as a whole number, of whatever type it is stored; `default` where it is none."""
        values = self.numbers(tag)
        if not values or not math.isfinite(values[0]):
            return default
        return int(values[0])

    def put(self, tag: int, kind: int, *values: int) -> None:
        """Set a tag to whole numbers; a rational is two of them."""
        count = len(values) // len(CODES[kind])
        codes = CODES[kind] * count
        self.entries[tag] = Entry(kind, count, struct.pack(self.endian + codes, *values))

    def to_endian(self, endian: str) -> Directory:
        """The same directory in another byte order. Values of undefined type stay as they are."""
        if endian == self.endian:
            return self
        turned = Directory(endian)
        for tag, (kind, count, data) in self.entries.items():
            codes = CODES[kind] * count
            turned.entries[tag] = Entry(
                kind, count, struct.pack(endian + codes, *struct.unpack(self.endian + codes, data))
            )
        for tag, child in self.children.items():
            turned.children[tag] = child.to_endian(endian)
        return turned


def read_layout(data: bytes) -> tuple[Layout, int]:
    """The layout that a TIFF header states, and the offset of its first directory. Raises ValueError."""
    endian = {b"II": "<", b"MM": ">"}.get(data[:2])
    if endian is None or len(data) < 8:
        raise ValueError("no TIFF header")
    version = struct.unpack(f"{endian}H", data[2:4])[0]
    if version == 42:
        return Layout(endian), struct.unpack(f"{endian}I", data[4:8])[0]
    if version == 43 and len(data) >= 16:
        return Layout(endian, big=True), struct.unpack(f"{endian}Q", data[8:16])[0]
    raise ValueError(f"no TIFF header (version {version})")


def read_directory(data: bytes, at: int, layout: Layout, seen: frozenset[int] = frozenset()) -> tuple[Directory, int]:
    """The directory at an offset, and the offset of the next one (0: none). Raises ValueError where there is none.

    Entries of unknown types, or whose values lie outside of the data, are left out; so are pointers that lead nowhere.
    """
    head, size = struct.calcsize(layout.entries), struct.calcsize(layout.entry)
    if not 0 < at <= len(data) - head or at in seen:
        raise ValueError(f"no directory at byte {at}")
    count = struct.unpack_from(layout.entries, data, at)[0]
    directory = Directory(layout.endian)
    place = at + head
    for _ in range(min(count, (len(data) - place) // size)):
        tag, kind, number, value = struct.unpack_from(layout.entry, data, place)
        place += size
        if kind not in CODES:
            continue

        length = struct.calcsize("=" + CODES[kind]) * number
        if length > len(value):
            offset = struct.unpack(layout.number, value)[0]
            value = data[offset : offset + length]
        if len(value) >= length:
            directory.entries[tag] = Entry(kind, number, value[:length])

    for tag in POINTERS:
        if tag not in directory.entries:
            continue
        offset = directory.number(tag, 0)
        del directory.entries[tag]
        try:
            directory.children[tag] = read_directory(data, offset, layout, seen | {at})[0]
        except ValueError:
            continue

    width = struct.calcsize(layout.number)
    following = struct.unpack_from(layout.number, data, place)[0] if place + width <= len(data) else 0
    return directory, following


def write_directory(directory: Directory, at: int, layout: Layout) -> bytes:
    """A directory, its values and the directories below it, for the offset `at`. No other directory follows it."""
    directory = directory.to_endian(layout.endian)
    tags = sorted({*directory.entries, *directory.children})
    inline = struct.calcsize(layout.number)
    size = struct.calcsize(layout.entries) + struct.calcsize(layout.entry) * len(tags) + inline
    table, values = struct.pack(layout.entries, len(tags)), b""
    for tag in tags:
        place = at + size + len(values)
        if tag in directory.children:
            kind, count, data = LONG, 1, struct.pack(f"{layout.endian}I", place)
            values += write_directory(directory.children[tag], place, layout)
        else:
            kind, count, data = directory.entries[tag]
            if len(data) > inline:
                values += data + bytes(len(data) % 2)
                data = struct.pack(layout.number, place)
        table += struct.pack(layout.entry, tag, kind, count, data)
    return table + bytes(inline) + values


def load_exif(block: bytes) -> Directory | None:
    """The directories of an EXIF block, with or without "Exif" before it; None where there are none.

    The second directory, of a thumbnail, is left out: it shows the picture as it was.
    """
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    try:
        layout, first = read_layout(block)
        return read_directory(block, first, layout)[0]
    except ValueError:
        return None


def dump_exif(directory: Directory) -> bytes:
    """An EXIF block, without "Exif" before it."""
    layout = Layout(directory.endian)
    head = b"II*\0" if directory.endian == "<" else b"MM\0*"
    return head + struct.pack(layout.number, 8) + write_directory(directory, 8, layout)


def clean(directory: Directory, keep: set[int] | None = None) -> None:
    """Take out what is true of the stored picture only: its storage, orientation and thumbnail, in place.

    With `keep`, the first directory keeps those tags alone.
    """
    for tag in list(directory.entries):
        if tag in STORAGE or (keep is not None and tag not in keep):
            del directory.entries[tag]


def set_size(directory: Directory, width: int, height: int) -> None:
    """State the new size where the old one was stated, and take out what counts in pixels of the old size, in place."""
    inner = directory.children.get(EXIF_POINTER)
    if inner is None or (inner.number(PIXEL_WIDTH, 0), inner.number(PIXEL_HEIGHT, 0)) == (width, height):
        return
    stated = PIXEL_WIDTH in inner.entries or PIXEL_HEIGHT in inner.entries
    related = inner.children.get(INTEROP_POINTER, Directory())
    for tag in IN_PIXELS:
        inner.entries.pop(tag, None)
        related.entries.pop(tag, None)
    if stated:
        inner.put(PIXEL_WIDTH, LONG, width)
        inner.put(PIXEL_HEIGHT, LONG, height)


def resolution(directory: Directory) -> tuple[float, float] | None:
    """Dots per inch, across and down; None where the tags state none."""
    x, y = directory.numbers(X_RESOLUTION), directory.numbers(Y_RESOLUTION)
    inches = {2: 1.0, 3: 2.54}.get(directory.number(RESOLUTION_UNIT, 2))
    if not x or not y or not inches or not (x[0] > 0 and y[0] > 0):
        return None
    return x[0] * inches, y[0] * inches


def all_tags(block: bytes) -> dict[int, bytes]:
    """The values of all tags in an EXIF block by number, without pointers and what is in pixels."""
    directories = [load_exif(block) or Directory()]
    for directory in directories:  # grows while it is read
        directories += directory.children.values()
    tags = {tag: entry.data for directory in directories for tag, entry in directory.entries.items()}
    return {tag: data for tag, data in tags.items() if tag not in IN_PIXELS.union(POINTERS)}


def extend_first_directory(file: BinaryIO, added: Directory) -> None:
    """Add tags to the first directory of a TIFF file: the longer one goes to its end, and the header leads there.

    The print size that libvips made up is taken out.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        layout, first = read_layout(data)  # pyright: ignore[reportArgumentType] - as bytes, but not read at once
        directory = read_directory(data, first, layout)[0]  # pyright: ignore[reportArgumentType]
    for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT):
        directory.entries.pop(tag, None)
    added = added.to_endian(layout.endian)
    directory.entries |= added.entries
    directory.children |= added.children

    end = file.seek(0, os.SEEK_END)
    if end % 2:  # a directory begins at an even byte
        file.write(b"\0")
        end += 1
    file.write(write_directory(directory, end, layout))
    file.seek(8 if layout.big else 4)
    file.write(struct.pack(layout.number, end))
