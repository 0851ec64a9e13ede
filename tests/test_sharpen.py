"""Photos of every kind through the whole command, on real files."""

from __future__ import annotations

import functools
import io
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_images import BAD, SRGB, exif, picture

from kd_utils import colour, encode, images, sharpen, student, tiles
from kd_utils.__main__ import main
from kd_utils.images import Photo
from kd_utils.tensors import CheckpointError


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, str]:
    """Small random students of each scale, which do more than their residual and drift in colour."""
    folder = tmp_path_factory.mktemp("models")
    for scale in (4, 2, 1):
        torch.manual_seed(scale)
        net = student.Student(8, 2, scale)
        with torch.no_grad():
            last = getattr(net, net.trunk)[-1]
            last.weight.mul_(2.5)
            last.bias += torch.linspace(-0.03, 0.03, 48)  # up to 8 levels
        student.save(net, folder / f"x{scale}.pth")
    return {scale: str(folder / f"x{scale}.pth") for scale in (4, 2, 1)}


@pytest.fixture(scope="module")
def tool(models) -> sharpen.Tool:
    return sharpen.load(models[4], 4, "cpu")


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def run(*args, **options) -> int:
    return main(["sharpen", *map(str, args), *[a for k, v in options.items() for a in (f"--{k}", str(v))]])


# ---- the command


def test_files_folders_and_globs_keep_their_structure(tmp_path, models, capsys):
    for name in ("in/a.jpg", "in/deep/b.png", "in/deep/er/c.webp"):
        save(tmp_path / name, picture())
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, model=models[4]) == 0
    found = {p.relative_to(out).as_posix() for p in out.rglob("*.*")}
    assert found == {"a.jpg", "deep/b.png", "deep/er/c.webp"}
    assert images.read_rgb(out / "deep" / "b.png").shape == (23 * 4, 37 * 4, 3)
    assert "3 sharpened" in capsys.readouterr().out
    assert run(tmp_path / "in" / "**" / "*.*", tmp_path / "glob", model=models[4]) == 0
    assert {p.relative_to(tmp_path / "glob").as_posix() for p in (tmp_path / "glob").rglob("*.*")} == found
    assert run(tmp_path / "in/a.jpg", tmp_path / "in/deep/b.png", tmp_path / "flat", model=models[4]) == 0
    assert sorted(p.name for p in (tmp_path / "flat").iterdir()) == ["a.jpg", "b.png"]
    assert run(tmp_path / "in/a.jpg", tmp_path / "one.png", model=models[4]) == 0  # a file to a file of another kind
    assert Image.open(tmp_path / "one.png").format == "PNG"


