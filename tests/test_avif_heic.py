"""AVIF and HEIC through the reader and the writer: every depth, colours, orientation, EXIF, and damage."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from helpers.pixels import equal, refusal
from helpers.raw_files import (
    ASCII,
    DEEP,
    RATIONAL,
    SHORT,
    UNDEFINED,
    Tag,
    directory,
    exif_block,
    png_chunks,
    saved,
    waves,
    with_exif,
)
from helpers.sharpening import run
from PIL import Image, ImageCms

from kd_utils.common.errors import ImageError
from kd_utils.imaging import folders, heif, reading, writing
from kd_utils.imaging.file_pairs import pair_files

pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic, which [dev] has")


def heic(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[2]] + (";16" if pixels.dtype == np.uint16 else "")
    image = pillow_heif.from_bytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes())
    image.save(buffer, quality=-1, chroma=444, **options)  # lossless, up to the rounding of YCbCr
    return buffer.getvalue()


def test_heic_of_every_kind():
    equal(heic(waves()), waves(), atol=2)
    equal(heic(waves()[..., :1]), waves()[..., :1])
    clear = np.tile(np.arange(40, dtype=np.uint8) * 6, (24, 1))
    equal(heic(np.dstack([waves(), clear])), waves(), clear, atol=2)
    ten_bits = equal(heic(DEEP), DEEP, atol=130)
    assert len(np.unique(ten_bits.pixels)) > 256 and ten_bits.kind == ".heic"


def test_heic_is_turned_once_and_keeps_what_it_says(tmp_path):
    marked = waves()
    marked[:8, :8] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    image = Image.fromarray(marked)
    pillow_heif.from_pillow(image).save(buffer, quality=-1, chroma=444, exif=exif.tobytes(), icc_profile=profile)

    photo = equal(buffer.getvalue(), np.rot90(marked, -1), atol=2)
    assert photo.meta.icc == profile
    writing.save(photo, tmp_path / "a.jpg")
    written = Image.open(tmp_path / "a.jpg")
    assert written.getexif().get(0x0112, 1) == 1 and written.getexif()[0x010F] == "Camera"


def test_a_folder_of_heic_becomes_png(tmp_path, models, capsys):
    for name in ("a.heic", "b.HEIC", "c.png"):
        (tmp_path / name).write_bytes(saved(waves(), "PNG") if name == "c.png" else heic(waves()))
    assert run(tmp_path, tmp_path / "out", model=models[4], strength=0) == 0
    for name in ("a.png", "b.png", "c.png"):
        a = np.asarray(Image.open(tmp_path / "out" / name))
        assert a.shape == (96, 160, 3)
        assert np.abs(a.reshape(24, 4, 40, 4, 3).mean((1, 3)) - waves())[2:-2, 2:-2].max() < 10


def test_heic_without_its_package_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(heif, "can_read_heic", lambda: False)
    assert refusal(heic(waves())).startswith("a file is HEIC, which needs one more package: pip install pillow-heif")

    monkeypatch.setattr(folders, "SUFFIXES", tuple(s for s in folders.SUFFIXES if s not in heif.HEIC_SUFFIXES))
    (tmp_path / "a.heic").write_bytes(heic(waves()))
    (tmp_path / "b.png").write_bytes(saved(waves(), "PNG"))
    pairs = pair_files([str(tmp_path)], tmp_path / "out")
    assert [source.name for source, _ in pairs.jobs] == ["b.png"] and pairs.left_out == {".heic": 1}


@pytest.mark.parametrize("make", [heic, lambda a: saved(a, "AVIF", quality=90)])
def test_a_container_that_is_cut_short_is_refused(make):
    data = make(waves())
    for cut in (1, 40, len(data) // 2, len(data) - 30):
        assert "damaged or cut short" in refusal(data[:-cut])


@pytest.mark.parametrize(
    ("primaries", "transfer", "keeps"), [(1, 13, False), (2, 2, False), (12, 13, True), (9, 16, True), (1, 1, True)]
)
def test_the_colours_of_an_avif_container(tmp_path, primaries, transfer, keeps):
    data = saved(waves(), "AVIF", quality=90)
    at = data.index(b"colrnclx") + 8
    photo = reading.read(data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :])
    writing.save(photo, tmp_path / "a.png")
    chunk = b"cICP", bytes([primaries, transfer, 0, 1])
    assert (chunk in png_chunks((tmp_path / "a.png").read_bytes())) == keeps
    if transfer == 16:  # PQ
        with pytest.raises(ImageError, match="can only be kept in a PNG"):
            writing.save(photo, tmp_path / "a.avif")
        return
    writing.save(photo, tmp_path / "a.avif")
    assert bool(Image.open(tmp_path / "a.avif").info.get("icc_profile")) == keeps


def test_what_an_avif_loses_of_exif_is_said(tmp_path):
    def lost(suffix, maker, *inner):
        exposure = Tag(0x829A, RATIONAL, (1, 250))
        block = exif_block(Tag(0x10F, ASCII, maker), inner=(exposure, *inner))
        photo = reading.read(with_exif(saved(waves(), "JPEG"), block))
        left = writing.save(photo, tmp_path / f"a{suffix}")
        tags = Image.open(tmp_path / f"a{suffix}").getexif().get_ifd(0x8769)
        assert tags[0x829A] == 1 / 250
        return left, [tags.get(tag.number) == tag.values for tag in inner]

    note = Tag(0x927C, UNDEFINED, directory([Tag(1, SHORT, (1, 2, 3)), Tag(6, ASCII, b"EOS 5D\0")], 200, "<"))
    odd = Tag(0xFD01, UNDEFINED, b"unknown")
    canon, other = b"Canon\0", b"Other\0"  # libexif rewrites what it takes for Canon's notes
    assert lost(".avif", other, note) == ([], [True])
    assert lost(".avif", canon, note) == (["the camera maker's own notes in EXIF"], [False])
    assert lost(".avif", other, odd) == (["EXIF tags 0xfd01"], [False])
    assert lost(".webp", canon, note, odd) == ([], [True, True])
