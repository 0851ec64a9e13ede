"""Photos of every kind through the whole command, on real files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from helpers.images import SRGB, exif, picture
from helpers.sharpening import outputs, run, save
from PIL import Image

from kd_utils import sharpen
from kd_utils.__main__ import main
from kd_utils.common.errors import CheckpointError
from kd_utils.common.tensors import bicubic
from kd_utils.imaging import colors, reading, writing
from kd_utils.imaging.metadata import Metadata
from kd_utils.imaging.reading import Photo
from kd_utils.models import ncnn_writer, receptive_field, student, tiling
from kd_utils.own_files import ROOT


@pytest.fixture(scope="module")
def tool(models) -> sharpen.Tool:
    return sharpen.load(models[4], 4, "cpu")


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_depth_channels_profile_and_exif_come_along(tmp_path, models, scale):
    tool = sharpen.load(models[scale], scale, "cpu")
    for suffix in (".png", ".tif"):
        for dtype, c in ((np.uint8, 1), (np.uint8, 3), (np.uint16, 3), (np.uint16, 1)):
            photo = Photo(picture(21, 35, c, dtype), None, Metadata(SRGB, exif(6).tobytes()))
            photo = reading.read(writing.encode(photo, suffix))  # turned upright here
            done = reading.read(writing.encode(sharpen.apply(tool, photo), suffix))
            assert done.pixels.shape == (35 * scale, 21 * scale, c) and done.pixels.dtype == dtype
            block = Image.Exif()
            block.load(done.meta.exif)
            assert block.get(0x0112, 1) == 1 and block[271] == "Maker" and block.get_ifd(0x8769)[0xA002] == 21 * scale
            assert done.meta.icc == (SRGB if c == 3 or suffix == ".tif" else None)


def test_alpha_has_no_halo(tool):
    """A white disc on clear black: over white, nothing of the black may show; over black, no bright ring outside."""
    y, x = np.mgrid[:64, :64]
    alpha = np.clip((20 - np.hypot(x - 32, y - 32)) * 128 + 128, 0, 255).astype(np.uint8)
    rgb = np.where(alpha[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, 2)
    plain = sharpen.Tool(
        lambda x: bicubic(x, (256, 256)),
        receptive_field.ReceptiveField(4, 4, 1, 1000),
        4,
        4,
        tool.device,
        Path(),
        "bicubic",
    )
    naive = tiling.to_canvas(plain.net, plain.reach, rgb, tile=100)
    done = sharpen.apply(plain, Photo(rgb, alpha))
    assert reading.composite_over_white(done.pixels, done.alpha).min() >= 254
    assert reading.composite_over_white(naive, done.alpha).min() < 240  # what the fill is for
    assert done.alpha[0, 0] == 0 and done.alpha[128, 128] == 255
    wide = cv2.resize(alpha, (256, 256), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(done.alpha, wide)


def test_hidden_colours_are_filled_and_seen_ones_kept():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 53, 3), np.uint8)
    alpha = np.where(rng.random((37, 53)) > 0.7, 200, 0).astype(np.uint8)
    filled = colors.fill_transparent(pixels, alpha)
    np.testing.assert_array_equal(filled[alpha > 0], pixels[alpha > 0])
    pixels[...] = (10, 200, 30)
    pixels[alpha == 0] = 255
    assert (colors.fill_transparent(pixels, alpha) == (10, 200, 30)).all()
    assert (colors.fill_transparent(pixels, np.zeros_like(alpha)) == pixels).all()  # nothing to go by


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_colours_do_not_drift(tmp_path, models, scale):
    """The random students shift colours by several levels; what comes out keeps each channel's mean within 0.5/255."""
    tool = sharpen.load(models[scale], scale, "cpu")
    worst = 0
    for pixels in (picture(60, 90), picture(61, 47)[::-1], np.full((33, 33, 3), 100, np.uint8)):
        canvas = tiling.to_canvas(tool.step(), tool.reach, pixels)
        worst = max(worst, np.abs(canvas.mean((0, 1)) - pixels.mean((0, 1))).max())
        done = sharpen.apply(tool, Photo(pixels)).pixels
        assert np.abs(done.mean((0, 1)) - pixels.mean((0, 1))).max() < 0.5
    assert worst > 1


def test_tiles_leave_no_seam_in_the_file(models):
    pixels = np.random.default_rng(0).integers(0, 256, (83, 61, 3), np.uint8)
    for scale, model in ((4, 4), (2, 4), (1, 1), (2, 2)):
        tool = sharpen.load(models[model], scale, "cpu")
        whole = sharpen.apply(tool, Photo(pixels), 0.7, tile=1000).pixels
        tiled = sharpen.apply(tool, Photo(pixels), 0.7, tile=20).pixels
        assert whole.shape == (83 * scale, 61 * scale, 3)
        assert np.abs(whole.astype(int) - tiled).max() <= 1 and (whole != tiled).mean() < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("scale", [4, 2, 1])
