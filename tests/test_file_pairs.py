"""The command `sharpen`: which file becomes which, and what is refused before the network runs."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.images import BAD, picture
from helpers.sharpening import outputs, run, save
from PIL import Image

from kd_utils import sharpen
from kd_utils.__main__ import main
from kd_utils.imaging import file_pairs, folders, reading, records
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
        ({"model": tmp_path / "none.pth"}, "none.pth is neither a file nor one of photo-s, "),
        ({"model": models[1], "scale": 2}, "is a x1 model"),
        ({"model": models[4], "strength": 1.5}, "choose from 0"),
        ({"model": models[4], "tile": 0}, "at least 1 pixel"),
        ({"model": models[4], "device": "cuda:77"}, "device='cuda:77' cannot be used here"),
    ):
        assert run(source, tmp_path / "out", **options) in (1, 2)
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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


def test_another_photos_output_stays_where_case_is_ignored(tmp_path, models, capsys):
    """A second name of the same file, as such a file system would give it."""
    upper, lower = save(tmp_path / "1" / "A.png", picture(8, 8)), save(tmp_path / "2" / "a.png", picture(9, 9))
    assert run(upper, tmp_path / "out", model=models[4]) == 0
    os.link(tmp_path / "out" / "A.png", tmp_path / "out" / "a.png")
    before = (tmp_path / "out" / "A.png").read_bytes()
    assert main(["sharpen", str(lower), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 1
    assert "a.png is the output of" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png").read_bytes() == before


def test_a_record_that_cannot_be_written_is_said(tmp_path, models, capsys):
    (tmp_path / "out" / records.NAME).mkdir(parents=True)
    assert run(save(tmp_path / "a.png", picture()), tmp_path / "out", model=models[4]) == 1
    assert f"{records.NAME} cannot be written (Is a directory): choose another folder" in capsys.readouterr().out
