"""The command `sharpen`: which file becomes which."""

from __future__ import annotations

import os
from pathlib import Path

from helpers.images import picture
from helpers.sharpening import outputs, run, save
from PIL import Image

from kd_utils import sharpen
from kd_utils.imaging import file_pairs, folders, reading
from kd_utils.imaging.file_pairs import pair_files


def test_files_folders_and_globs_keep_their_structure(tmp_path, models, capsys):
    for name in ("in/a.jpg", "in/deep/b.png", "in/deep/er/c.webp"):
        save(tmp_path / name, picture())
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, model=models[4]) == 0
    assert outputs(out) == ["a.jpg", "deep/b.png", "deep/er/c.webp"]
    assert reading.read_rgb(out / "deep" / "b.png").shape == (23 * 4, 37 * 4, 3)
    assert "3 sharpened" in capsys.readouterr().out
    assert run(tmp_path / "in" / "**" / "*.*", tmp_path / "glob", model=models[4]) == 0
    assert outputs(tmp_path / "glob") == outputs(out)
    assert run(tmp_path / "in/a.jpg", tmp_path / "in/deep/b.png", tmp_path / "flat", model=models[4]) == 0
    assert outputs(tmp_path / "flat") == ["a.jpg", "b.png"]
    assert run(tmp_path / "in/a.jpg", tmp_path / "one.png", model=models[4]) == 0  # a file to a file of another kind
    assert Image.open(tmp_path / "one.png").format == "PNG"


def test_earlier_outputs_are_no_photos(tmp_path, models, capsys):
    save(tmp_path / "in" / "a.png", picture())
    save(tmp_path / "in" / "deep" / "b.png", picture())
    assert run(tmp_path / "in", tmp_path / "in" / "deep" / "first", model=models[4]) == 0
    save(tmp_path / "in" / "deep" / "first" / "mine.png", picture())  # a photo that one put beside them
    capsys.readouterr()
    photos = ["a.png", "deep/b.png", "deep/first/mine.png"]
    for source, out in ((tmp_path / "in", "second"), (tmp_path / "in" / "**" / "*.png", "third")):
        assert run(source, tmp_path / out, model=models[4]) == 0
        assert outputs(tmp_path / out) == photos
        assert "2 other files left out (2 earlier outputs)" in capsys.readouterr().out
    assert [str(p.relative_to(tmp_path / "in")) for p in folders.list_images(tmp_path / "in")] == photos, "to train on"
    assert "that sharpen wrote (2)" in capsys.readouterr().out

    # an output folder that is named is meant
    assert run(tmp_path / "in" / "deep" / "first", tmp_path / "again", model=models[4]) == 0
    assert outputs(tmp_path / "again") == ["a.png", "deep/b.png", "mine.png"]


def test_a_globs_outputs_do_not_depend_on_what_else_matches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shots/deep/b.png", "shots/deep/er/c.png", "shots/a.png"):
        save(Path(name), picture())
        for pattern in ("shots/**/*.png", tmp_path / "shots/**/*.png"):
            jobs = dict(pair_files([str(pattern)], Path("out")).jobs)
            assert jobs[Path(pattern).parents[1] / name.removeprefix("shots/")] == Path("out", *Path(name).parts[1:])
    os.chdir("shots")
    assert dict(pair_files(["*.png"], Path("out")).jobs) == {Path("a.png"): Path("out/a.png")}


def test_what_a_shell_makes_of_a_glob_runs_twice(tmp_path, models, capsys):
    for name in "ab":
        save(tmp_path / f"{name}.png", picture())
    for says in ("2 sharpened", "2 skipped"):
        assert run(*sorted(tmp_path.glob("*")), tmp_path / "out", model=models[4]) == 0
        said = capsys.readouterr().out
        assert says in said and "0 failed" in said
    assert outputs(tmp_path / "out") == ["a.png", "b.png"]


def test_what_is_left_out_of_a_folder_is_said(tmp_path, models, capsys):
    for name in ("a.jxl", "deep/b.JXL", "c.jxl", "d.txt", "README", ".hidden", ".cache/e.txt", "out/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    save(tmp_path / "g.png", picture())
    assert run(tmp_path, tmp_path / "out", model=models[4]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 sharpened")
    assert "\n5 other files left out (3 .jxl, 1 without suffix, 1 .txt)\n" in said
    assert f"\nwritten to {tmp_path / 'out'}, computed by PyTorch " in said
    assert "left out" not in str(sharpen.sharpen(tmp_path / "g.png", tmp_path / "out", model=models[4], device="cpu"))


def test_a_png_keeps_its_name_beside_a_gif(tmp_path, models):
    Image.fromarray(picture()).save(tmp_path / "still.gif")
    save(tmp_path / "still.png", picture(8, 8))
    Image.fromarray(picture()).save(tmp_path / "other.gif")
    assert run(tmp_path, tmp_path / "out", model=models[4]) == 0
    sizes = {n: reading.read_rgb(tmp_path / "out" / n).shape[:2] for n in outputs(tmp_path / "out")}
    assert sizes == {"still.png": (32, 32), "still.gif.png": (92, 148), "other.png": (92, 148)}


def test_a_photo_that_is_named_twice_is_sharpened_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", picture())
    pairs = pair_files(["a.png", "./a.png", "*.png"], Path("out"))
    assert pairs.jobs == [(Path("a.png"), Path("out/a.png"))] and not pairs.failed


def test_an_output_folder_above_the_input_folder(tmp_path):
    save(tmp_path / "shots" / "raw" / "a.png", picture())
    pairs = pair_files([str(tmp_path / "shots" / "raw")], tmp_path / "shots")
    assert pairs.jobs == [(tmp_path / "shots" / "raw" / "a.png", tmp_path / "shots" / "a.png")] and not pairs.failed


def test_twins_by_case_are_two_outputs_only_where_case_counts(tmp_path, monkeypatch):
    for name in ("A.PNG", "a.png", "b.gif", "B.png"):
        save(tmp_path / "in" / name, picture(8, 8))
    assert not file_pairs.ignores_case(tmp_path / "new" / "out")
    assert len(pair_files([str(tmp_path / "in")], tmp_path / "out").jobs) == 4
    monkeypatch.setattr(file_pairs, "ignores_case", lambda folder: True)
    pairs = pair_files([str(tmp_path / "in")], tmp_path / "out")
    assert [target.name for _, target in pairs.jobs] == ["A.PNG", "B.png"]
    assert [Path(source).name for source, _ in pairs.failed] == ["a.png", "b.gif"]
