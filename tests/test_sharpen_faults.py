"""The command `sharpen` where a file, a name or an option is no good: one clear line of it, and the rest goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.images import BAD, picture
from helpers.sharpening import outputs, run, save

from kd_utils import sharpen
from kd_utils.__main__ import main
from kd_utils.imaging import records
from kd_utils.imaging.file_pairs import pair_files


@pytest.mark.parametrize("quiet", [True, False])
def test_a_failure_is_one_line_whatever_the_name(tmp_path, models, capsys, quiet):
    (tmp_path / "in").mkdir()
    for name in (b"in\nner.jpg", b"b\xff.jpg", b"\x1b[31m.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(b"none")
    options = ["--quiet"] if quiet else []
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4], *options]) == 1
    said = capsys.readouterr()
    lines = (said.err if quiet else said.out).strip().splitlines()[0 if quiet else 1 :]
    assert [line.strip().partition(" is no image")[0] for line in lines[:3]] == [
        f"{tmp_path}/in/{name}" for name in (r"\x1b[31m.jpg", r"b\udcff.jpg", r"in\nner.jpg")
    ]


def test_bad_files_are_reported_and_the_rest_goes_on(tmp_path, models, capsys):
    for name, (make, _) in BAD.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(make())
    save(tmp_path / "in" / "good.png", picture())
    assert run(tmp_path / "in", tmp_path / "missing.jpg", tmp_path / "out", model=models[4]) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 sharpened") and f"{len(BAD) + 1} failed" in said
    assert all(name in said for name in [*BAD, "missing.jpg"])
    assert outputs(tmp_path / "out") == ["good.png"]


def test_links_that_lead_nowhere_fail_and_the_rest_goes_on(tmp_path, models, capsys):
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "in" / "circle.png").symlink_to("circle.png")
    (tmp_path / "in" / "gone.png").symlink_to("nothing.png")
    (tmp_path / "in" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "in" / "self").symlink_to(".")
    (tmp_path / "in" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    assert run(tmp_path / "in", tmp_path / "in" / "pipe.png", tmp_path / "out", model=models[4]) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 sharpened") and "4 failed" in said
    for words in ("circle.png cannot be read (Too many levels", "gone.png cannot be read", "zero.png is a pipe",
                  "pipe.png is a pipe"):  # fmt: skip
        assert words in said
    assert outputs(tmp_path / "out") == ["a.png"]


def test_photos_and_outputs_that_go_away_fail_alone(tmp_path, models, capsys, monkeypatch):
    for n in range(5):
        save(tmp_path / "in" / f"{n}.png", picture(8, 8))
    step = sharpen.Pipeline.sharpen

    def meanwhile(self, job):
        if job.source.name == "0.png":
            (tmp_path / "in" / "4.png").unlink()
        if job.source.name == "3.png":
            for name in list(self.record.entries):  # what is done
                (tmp_path / "out" / name).unlink()
        step(self, job)

    monkeypatch.setattr(sharpen.Pipeline, "sharpen", meanwhile)
    assert run(tmp_path / "in", tmp_path / "out", model=models[4]) == 1
    said = capsys.readouterr().out
    assert "4 sharpened" in said and "1 failed" in said and "4.png cannot be read (No such file" in said


def test_options_that_cannot_be_used_are_one_clear_error(tmp_path, models, capsys):
    source = save(tmp_path / "a.png", picture())
    (tmp_path / "text.pth").write_text("no model")
    for options, says in (
        ({"model": tmp_path / "text.pth"}, "text.pth is not a PyTorch checkpoint"),
        ({"model": tmp_path / "none.pth"}, "none.pth is neither a file nor one of photo-s, "),
        ({"model": models[1], "scale": 2}, "is a x1 model"),
        ({"model": models[4], "strength": 1.5}, "choose from 0"),
        ({"model": models[4], "tile": 0}, "at least 1 pixel"),
        ({"model": models[4], "device": "cuda:77"}, "device='cuda:77' cannot be used here"),
    ):
        assert run(source, tmp_path / "out", **options) in (1, 2)
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("inputs", "output", "says", "code"),
    [
        ([""], "out", "'' is no path", 2),
        (["a.png"], "", "'' is no path", 2),
        (["~no-such-user/a.png"], "out", "a user who is not known here", 2),
        (["a\0b.png"], "out", r"'a\x00b.png' is no path", 2),
        (["x" * 300 + ".png"], "out", "would be longer than 255 bytes", 1),
        (["x" * 300 + ".png"], "out.png", "cannot be read (File name too long)", 1),
        (["a.png"], "y" * 300, "cannot be written", 2),
        (["a.png"], "out\0", "is no path", 2),
    ],
)
def test_a_name_that_can_be_none_is_one_line(tmp_path, monkeypatch, models, capsys, inputs, output, says, code):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", picture())
    assert run(*inputs, output, model=models[4]) == code
    out, err = capsys.readouterr()
    assert says in out + err and "Traceback" not in err


def test_a_record_that_cannot_be_written_is_said(tmp_path, models, capsys):
    (tmp_path / "out" / records.NAME).mkdir(parents=True)
    assert run(save(tmp_path / "a.png", picture()), tmp_path / "out", model=models[4]) == 1
    assert f"{records.NAME} cannot be written (Is a directory): choose another folder" in capsys.readouterr().out


# ---- found before the network runs


@pytest.fixture
def unrun(monkeypatch):
    """Photos that went to the network, which none should."""
    seen = []
    monkeypatch.setattr(sharpen.Pipeline, "sharpen", lambda self, job: job.photo and seen.append(job.photo))
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
        assert run(*inputs, tmp_path / out, model=models[4]) == 2
        said = capsys.readouterr().err
        assert says in said and said.startswith("error: ") and said.count("\n") == 1
        assert not (tmp_path / out).exists() and not unrun
    (tmp_path / "album.png").mkdir()  # which is a folder already
    assert [t.name for _, t in pair_files([str(a)], tmp_path / "album.png").jobs] == ["UPPER.JPG"]


def test_what_cannot_be_written_is_found_before_the_network_runs(tmp_path, models, capsys, unrun):
    wide = save(tmp_path / "wide.webp", np.zeros((2, 4096, 3), np.uint8))
    assert run(wide, tmp_path / "out", model=models[4]) == 1
    assert "16384x8 pixels do not fit into .webp" in capsys.readouterr().out and not unrun
    a = save(tmp_path / "a.png", picture())
    for out in (a / "out", a / "out" / "one.png"):  # below a file
        assert run(a, out, model=models[4]) == 2
        said = capsys.readouterr().err
        assert "cannot be written" in said and "Not a directory" in said and said.count("\n") == 1 and not unrun
    (tmp_path / "file").write_text("mine")
    assert run(a, wide, tmp_path / "file", model=models[4]) == 2
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
