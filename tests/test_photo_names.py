"""Odd names, suffixes, links and folders of photos, through the whole command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.sharpening import small_jpeg
from PIL import Image

from kd_utils.__main__ import main


def found_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


@pytest.mark.parametrize(
    "name",
    [
        "n" * 251 + ".jpg",
        "日" * 83 + ".jpg",
        "ü😀 ß.jpg",
        "-a.jpg",
        "--scale.jpg",
        "a [1]*.jpg",
        "a\nb.jpg",
        "bad\udce9.jpg",
    ],
)
def test_names(tmp_path, models, name):
    small_jpeg(tmp_path / "in" / name)
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert os.listdir(tmp_path / "out")[0] in (name, ".kd_sharpen.jsonl") and (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPEG", ".JPG", ".Jpg"])
def test_every_suffix_of_jpeg(tmp_path, models, suffix):
    small_jpeg(tmp_path / "in" / f"a{suffix}")
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert Image.open(tmp_path / "out" / f"a{suffix}").format == "JPEG"


def test_links_are_followed_once_and_loops_end(tmp_path, models):
    small_jpeg(tmp_path / "real" / "x.jpg")
    small_jpeg(tmp_path / "in" / "y.jpg")
    for name, to in (("shortcut", "real"), ("again", "real"), ("loop", "in")):
        (tmp_path / "in" / name).symlink_to(tmp_path / to)
    (tmp_path / "in" / "same.jpg").symlink_to(tmp_path / "in" / "y.jpg")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    for given in ("in", "root"):
        out = tmp_path / f"out of {given}"
        assert main(["sharpen", str(tmp_path / given), str(out), "--model", models[4]]) == 0
        assert found_below(out) in (["again/x.jpg", "y.jpg"], ["shortcut/x.jpg", "y.jpg"])


def test_a_folder_that_cannot_be_read_counts_as_failed(tmp_path, models, capsys, monkeypatch):
    small_jpeg(tmp_path / "in" / "a.jpg")
    small_jpeg(tmp_path / "in" / "shut" / "b.jpg")
    scandir = os.scandir

    def refusing(path="."):
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 1
    said = capsys.readouterr().out
    assert "1 sharpened" in said and "1 failed" in said and "shut" in said and "Permission denied" in said


def test_what_a_system_keeps_for_itself_is_left_out(tmp_path, models):
    for name in ("a.jpg", ".b.jpg", ".cache/c.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/._a.jpg"):
        small_jpeg(tmp_path / "in" / name)
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert found_below(tmp_path / "out") == ["a.jpg"]
    assert main(["sharpen", str(tmp_path / "in/**/*.jpg"), str(tmp_path / "glob"), "--model", models[4]]) == 0
    assert found_below(tmp_path / "glob") == ["a.jpg"]


def test_a_glob_in_a_folder_with_brackets(tmp_path, models):
    small_jpeg(tmp_path / "trip [2020]" / "day [1]" / "a.jpg")
    small_jpeg(tmp_path / "trip 2" / "day 1" / "b.jpg")
    pattern = tmp_path / "trip [2020]" / "day [1]" / "*.jpg"
    assert main(["sharpen", str(pattern), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert found_below(tmp_path / "out") == ["a.jpg"]
