"""Image files in, held against Pillow and OpenCV on real bytes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.images import BAD, exif, file, picture, written
from PIL import Image, ImageOps

from kd_utils.imaging import folders, reading
from kd_utils.imaging.reading import ImageError

# ---- reading


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_and_the_rest_of_exif_kept(kind, orientation):
    data = file(Image.fromarray(picture()), kind, exif=exif(orientation))
    photo = reading.read(data)
    np.testing.assert_array_equal(photo.pixels, ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    again = reading.read(written(photo, ".png"))
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    block = Image.Exif()
    block.load(again.meta.exif)
    assert block.get(0x0112, 1) == 1 and block[271] == "Maker"
    if kind != "TIFF":  # Pillow writes no inner directory into TIFF; ours is tested below
        assert block.get_ifd(0x8769)[0x9003].startswith("2020")


def test_palette_bilevel_and_gray_with_alpha():
    rgba = np.dstack([picture(), picture(c=1)])
    rgba[..., 3] = np.where(rgba[..., 3] > 128, 255, 0)
    palette = Image.fromarray(rgba).quantize(16)
    photo = reading.read(file(palette, "PNG"))
    np.testing.assert_array_equal(np.dstack([photo.pixels, photo.alpha]), palette.convert("RGBA"))
    opaque = Image.fromarray(picture()).quantize(16)
    np.testing.assert_array_equal(reading.read(file(opaque, "GIF")).pixels, opaque.convert("RGB"))
    bilevel = Image.fromarray(picture(c=1)[..., 0]).convert("1")
    assert set(np.unique(reading.read(file(bilevel, "PNG")).pixels)) == {0, 255}
    mixed = Image.merge("LA", [Image.fromarray(picture(c=1)[..., 0]), Image.fromarray(rgba[..., 3])])
    gray = reading.read(file(mixed, "PNG"))
    np.testing.assert_array_equal(np.dstack([gray.pixels, gray.alpha]), mixed)
    key = file(Image.fromarray(picture()), "PNG", transparency=tuple(int(v) for v in picture()[0, 0]))
    assert reading.read(key).alpha[0, 0] == 0  # tRNS on RGB
    deep = picture(c=1, dtype=np.uint16)
    read = reading.read(file(Image.fromarray(deep[..., 0]), "PNG", transparency=int(deep[0, 0, 0])))
    np.testing.assert_array_equal(read.pixels, deep)  # and on 16-bit gray
    np.testing.assert_array_equal(read.alpha == 0, (deep == deep[0, 0])[..., 0])


def cmyk_profile() -> bytes:
    """A small ICC profile (lut8, two points an axis) of odd inks: full cyan is Lab (60, 60, 40)."""
    corners = np.zeros((2, 2, 2, 2, 3), np.uint8)
    corners[...] = (40, 128, 128)  # mixed inks are dark
    corners[0, 0, 0, 0] = (255, 128, 128)  # white paper
    corners[1, 0, 0, 0] = (153, 188, 168)
    corners[..., 1, :] = (0, 128, 128)  # full black
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *[65536 if i % 4 == 0 else 0 for i in range(9)])
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners.tobytes() + ramp * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white, b"A2B0": lut}
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body


def test_cmyk_is_converted_through_its_own_profile():
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    plain = reading.read(file(inks, "TIFF"))
    assert plain.pixels[8, 8].tolist() == [0, 255, 255]  # without a profile: Pillow's formula
    odd = reading.read(file(inks, "JPEG", icc_profile=cmyk_profile(), quality=100))
    assert odd.meta.icc is None and odd.pixels.shape == (16, 16, 3)
    lab = cv2.cvtColor(odd.pixels[8:9, 8:9].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0, 0]
    np.testing.assert_allclose(lab, (60, 60, 40), atol=3)  # what the profile says of full cyan


def test_mpo_of_a_phone_is_read_as_its_main_picture():
    data = file(Image.fromarray(picture()), "MPO", save_all=True, append_images=[Image.fromarray(picture(8, 8))])
    assert reading.read(data).pixels.shape == (23, 37, 3)


def test_list_images_is_sorted_and_leaves_out_what_is_hidden(tmp_path):
    for name in ("b.PNG", "a/z.jpg", "a/._z.jpg", ".cache/x.png", "a.txt", "c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [p.relative_to(tmp_path).as_posix() for p in folders.list_images(tmp_path)] == ["a/z.jpg", "b.PNG", "c.webp"]
    with pytest.raises(ImageError, match="not a folder"):
        folders.list_images(tmp_path / "none")


def test_read_rgb_lays_alpha_over_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    assert reading.read_rgb(file(Image.fromarray(rgba), "PNG"))[0, :, 0].tolist() == [255, 127, 0]


# ---- bad input: each is one ImageError that names the file


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_error(tmp_path, name):
    make, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(ImageError, match=says) as e:
        reading.read(path)
    assert str(path) in str(e.value) and ": " in str(e.value)  # the file, and the remedy behind the colon


def test_missing_folder_and_no_permission(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        reading.read(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        reading.read(tmp_path)
    with tempfile.TemporaryDirectory() as open_to_all:
        os.chmod(open_to_all, 0o755)
        path = Path(open_to_all, "secret.png")
        path.write_bytes(file(Image.fromarray(picture()), "PNG"))
        path.chmod(0)
        code = (  # root may read everything: become nobody first
            "import os, sys; from kd_utils.imaging import reading\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "try: reading.read(sys.argv[1])\n"
            "except reading.ImageError as e: print(e)"
        )
        run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "secret.png cannot be read (Permission denied)" in run.stdout


def test_comments_in_a_pnm_header_cost_no_time():
    assert reading._peak(b"P5\n" + b"# a # b\n" * 9 + b"4 4 # " + b" #" * 400 + b"\n65535\n") == 65535
    assert reading._peak(b"P5\n" + b" #" * 400 + b" no end") == 0
