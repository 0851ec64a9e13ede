"""No photo and no other photo's output is ever replaced, and what is done is made anew only if something changed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.images import picture
from helpers.raw_files import saved, waves
from helpers.sharpening import run, save, small_jpeg

from kd_utils.__main__ import main
from kd_utils.imaging import reading
from kd_utils.models import student


def test_what_is_done_is_skipped_and_overwrite_redoes_it(tmp_path, models, capsys):
    source = save(tmp_path / "in" / "a.png", picture())
    assert run(source, tmp_path / "out", model=models[4]) == 0
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    assert run(source, tmp_path / "out", model=models[4]) == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine" and "1 skipped" in capsys.readouterr().out
    assert main(["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 0
    assert reading.read_rgb(tmp_path / "out" / "a.png").shape[0] == 92
    # an output folder inside the input folder is no input
    assert run(tmp_path / "in", tmp_path / "in" / "out", model=models[4]) == 0
    assert run(tmp_path / "in", tmp_path / "in" / "out", model=models[4]) == 0
    assert run(tmp_path / "in" / "**" / "*.png", tmp_path / "in" / "out", model=models[4]) == 0
    assert len(list((tmp_path / "in").rglob("*.png"))) == 2


def test_another_strength_or_model_is_made_anew(tmp_path, models, capsys):
    a, out = small_jpeg(tmp_path / "a.jpg"), tmp_path / "out"
    torch.manual_seed(9)
    other = str(student.save(student.build("8x2"), tmp_path / "other.pth"))
    said = []
    for model, strength in ((models[4], "1"), (models[4], "0.5"), (other, "0.5")):
        for _ in range(2):
            assert main(["sharpen", str(a), str(out), "--model", model, "--strength", strength]) == 0
            said.append(capsys.readouterr().out.split(" (")[0])
    assert said == ["1 sharpened", "0 sharpened"] * 3


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_two_photos_without_an_output_ask_for_a_folder(tmp_path, models, capsys, options):
    a, b = small_jpeg(tmp_path / "a.jpg"), small_jpeg(tmp_path / "b.jpg")
    before = b.read_bytes()
    assert main(["sharpen", str(a), str(b), "--model", models[4], *options]) == 2
    assert "name a folder" in capsys.readouterr().err and b.read_bytes() == before


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


def test_a_hard_link_to_an_input_is_no_output(tmp_path, models, capsys):
    a = small_jpeg(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    os.link(a, tmp_path / "out" / "a.jpg")
    before = a.read_bytes()
    assert main(["sharpen", str(a), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 1
    assert "is an input itself" in capsys.readouterr().out and a.read_bytes() == before


def test_the_output_of_another_photo_is_never_replaced(tmp_path, models, capsys):
    first, second = small_jpeg(tmp_path / "1" / "a.jpg"), tmp_path / "2" / "a.jpg"
    second.parent.mkdir()
    second.write_bytes(saved(waves(12, 12), "JPEG"))
    assert main(["sharpen", str(first), str(tmp_path / "out"), "--model", models[4]]) == 0
    before = (tmp_path / "out" / "a.jpg").read_bytes()
    for options in ([], ["--overwrite"]):
        assert main(["sharpen", str(second), str(tmp_path / "out"), "--model", models[4], *options]) == 1
        assert "choose another folder" in capsys.readouterr().out
        assert (tmp_path / "out" / "a.jpg").read_bytes() == before


def test_another_photos_output_stays_where_case_is_ignored(tmp_path, models, capsys):
    """A second name of the same file, as such a file system would give it."""
    upper, lower = save(tmp_path / "1" / "A.png", picture(8, 8)), save(tmp_path / "2" / "a.png", picture(9, 9))
    assert run(upper, tmp_path / "out", model=models[4]) == 0
    os.link(tmp_path / "out" / "A.png", tmp_path / "out" / "a.png")
    before = (tmp_path / "out" / "A.png").read_bytes()
    assert main(["sharpen", str(lower), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 1
    assert "a.png is the output of" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png").read_bytes() == before


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
