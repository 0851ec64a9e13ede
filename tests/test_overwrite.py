"""No photo and no other photo's output is ever replaced, and what is done is made anew only if something changed."""

from __future__ import annotations

import os

import pytest
from helpers.raw_files import saved, waves
from helpers.sharpening import small_jpeg

from kd_utils.__main__ import main


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_two_photos_without_an_output_ask_for_a_folder(tmp_path, models, capsys, options):
    a, b = small_jpeg(tmp_path / "a.jpg"), small_jpeg(tmp_path / "b.jpg")
    before = b.read_bytes()
    assert main(["sharpen", str(a), str(b), "--model", models[4], *options]) == 2
    assert "name a folder" in capsys.readouterr().err and b.read_bytes() == before


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


def test_a_hard_link_to_an_input_is_no_output(tmp_path, models, capsys):
    a = small_jpeg(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    os.link(a, tmp_path / "out" / "a.jpg")
    before = a.read_bytes()
    assert main(["sharpen", str(a), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 1
    assert "is an input itself" in capsys.readouterr().out and a.read_bytes() == before


def test_another_strength_or_model_is_made_anew(tmp_path, models, capsys):
    a, out = small_jpeg(tmp_path / "a.jpg"), tmp_path / "out"
    said = []
    for options in (["1"], ["1"], ["0.5"], ["0.5"], ["1"]):
        assert main(["sharpen", str(a), str(out), "--model", models[4], "--strength", *options]) == 0
        said.append(capsys.readouterr().out.split(" (")[0])
    assert said == ["1 sharpened", "0 sharpened", "1 sharpened", "0 sharpened", "1 sharpened"]
