"""Inputs that would take the machine: refused at once, or bounded."""

import os
import struct
import time
import zipfile
import zlib

import pytest
from helpers.server import BODY
from tqdm import tqdm

from kd_utils.common import downloads
from kd_utils.common.errors import DataError, ImageError
from kd_utils.data import photos
from kd_utils.imaging import png, reading


def test_a_zip_member_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, z.open("a.png", "w", force_zip64=True) as member:
        for _ in range(200):
            member.write(bytes(1 << 20))
    with pytest.raises(DataError, match=r"a.png of .*photos.zip cannot be read \(it would unpack from .* to 209,7"):
        photos.find_photos(str(path))[0].bytes()


def test_a_png_whose_pixels_are_not_in_it(tmp_path):
    head = struct.pack(">IIBBBBB", 32, 4_522_008, 8, 2, 0, 0, 0)
    data = png.SIGNATURE + png.chunk(b"IHDR", head)
    data += png.chunk(b"IDAT", zlib.compress(bytes(3_000_000))) + png.chunk(b"IEND", b"")
    began = time.monotonic()
    with pytest.raises(ImageError, match="32x4522008 pixels are not in 3,0.. bytes|damaged or cut short"):
        reading.read(data, "long.png")
    assert time.monotonic() - began < 5


def test_a_pipe_is_no_photo(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="a.png is a pipe, a socket or a device"):
        reading.read(tmp_path / "a.png")
    with pytest.raises(DataError, match="holds no photos"):
        photos.find_photos(str(tmp_path))


def test_a_server_that_drips_is_given_up(site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    monkeypatch.setattr(downloads, "SLOWEST", 10**9)
    site.delay = 0.1
    with pytest.raises(downloads.Failed, match="the server sends only [0-9]+ bytes a second"):
        downloads.get(site.url + "/w.pth", tmp_path / "w.part", len(BODY), tqdm(disable=True))
    assert len(site.asked) == 1
