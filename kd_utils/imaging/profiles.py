"""Colour profiles: which can be used, CMYK and Lab into sRGB, and an ICC profile of what a PNG's colour chunks say.

RGB and gray pixels are never converted: networks see the coded values, and the profile goes along.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageCms

from kd_utils.common.errors import ImageError
from kd_utils.imaging.pixels import as_vips, attach

SPACES = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}
# Primaries (x and y of red, green, blue) by their number in ITU-T H.273, all with the white point D65.
PRIMARIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # BT.709, sRGB
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}
D65 = (0.3127, 0.3290)
# Parameters (g, a, b, c, d) of ICC's parametric curve 3 by the transfer's number in H.273.
BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
TRANSFERS = {1: BT709, 6: BT709, 14: BT709, 15: BT709, 13: SRGB, 4: (2.2,), 5: (2.8,), 8: (1.0,)}
# Bradford's cone responses (ICC.1:2010, annex E), from XYZ under one white to D50.
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1.0, 0.8249])


def usable(icc: bytes, channels: int) -> bool:
    """Whether a profile can be read and is of a kind that fits: gray pixels may carry an RGB profile."""
    fitting = (SPACES[channels], b"RGB ") if channels == 1 else (SPACES[channels],)
    if icc[16:20] not in fitting or struct.unpack(">I", icc[:4])[0] > len(icc):
        return False
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return True


def cmyk_to_rgb(inks: np.ndarray, icc: bytes | None) -> np.ndarray:
    """(H, W, 4) of full ink 255 or 65535 -> (H, W, 3) sRGB of the same type.

    Through the profile, relative colorimetric with black point compensation, as image editors do. Without one nobody
    knows the inks: then each ink takes its part of the light, (1 - c) (1 - k), which is also what Pillow does.
    """
    peak = np.iinfo(inks.dtype).max
    if icc:
        image = attach(as_vips(inks).copy(interpretation="cmyk"), "icc-profile-data", icc)
        options = {"embedded": True, "intent": "relative", "black_point_compensation": True}
        return image.icc_transform("srgb", depth=8 * inks.itemsize, **options).numpy()
    light = peak - inks.astype(np.uint32)  # (H, W, 4)
    return ((light[..., :3] * light[..., 3:] + peak // 2) // peak).astype(inks.dtype)


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """A CIELAB picture, as Pillow reads it, in sRGB."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return transform.apply(image)


def from_png_colors(colors: dict[bytes, bytes]) -> bytes | None:
    """An ICC profile that means what a PNG's colour chunks mean, for formats without such chunks.

    None where they mean sRGB, which every reader assumes. Raises ImageError for what ICC curves cannot say (PQ, HLG).
    cICP goes before sRGB, and sRGB before gAMA and cHRM (PNG 3, section 4.3).
    """
    if b"cICP" in colors:
        primaries, transfer, _, full_range = colors[b"cICP"]
        if primaries not in PRIMARIES or transfer not in TRANSFERS or not full_range:
            what = f"primaries {primaries}, transfer {transfer}{'' if full_range else ', narrow range'}"
            raise ImageError(f"colours of cICP {what} can only be kept in a PNG: write a .png")
        if (primaries, transfer) == (1, 13):
            return None
        return _profile(D65, PRIMARIES[primaries], TRANSFERS[transfer])
    if b"sRGB" in colors or b"gAMA" not in colors:
        return None

    gamma = struct.unpack(">I", colors[b"gAMA"])[0] / 100_000
    white, primaries = D65, PRIMARIES[1]
    if b"cHRM" in colors:
        numbers = [n / 100_000 for n in struct.unpack(">8I", colors[b"cHRM"])]
        white, primaries = tuple(numbers[:2]), tuple(numbers[2:])
    return _profile(white, primaries, (1 / gamma,)) if gamma else None


def _profile(white: tuple[float, ...], primaries: tuple[float, ...], curve: tuple[float, ...]) -> bytes:
    """A matrix and curve display profile (ICC.1:2010, section 8.4.3)."""
    to_xyz = np.array([_xyz(x, y) for x, y in zip(primaries[::2], primaries[1::2])]).T  # (3 of XYZ, 3 of RGB)
    source = _xyz(*white)
    to_xyz = to_xyz * np.linalg.solve(to_xyz, source)
    cones = np.diag(BRADFORD @ D50 / (BRADFORD @ source))
    to_d50 = np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ to_xyz

    form = 0 if len(curve) == 1 else 3  # of ICC's parametric curves
    gamma = b"para" + bytes(4) + struct.pack(">HH", form, 0) + _fixed(curve)
    tags = {b"desc": _text("from PNG chunks"), b"cprt": _text("none"), b"wtpt": b"XYZ " + bytes(4) + _fixed(D50)}
    for channel, column in zip("rgb", to_d50.T):
        tags[f"{channel}XYZ".encode()] = b"XYZ " + bytes(4) + _fixed(column)
        tags[f"{channel}TRC".encode()] = gamma

    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(D50)
    return head + bytes(128 - len(head)) + table + body


def _xyz(x: float, y: float) -> np.ndarray:
    """XYZ of a chromaticity, with Y = 1."""
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _text(words: str) -> bytes:
    coded = words.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(coded), 28) + coded


def _fixed(numbers: Iterable[float]) -> bytes:
    """ICC's s15Fixed16 numbers."""
    return b"".join(struct.pack(">i", round(float(n) * 65536)) for n in numbers)
