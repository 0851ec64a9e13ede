"""Transparent colours, colour chunks, CMYK and profiles of image files, through the whole command."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from helpers.images import SRGB, tiff
from helpers.pixels import near
from helpers.raw_files import GRAY, PALETTE, RGB, halves_png, png_chunks, rgb_png, saved, waves
from PIL import Image, ImageCms

from kd_utils.__main__ import main

# ---- transparent colours of PNG


def halves(bits: int, color: int) -> tuple[bytes, int]:
    """A PNG whose left half has the colour that tRNS calls clear, and the number of its channels."""
    top = 2**bits - 1
    if color == GRAY:
        key = (top + 1) // 2 if bits > 1 else 0
        return halves_png(bits, color, (key,), (top,), (b"tRNS", struct.pack(">H", key))), 1
    if color == RGB:
        key = (top // 8, top // 4, top // 2)
        return halves_png(bits, color, key, (top, top, top), (b"tRNS", struct.pack(">3H", *key))), 3
    palette = bytes([255, 0, 0, 0, 128, 255])
    return halves_png(bits, color, (0,), (1,), (b"PLTE", palette), (b"tRNS", b"\0\xff")), 3


@pytest.mark.parametrize(
    ("bits", "color"),
    [*[(bits, GRAY) for bits in (1, 2, 4, 8, 16)], (8, RGB), (16, RGB), *[(bits, PALETTE) for bits in (1, 2, 4, 8)]],
)
def test_transparent_colours_of_png(enlarge, bits, color):
    data, channels = halves(bits, color)
    a = cv2.imread(str(enlarge(data, "a.png")), cv2.IMREAD_UNCHANGED)
    assert a.shape[:2] == (96, 128) and a.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert a.shape[2] == 4 and (a[:, :56, 3] == 0).all() and (a[:, 72:, 3] == np.iinfo(a.dtype).max).all()


# ---- colour chunks of PNG

P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
COLORS = {
    "gamma 1": [(b"gAMA", struct.pack(">I", 100000))],
    "gamma 1/1.8": [(b"gAMA", struct.pack(">I", 55556))],
    "gamma and primaries": [(b"gAMA", struct.pack(">I", 55556)), (b"cHRM", P3)],
    "cICP of P3": [(b"cICP", bytes([12, 13, 0, 1]))],
    "cICP of PQ": [(b"cICP", bytes([9, 16, 0, 1]))],
    "sRGB": [(b"sRGB", b"\1")],
}


@pytest.mark.parametrize("name", COLORS)
def test_colour_chunks_stay_in_a_png(enlarge, name):
    found = png_chunks(enlarge(rgb_png(*COLORS[name]), "a.png").read_bytes())
    for chunk in COLORS[name]:
        assert chunk in found


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp"])
def test_colour_chunks_become_a_profile_elsewhere(enlarge, suffix):
    """Linear light 64 of 255 is 137 in sRGB, whatever the file."""
    gray = np.full((24, 40, 3), 64, np.uint8)
    out = Image.open(enlarge(rgb_png(*COLORS["gamma 1"], pixels=gray), "a.png", f"a{suffix}"))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(out.info["icc_profile"]))
    seen = ImageCms.profileToProfile(out.convert("RGB"), profile, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(seen)[40, 40].astype(int) - 137).max() <= 2


def test_colours_that_only_a_png_can_say_are_refused_elsewhere(tmp_path, models, capsys):
    (tmp_path / "a.png").write_bytes(rgb_png(*COLORS["cICP of PQ"]))
    assert main(["sharpen", str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "--model", models[4]]) == 1
    assert "write a .png" in capsys.readouterr().out and not (tmp_path / "b.jpg").exists()


# ---- CMYK, and profiles that cannot be used

BAD_PROFILES = {"rubbish": b"not a profile" * 20, "cut": SRGB[:200], "empty": b"", "none": None}


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("icc", [*BAD_PROFILES, "of RGB"])
def test_cmyk(enlarge, suffix, icc):
    profile = SRGB if icc == "of RGB" else BAD_PROFILES[icc]
    inks = np.asarray(Image.fromarray(waves()).convert("CMYK"))
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(
        buffer,
        "JPEG" if suffix == ".jpg" else "TIFF",
        icc_profile=profile,
        **({"quality": 97} if suffix == ".jpg" else {}),
    )
    out = enlarge(buffer.getvalue(), f"a{suffix}")
    near(out, waves(), 14)
    assert Image.open(out).mode == "RGB" and not Image.open(out).info.get("icc_profile")


def test_cmyk_jpeg_with_and_without_adobes_marker(enlarge):
    inks = np.zeros((24, 40, 4), np.uint8)
    inks[:, :20, 0] = 255  # cyan, and white
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(buffer, "JPEG", quality=98)
    data = buffer.getvalue()
    at = data.index(b"Adobe") - 4
    bare = data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
    cyan = np.asarray(Image.open(enlarge(data, "a.jpg")))
    assert cyan[48, 20].tolist() == pytest.approx((0, 255, 255), abs=4) and cyan[48, 140].min() > 250
    with Image.open(io.BytesIO(bare)) as seen:
        want = np.asarray(seen.convert("RGB"))[12, [5, 35]]
    np.testing.assert_allclose(np.asarray(Image.open(enlarge(bare, "b.jpg")))[48, [20, 140]], want, atol=4)


def test_cmyk_with_alpha(enlarge):
    inks = np.asarray(Image.fromarray(waves()).convert("CMYK"))
    a = np.dstack([inks, np.full((24, 40), 200, np.uint8)])
    out = tifffile.imread(enlarge(tiff(a, photometric="separated", extrasamples=["unassalpha"]), "a.tif"))
    assert out.shape == (96, 160, 4) and (out[..., 3] == 200).all()


def test_cmyk_of_16_bits(enlarge):
    inks = np.asarray(Image.fromarray(waves()).convert("CMYK")).astype(np.uint16) * 257
    out = tifffile.imread(enlarge(tiff(inks, photometric="separated"), "a.tif"))
    means = out.reshape(24, 4, 40, 4, 3).mean((1, 3)) / 257
    assert out.dtype == np.uint16 and np.abs(means - waves())[2:-2, 2:-2].max() < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("icc", ["rubbish", "cut"])
def test_a_profile_that_cannot_be_used_is_dropped_and_said(tmp_path, models, capsys, kind, icc):
    source = tmp_path / f"a.{kind.lower()}"
    source.write_bytes(saved(waves(), kind, icc_profile=BAD_PROFILES[icc]))
    assert main(["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--strength", "0"]) == 0
    assert "not kept: an ICC profile" in capsys.readouterr().out
    assert not Image.open(tmp_path / "out" / source.name).info.get("icc_profile")


def test_a_gray_png_with_a_bad_profile(enlarge):
    near(enlarge(saved(waves()[..., 0], "PNG", icc_profile=b"x" * 10), "a.png"), waves()[..., :1])