def test_what_is_done_is_skipped_and_overwrite_redoes_it(tmp_path, models, capsys):
    source = save(tmp_path / "in" / "a.png", picture())
    assert run(source, tmp_path / "out", model=models[4]) == 0
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    assert run(source, tmp_path / "out", model=models[4]) == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine" and "1 skipped" in capsys.readouterr().out
    assert main(["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 0
    assert images.read_rgb(tmp_path / "out" / "a.png").shape[0] == 92
    # an output folder inside the input folder is no input
    assert run(tmp_path / "in", tmp_path / "in" / "out", model=models[4]) == 0
    assert run(tmp_path / "in", tmp_path / "in" / "out", model=models[4]) == 0
    assert run(tmp_path / "in" / "**" / "*.png", tmp_path / "in" / "out", model=models[4]) == 0
    assert len(list((tmp_path / "in").rglob("*.png"))) == 2


def test_bad_files_are_reported_and_the_rest_goes_on(tmp_path, models, capsys):
    for name, (make, _) in BAD.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(make())
    save(tmp_path / "in" / "good.png", picture())
    assert run(tmp_path / "in", tmp_path / "missing.jpg", tmp_path / "out", model=models[4]) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 sharpened") and f"{len(BAD) + 1} failed" in said
    assert all(name in said for name in [*BAD, "missing.jpg"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.png"]


def test_an_output_onto_an_input_or_onto_another_output_is_refused(tmp_path, models, capsys):
    a = save(tmp_path / "a.png", picture())
    before = a.read_bytes()
    assert run(tmp_path, tmp_path, model=models[4], overlap=0) == 1
    assert main(["sharpen", str(a), str(a), "--model", models[4], "--overwrite"]) == 1
    os.symlink(a, tmp_path / "link.png")
    assert main(["sharpen", str(a), str(tmp_path / "link.png"), "--model", models[4], "--overwrite"]) == 1
    assert "is an input itself: choose another output" in capsys.readouterr().out
    assert a.read_bytes() == before
    save(tmp_path / "b" / "a.png", picture())
    assert run(a, tmp_path / "b" / "a.png", tmp_path / "out", model=models[4]) == 1
    assert "is the output of" in capsys.readouterr().out and (tmp_path / "out" / "a.png").exists()


@pytest.fixture
def unrun(monkeypatch):
    """Photos that went to the network, which none should."""
    seen = []
    monkeypatch.setattr(sharpen, "apply", lambda tool, photo, *a: seen.append(photo))
    return seen


def test_an_output_named_as_a_file_is_never_made_a_folder(tmp_path, models, capsys, unrun):
    a, b = save(tmp_path / "in" / "UPPER.JPG", picture()), save(tmp_path / "in" / "b.png", picture())
    one = tmp_path / "one"
    save(one / "a.png", picture())
    for inputs, out, says in (
        ([a], "out7.heic", "'.heic' files are not written: choose .png"),
        ([a], "out.GIF", "'.gif' files are not written: choose .png"),
        ([a], "out.jp2", "'.jp2' files are not written: choose .png"),
        ([a, b], "two.png", "two.png would be one file: name a folder for several photos"),
        ([tmp_path / "in"], "new.png", "name a folder for several photos"),
        ([one], "new.png", "name a folder for several photos"),
        ([tmp_path / "in" / "*"], "new.avif", "name a folder for several photos"),
    ):
        assert run(*inputs, tmp_path / out, model=models[4]) == 1
        said = capsys.readouterr().err
        assert says in said and said.startswith("error: ") and said.count("\n") == 1
        assert not (tmp_path / out).exists() and not unrun
    (tmp_path / "album.png").mkdir()  # which is a folder already
    assert [t.name for _, t in sharpen.plan([str(a)], tmp_path / "album.png", [], Counter())] == ["UPPER.JPG"]


def test_a_globs_outputs_do_not_depend_on_what_else_matches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shots/deep/b.png", "shots/deep/er/c.png", "shots/a.png"):
        save(Path(name), picture())
        for pattern in ("shots/**/*.png", tmp_path / "shots/**/*.png"):
            jobs = dict(sharpen.plan([str(pattern)], Path("out"), [], Counter()))
            assert jobs[Path(pattern).parents[1] / name.removeprefix("shots/")] == Path("out", *Path(name).parts[1:])
    os.chdir("shots")
    assert dict(sharpen.plan(["*.png"], Path("out"), [], Counter())) == {Path("a.png"): Path("out/a.png")}


def test_what_a_shell_makes_of_a_glob_runs_twice(tmp_path, models, capsys):
    for name in "ab":
        save(tmp_path / f"{name}.png", picture())
    for says in ("2 sharpened", "2 skipped"):
        assert run(*sorted(tmp_path.glob("*")), tmp_path / "out", model=models[4]) == 0
        said = capsys.readouterr().out
        assert says in said and "0 failed" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_what_is_left_out_of_a_folder_is_said(tmp_path, models, capsys):
    for name in ("a.heic", "deep/b.HEIC", "c.heic", "d.txt", "README", ".hidden", ".cache/e.txt", "out/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    save(tmp_path / "g.png", picture())
    assert run(tmp_path, tmp_path / "out", model=models[4]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 sharpened")
    assert said.endswith("\n5 other files left out (3 .heic, 1 without suffix, 1 .txt)\n")
    assert "left out" not in str(sharpen.sharpen(tmp_path / "g.png", tmp_path / "out", model=models[4], device="cpu"))


def test_a_png_keeps_its_name_beside_a_gif(tmp_path, models):
    Image.fromarray(picture()).save(tmp_path / "still.gif")
    save(tmp_path / "still.png", picture(8, 8))
    Image.fromarray(picture()).save(tmp_path / "other.gif")
    assert run(tmp_path, tmp_path / "out", model=models[4]) == 0
    sizes = {p.name: images.read_rgb(p).shape[:2] for p in (tmp_path / "out").iterdir()}
    assert sizes == {"still.png": (32, 32), "still.gif.png": (92, 148), "other.png": (92, 148)}


def test_what_cannot_be_written_is_found_before_the_network_runs(tmp_path, models, capsys, unrun):
    wide = save(tmp_path / "wide.webp", np.zeros((2, 4096, 3), np.uint8))
    assert run(wide, tmp_path / "out", model=models[4]) == 1
    assert "16384x8 pixels do not fit into .webp" in capsys.readouterr().out and not unrun
    a = save(tmp_path / "a.png", picture())
    for out in (a / "out", a / "out" / "one.png"):  # below a file
        assert run(a, out, model=models[4]) == 1
        said = capsys.readouterr().err
        assert "cannot be written" in said and "Not a directory" in said and said.count("\n") == 1 and not unrun
    (tmp_path / "file").write_text("mine")
    assert run(a, wide, tmp_path / "file", model=models[4]) == 1
    assert "file cannot be written" in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission_is_one_line_before_the_network_runs(tmp_path):
    save(tmp_path / "a.png", picture())
    (tmp_path / "shut").mkdir(mode=0o555)
    code = (  # root may write everything: become nobody first
        "import os, sys; from kd_utils import sharpen; from PIL import Image; Image.init()\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "sharpen.load = lambda *a: sys.exit('the network is loaded')\n"
        "try: sharpen.sharpen('a.png', sys.argv[2])\n"
        "except sharpen.SharpenError as e: print(e)"
    )
    tmp_path.chmod(0o755)
    for out in ("shut", "shut/new"):
        ran = subprocess.run([sys.executable, "-c", code, tmp_path, out], capture_output=True, text=True)
        assert "shut" in ran.stdout and "Permission denied" in ran.stdout and not ran.stderr, ran
    assert not list((tmp_path / "shut").iterdir())


def test_the_progress_bar_counts_every_photo_once(tmp_path, models, capsys, monkeypatch):
    monkeypatch.setattr(sharpen, "tqdm", functools.partial(sharpen.tqdm, mininterval=0))
    for i in range(6):
        save(tmp_path / "in" / f"{i}.png", picture())
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    assert run(tmp_path / "in" / "0.png", tmp_path / "out", model=models[4], tile=8) == 0
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", model=models[4], tile=8) == 1  # one skipped, one failed
    counts = [(int(n), int(total)) for n, total in re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err)]
    assert counts[-1] == (7, 7) and {total for _, total in counts} == {7}
    shown = [n for n, _ in counts]
    assert shown == sorted(shown) and len(shown) > 20  # tiles are shown in between
    assert shown.count(7) <= 2  # none of them before the last photo is done


def test_a_full_disk_leaves_the_old_output_whole(tmp_path, models):
    source = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"old")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from kd_utils.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    args = ["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--overwrite"]
    ran = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert ran.returncode == 1 and "a.png cannot be written" in ran.stdout and "Traceback" not in ran.stderr
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "out").iterdir()] == [("a.png", b"old")]


def test_options_that_cannot_be_used_are_one_clear_error(tmp_path, models, capsys):
    source = save(tmp_path / "a.png", picture())
    (tmp_path / "text.pth").write_text("no model")
    for options, says in (
        ({"model": tmp_path / "text.pth"}, "text.pth is not a PyTorch checkpoint"),
        ({"model": tmp_path / "none.pth"}, "none.pth cannot be read"),
        ({"model": models[1], "scale": 2}, "is a x1 model"),
        ({"model": models[4], "strength": 1.5}, "choose from 0"),
        ({"model": models[4], "tile": 0}, "at least 1 pixel"),
        ({"model": models[4], "device": "cuda:77"}, "device='cuda:77' cannot be used here"),
    ):
        assert run(source, tmp_path / "out", **options) in (1, 2)
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- faithful


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_depth_channels_profile_and_exif_come_along(tmp_path, models, scale):
    tool = sharpen.load(models[scale], scale, "cpu")
    for suffix in (".png", ".tif"):
        for dtype, c in ((np.uint8, 1), (np.uint8, 3), (np.uint16, 3), (np.uint16, 1)):
            photo = Photo(picture(21, 35, c, dtype), None, SRGB, exif(6).tobytes())
            photo = images.read(b"".join(encode.encode(photo, suffix)))  # turned upright here
            done = images.read(b"".join(encode.encode(sharpen.apply(tool, photo), suffix)))
            assert done.pixels.shape == (35 * scale, 21 * scale, c) and done.pixels.dtype == dtype
            block = Image.Exif()
            block.load(done.exif)
            assert block.get(0x0112, 1) == 1 and block[271] == "Maker" and block.get_ifd(0x8769)[0xA002] == 21 * scale
            assert done.icc == (SRGB if c == 3 or suffix == ".tif" else None)


def test_alpha_has_no_halo(tool):
    """A white disc on clear black: over white, nothing of the black may show; over black, no bright ring outside."""
    y, x = np.mgrid[:64, :64]
    alpha = np.clip((20 - np.hypot(x - 32, y - 32)) * 128 + 128, 0, 255).astype(np.uint8)
    rgb = np.where(alpha[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, 2)
    plain = sharpen.Tool(
        lambda x: sharpen.bicubic(x, (256, 256)), tiles.Reach(4, 4, 1, 1000), 4, 4, tool.device, Path()
    )
    naive = tiles.to_canvas(plain.net, plain.reach, rgb, tile=100)
    done = sharpen.apply(plain, Photo(rgb, alpha))
    assert images.over_white(done.pixels, done.alpha).min() >= 254
    assert images.over_white(naive, done.alpha).min() < 240  # what the fill is for
    assert done.alpha[0, 0] == 0 and done.alpha[128, 128] == 255
    wide = cv2.resize(alpha, (256, 256), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(done.alpha, wide)


def test_hidden_colours_are_filled_and_seen_ones_kept():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 53, 3), np.uint8)
    alpha = np.where(rng.random((37, 53)) > 0.7, 200, 0).astype(np.uint8)
    filled = colour.fill_clear(pixels, alpha)
    np.testing.assert_array_equal(filled[alpha > 0], pixels[alpha > 0])
    pixels[...] = (10, 200, 30)
    pixels[alpha == 0] = 255
    assert (colour.fill_clear(pixels, alpha) == (10, 200, 30)).all()
    assert (colour.fill_clear(pixels, np.zeros_like(alpha)) == pixels).all()  # nothing to go by


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_colours_do_not_drift(tmp_path, models, scale):
    """The random students shift colours by several levels; what comes out keeps each channel's mean within 0.5/255."""
    tool = sharpen.load(models[scale], scale, "cpu")
    worst = 0
    for pixels in (picture(60, 90), picture(61, 47)[::-1], np.full((33, 33, 3), 100, np.uint8)):
        canvas = tiles.to_canvas(tool.step(), tool.reach, pixels)
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
        plain = sharpen.bicubic(x, (40 * scale, 50 * scale))[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
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


def test_other_real_esrgan_models_work(shared, tmp_path):
    """A checkpoint that is no student goes through spandrel; one that is nothing is an error."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.save({"params_ema": RRDBNet(num_filters=8, num_blocks=1).state_dict()}, tmp_path / "rrdb.pth")
    done = sharpen.apply(sharpen.load(tmp_path / "rrdb.pth", 2, "cpu"), Photo(picture()))
    assert done.pixels.shape == (46, 74, 3)
    with pytest.raises(CheckpointError):
        sharpen.load(shared / "weights" / "vgg19_features_to_conv3_4.pth", 4, "cpu")


def test_animated_and_cmyk_and_palette_in_one_folder(tmp_path, models, capsys):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "in.jpg")
    Image.fromarray(picture()).quantize(32).save(tmp_path / "in.gif")
    assert run(tmp_path / "in.jpg", tmp_path / "in.gif", tmp_path / "out", model=models[4]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["in.jpg", "in.png"]
    assert Image.open(io.BytesIO((tmp_path / "out" / "in.jpg").read_bytes())).mode == "RGB"


def test_the_student_that_ships_needs_no_options(tmp_path):
    source = save(tmp_path / "a.png", picture(16, 16))
    done = sharpen.sharpen(source, tmp_path / "out", device="cpu")
    assert len(done.written) == 1 and images.read_rgb(done.written[0]).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("model", "scale", "file"), [("", 4, "x4_m"), ("s", 4, "x4_s"), ("l", 2, "x4_l"), ("", 1, "x1_s")]
)
def test_the_students_that_ship_go_by_their_size(model, scale, file):
    tool = sharpen.load(model, scale, "cpu")
    assert (tool.path.stem, tool.scale) == (f"student_{file}", scale)
