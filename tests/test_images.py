"""Image files in, held against Pillow and OpenCV on real bytes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from kd_utils.imaging import reading, writing
from kd_utils.imaging.reading import ImageError, Photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(h: int = 23, w: int = 37, c: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Smooth, so that lossy formats keep it: (h, w, c)."""
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    waves = [np.sin(5 * x + i) * np.cos(4 * y - i) * 0.4 + 0.5 for i in range(c)]
    return np.rint(np.stack(waves, 2) * np.iinfo(dtype).max).astype(dtype)


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[0x0112], block[271] = orientation, "Maker"
    block.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    block.get_ifd(0x8769)[0xA002] = 37
    return block


def file(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def written(photo: Photo, suffix: str) -> bytes:
    return b"".join(writing.encode(photo, suffix))


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
    block.load(again.exif)
    assert block.get(0x0112, 1) == 1 and block[271] == "Maker"
    if kind != "TIFF":  # Pillow writes no inner directory into TIFF; ours is tested below
        assert block.get_ifd(0x8769)[0x9003].startswith("2020")


def tiff(a: np.ndarray, planar: bool = False, **options) -> bytes:
    """(H, W, C), as tifffile writes it."""
    buffer, how = io.BytesIO(), "separate" if planar else "contig"
    options = {"photometric": "rgb"} | options
    tifffile.imwrite(buffer, np.moveaxis(a, 2, 0) if planar else a, planarconfig=how, **options)
    return buffer.getvalue()


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
    assert odd.icc is None and odd.pixels.shape == (16, 16, 3)
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
    assert [p.relative_to(tmp_path).as_posix() for p in reading.list_images(tmp_path)] == ["a/z.jpg", "b.PNG", "c.webp"]
    with pytest.raises(ImageError, match="not a folder"):
        reading.list_images(tmp_path / "none")


def test_read_rgb_lays_alpha_over_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    assert reading.read_rgb(file(Image.fromarray(rgba), "PNG"))[0, :, 0].tolist() == [255, 127, 0]


# ---- bad input: each is one ImageError that names the file


def bomb() -> bytes:
    """A PNG header of 30000x30000 and no data behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 1 << 20) + b"IDAT"


def tiff_bomb() -> bytes:
    """A TIFF directory of 30000x30000 floats and nothing behind it."""
    tags = [(256, 4, 1, 30000), (257, 4, 1, 30000), (258, 3, 1, 32), (277, 3, 1, 3), (339, 3, 1, 3), (273, 4, 1, 8)]
    entries = b"".join(struct.pack("<HHII", *t) for t in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def floats(value: float) -> bytes:
    a = np.full((5, 5, 3), 0.5, np.float32)
    a[2, 2] = value
    return cv2.imencode(".tif", a)[1].tobytes()


def frames(kind: str) -> bytes:
    pages = [Image.fromarray(np.roll(picture(), 5 * i, axis=0)) for i in range(3)]
    return file(pages[0], kind, save_all=True, append_images=pages[1:])


def widthless(data: bytes) -> bytes:
    """A TIFF whose directory lacks tag 256: its number is changed to one that nobody knows."""
    return data.replace(struct.pack("<HH", 256, 4), struct.pack("<HH", 60000, 4), 1)


BAD = {
    "text.png": (lambda: b"hello, this is text\n" * 20, "no image"),
    "page.jpg": (lambda: b"<!DOCTYPE html><html></html>", "no image"),
    "empty.jpg": (lambda: b"", "empty"),
    "cut.jpg": (lambda: file(Image.fromarray(picture(200, 200)), "JPEG")[:1500], "cut short"),
    "cut.png": (lambda: file(Image.fromarray(picture(200, 200)), "PNG")[:-2000], "cut short"),
    "cut16.png": (lambda: cv2.imencode(".png", picture(200, 200, dtype=np.uint16))[1].tobytes()[:-9000], "damaged"),
    "cut16.tif": (lambda: cv2.imencode(".tif", picture(200, 200, dtype=np.uint16))[1].tobytes()[:-9000], "damaged"),
    "cut.webp": (lambda: file(Image.fromarray(picture(200, 200)), "WEBP")[:-300], "damaged"),
    "head.jpg": (lambda: file(Image.fromarray(picture()), "JPEG")[:12], "no image|damaged"),
    "bomb.png": (bomb, "179 megapixels"),
    "bomb.tif": (tiff_bomb, "30000x30000"),
    "cmyk16.tif": (lambda: tiff(picture(c=4, dtype=np.uint16), photometric="separated"), "neither gray nor RGB"),
    "lab16.tif": (lambda: tiff(picture(dtype=np.uint16), photometric="cielab"), "neither gray nor RGB"),
    "planes.tif": (lambda: tiff(picture(dtype=np.uint16), True)[:-900], "separate planes"),
    "nan.tif": (lambda: floats(np.nan), "NaN or infinity at 1 pixels"),
    "inf.tif": (lambda: floats(np.inf), "NaN or infinity"),
    "hdr.tif": (lambda: floats(12.0), r"scale them to \[0, 1\]"),
    "tagless.tif": (lambda: widthless(file(Image.fromarray(picture()), "TIFF")), "damaged"),
    "pgm16.png": (lambda: cv2.imencode(".pgm", picture(c=1, dtype=np.uint16))[1].tobytes(), "16-bit PNG or TIFF"),
    "ppm16.png": (lambda: cv2.imencode(".ppm", picture(dtype=np.uint16))[1].tobytes(), "16-bit PNG or TIFF"),
    "jp2.png": (lambda: file(Image.fromarray(picture(c=1, dtype=np.uint16)[..., 0]), "JPEG2000"), "more than 8 bits"),
    "moving.gif": (lambda: frames("GIF"), "animation of 3 pictures"),
    "pages.tif": (lambda: frames("TIFF"), "a file of 3 pictures"),
    "moving.webp": (lambda: frames("WEBP"), "animation of 3 pictures"),
}


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