def test_extreme_sizes(models, size, scale):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    alpha = pixels[..., 0] // 2 * (pixels[..., 1] > 99)
    done = sharpen.apply(sharpen.load(models[scale], scale, "cpu"), Photo(pixels, alpha))
    assert done.pixels.shape == (size[0] * scale, size[1] * scale, 3) and done.alpha.shape == done.pixels.shape[:2]


def test_strength_goes_from_the_resized_input_to_the_full_effect(models):
    pixels = picture(40, 50)
    for scale in (4, 1):
        tool = sharpen.load(models[scale], scale, "cpu")
        none, half, full = (sharpen.apply(tool, Photo(pixels), s).pixels.astype(float) for s in (0, 0.5, 1))
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        plain = bicubic(x, (40 * scale, 50 * scale))[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
        assert np.abs(none - plain).max() <= 2.5  # rounding, and bicubic's own small drift
        weight = 0.5**sharpen.EVEN
        assert np.abs(half - (none + weight * (full - none))).max() <= 4 and np.abs(full - none).max() > 10


def test_onnxruntime_gives_the_same_picture(models):
    photo = Photo(picture(45, 38))
    for scale in (4, 1):
        one, two = (
            sharpen.apply(sharpen.load(models[scale], scale, "cpu", e), photo).pixels for e in ("torch", "onnx")
        )
        assert np.abs(one.astype(int) - two).max() <= 1
    with pytest.raises(sharpen.SharpenError, match="runs on the CPU"):
        sharpen.load(models[4], 4, "meta", "onnx")


def test_other_real_esrgan_models_work(tmp_path):
    """A checkpoint that is no student goes through spandrel."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.save({"params_ema": RRDBNet(num_filters=8, num_blocks=1).state_dict()}, tmp_path / "rrdb.pth")
    done = sharpen.apply(sharpen.load(tmp_path / "rrdb.pth", 2, "cpu"), Photo(picture()))
    assert done.pixels.shape == (46, 74, 3)


def test_a_checkpoint_that_is_no_such_model_is_an_error(shared):
    with pytest.raises(CheckpointError):
        sharpen.load(shared / "weights" / "vgg19_features_to_conv3_4.pth", 4, "cpu")


def test_a_home_folder_is_one_in_outputs_too(tmp_path, models, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = save(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))
    assert run(source, "~/out", model=models[4]) == 0 and (tmp_path / "out" / "in.png").is_file()
    assert main(["export", models[4], "~/s.onnx"]) == 0 and (tmp_path / "s.onnx").is_file()


def test_animated_and_cmyk_and_palette_in_one_folder(tmp_path, models, capsys):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "in.jpg")
    Image.fromarray(picture()).quantize(32).save(tmp_path / "in.gif")
    assert run(tmp_path / "in.jpg", tmp_path / "in.gif", tmp_path / "out", model=models[4]) == 0
    assert outputs(tmp_path / "out") == ["in.jpg", "in.png"]
    assert Image.open(io.BytesIO((tmp_path / "out" / "in.jpg").read_bytes())).mode == "RGB"


def test_the_student_that_ships_needs_no_options(tmp_path):
    source = save(tmp_path / "a.png", picture(16, 16))
    done = sharpen.sharpen(source, tmp_path / "out", device="cpu")
    assert len(done.written) == 1 and reading.read_rgb(done.written[0]).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("model", "scale", "file"),
    [
        ("", 4, "x4_photo_m"),
        ("anime-s", 4, "x4_anime_s"),
        ("l", 2, "x4_photo_l"),
        ("s", 2, "x2_photo_s"),
        ("", 1, "x1_photo_s"),
    ],
)
def test_the_students_that_ship_go_by_their_names(model, scale, file):
    tool = sharpen.load(model, scale, "cpu")
    assert (tool.path.stem, tool.scale) == (f"student_{file}", scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_bigtiff_is_sharpened_as_any_other(tmp_path, models, dtype):
    pixels = picture(16, 24, dtype=dtype)
    tifffile.imwrite(tmp_path / "big.tif", pixels, bigtiff=True, photometric="rgb", description="words", metadata=None)
    for name in ("out.tif", "out.png"):
        assert run(tmp_path / "big.tif", tmp_path / name, model=models[4]) == 0
        done = reading.read(tmp_path / name)
        assert done.pixels.shape == (64, 96, 3) and done.pixels.dtype == dtype
        block = Image.Exif()
        block.load(done.meta.exif)
        assert block[270] == "words"


def test_a_failed_file_whose_name_is_no_text_is_named(tmp_path, models):
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "in") + b"/bad\xe9.jpg")).write_bytes(b"no photo")
    command = [sys.executable, "-m", "kd_utils", "sharpen", tmp_path / "in", tmp_path / "out", "--model", models[4]]
    env = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # as an ordinary UTF-8 terminal is
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[1])
    assert done.returncode == 1 and "1 failed" in done.stdout and "bad\\udce9.jpg" in done.stdout, done.stderr


# ---- models


def test_a_model_of_any_file_and_prefix_gives_the_same_picture(tmp_path, models):
    """The shipped kinds of files: .pth with or without a prefix, .safetensors, and ncnn's .param."""
    net = student.load(models[4])
    state = net.state_dict()
    torch.save(dict(state), tmp_path / "plain.pth")
    torch.save({"params_ema": dict(state)}, tmp_path / "ema.pth")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "prefix.pth")
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    ncnn_writer.write_ncnn(net, tmp_path / "net.param")
    photo = Photo(picture())
    want = sharpen.apply(sharpen.load(models[4], 4, "cpu"), photo).pixels.astype(int)
    for name in ("plain.pth", "ema.pth", "prefix.pth", "net.safetensors", "net.param"):
        got = sharpen.apply(sharpen.load(tmp_path / name, 4, "cpu"), photo).pixels
        assert np.abs(got - want).max() <= (3 if name == "net.param" else 0), (
            name
        )  # ncnn's weights are rounded to halves


def test_a_model_that_cannot_be_used_is_refused_by_its_reason(tmp_path, models, capsys):
    source = save(tmp_path / "a.png", picture())
    state = student.load(models[4]).state_dict()
    torch.save(dict(state) | {"body.0.bias": torch.full((8,), float("nan"))}, tmp_path / "nan.pth")
    torch.save({"params": dict(state), "made by": Path("x")}, tmp_path / "more.pth")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "page.param").write_text("<html>")
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.save(RRDBNet(num_filters=8, num_blocks=1, scale=2).state_dict(), tmp_path / "x2.pth")
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, says in (
        ("nan.pth", "holds NaN or infinity (body.0.bias)"),
        ("more.pth", "holds more than weights (pathlib"),
        ("text.safetensors", "no safetensors file"),
        ("page.param", "no ncnn .param file"),
        ("x2.pth", "is a x2 model, it cannot give --scale 4"),
        ("other.pth", "not a network that can be recognised"),
    ):
        assert run(source, tmp_path / "out", model=tmp_path / name) == 2, name
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1 and len(said) < 300 + len(str(tmp_path)), said


# ---- words


def test_json_has_a_record_for_every_file(tmp_path, models, capsys):
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    command = ["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4], "--json"]
    assert main(command) == 1
    said = capsys.readouterr()
    a, b = sorted((json.loads(line) for line in said.out.splitlines()), key=lambda record: record["input"])
    assert a["output"] == str(tmp_path / "out" / "a.png") and a["state"] == "written" and a["not_kept"] == []
    assert a["model"] == "x4" and a["megapixels"] == pytest.approx(23 * 37 * 16 / 1e6) and a["seconds"] > 0
    assert b["state"] == "failed" and "no image" in b["why"] and "1 sharpened" in said.err
    assert main(command) == 1 and json.loads(capsys.readouterr().out.splitlines()[0])["state"] == "skipped"


def test_quiet_says_only_what_failed(tmp_path, models, capsys):
    save(tmp_path / "in" / "a.png", picture())
    command = ["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4], "--quiet"]
    assert main(command) == 0
    assert capsys.readouterr() == ("", "")
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "b.png" in said.err


def test_standard_input_and_output(tmp_path, models):
    source = save(tmp_path / "a.png", picture())
    command = [sys.executable, "-m", "kd_utils", "sharpen", "--model", models[4], "--quiet"]
    ran = subprocess.run([*command, "-", "-"], input=source.read_bytes(), capture_output=True, cwd=ROOT)
    assert ran.returncode == 0 and Image.open(io.BytesIO(ran.stdout)).size == (37 * 4, 23 * 4), ran.stderr
    ran = subprocess.run([*command, "-", tmp_path / "b.jpg"], input=source.read_bytes(), capture_output=True, cwd=ROOT)
    assert ran.returncode == 0 and Image.open(tmp_path / "b.jpg").format == "JPEG", ran.stderr
    ran = subprocess.run([*command, "-", tmp_path], input=source.read_bytes(), capture_output=True, cwd=ROOT)
    assert ran.returncode == 2 and b"- is one photo" in ran.stderr
