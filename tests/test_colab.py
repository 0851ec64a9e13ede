"""Colab: Drive, uploads, paths, what is installed; google.colab alone is a stand-in, it exists there only."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import types
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.notebooks import NOTEBOOKS, read
from helpers.training import config

from kd_utils import colab, doctor, forecast, train, uploads
from kd_utils.common import files, packages
from kd_utils.common.errors import ConfigError, UsageError
from kd_utils.config import PRESETS, REPO_SLUG, ROOT
from kd_utils.models import shipped, student
from kd_utils.training import drive
from kd_utils.training.validation import TRAINING_FILES


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A stand-in for google.colab, which exists on Colab only; its drive has a MyDrive once it is mounted."""
    module = types.ModuleType("google.colab")
    module.mounted = []

    def mount(place):
        module.mounted.append(place)
        Path(place, "MyDrive").mkdir(parents=True)

    def flush_and_unmount():
        shutil.rmtree(Path(module.mounted[-1], "MyDrive"))
        module.flushed = True

    module.drive = types.SimpleNamespace(mount=mount, flush_and_unmount=flush_and_unmount)
    module.files = types.SimpleNamespace(upload=lambda: {"a.png": b"abc"})
    if "google" not in sys.modules:
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(sys.modules["google"], "colab", module, raising=False)
    monkeypatch.setattr(colab, "MOUNT", tmp_path / "drive")
    return module


def test_drive_is_opt_in_and_loud_when_off(google, capsys):
    assert colab.mount_drive(False) is None and not google.mounted
    assert "NOT PERSISTED" in capsys.readouterr().out
    folder = colab.mount_drive(True, "/content/somewhere/run1")
    assert folder == colab.MOUNT / "MyDrive" / "ImageSharpening-KD" / "run1" and folder.is_dir()
    assert colab.mount_drive(True, "run1") == folder and len(google.mounted) == 1, "mounted once"


def test_a_drive_that_cannot_be_mounted_is_one_clear_error(google):
    def refuse(place):
        raise ValueError("mount failed")

    google.drive.mount = refuse
    with pytest.raises(colab.ColabError, match=r"could not be mounted \(mount failed\).*untick `drive`"):
        colab.mount_drive(True)
    google.drive.mount = lambda place: None
    with pytest.raises(colab.ColabError, match="MyDrive did not appear"):
        colab.mount_drive(True)


def test_the_end_offers_to_finish_the_upload(google, tmp_path, capsys, monkeypatch):
    kept = colab.mount_drive(True, "run1")
    monkeypatch.setattr(drive, "COLAB", colab.MOUNT)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    colab.offer_flush(None)
    assert not shown
    colab.offer_flush(kept)
    button = shown[0]
    assert "press the button" in capsys.readouterr().out and not hasattr(google, "flushed")
    button.click()
    assert google.flushed and "Google Drive has everything" in capsys.readouterr().out
    # nothing is written to where Drive was
    here = tmp_path / "w"
    drive.Drive(here, kept).copy(files.write_bytes(here / "student_model.pth", b"student"))
    assert "NOT KEPT" in (said := capsys.readouterr().out) and "not mounted" in said and not kept.exists()
    assert colab.mount_drive(True, "run1") == kept and len(google.mounted) == 2

    def fail():
        raise ValueError("timed out")

    google.drive.flush_and_unmount = fail
    with pytest.raises(colab.ColabError, match="did not take everything .timed out.: press again"):
        colab.flush_drive()


def test_off_colab_there_is_no_drive(capsys):
    assert colab.mount_drive(False) is None and capsys.readouterr().out == ""
    assert colab.mount_drive(True) is None and "drive=/some/folder" in capsys.readouterr().out


def test_students_kept_on_drive_come_back(ran, tmp_path, capsys):
    drive = tmp_path / "drive"
    (drive / "train" / "no_teacher").mkdir(parents=True)
    (drive / "train" / "student").mkdir()
    curves = [Path("train", run, name) for run in ("student", "no_teacher") for name in TRAINING_FILES]
    students = [Path("student_model.pth"), Path("train", "no_teacher", "student_model.pth")]
    for name in [*students, *curves]:
        shutil.copy(ran.workdir / name, drive / name)
    cfg = colab.configure("quick", "train.lr=3e-4", str(tmp_path / "w"), drive, steps=0, teacher="", size="m")
    assert (cfg.train.steps, cfg.teacher, cfg.student.size) == (PRESETS["quick"]["train.steps"], "anime_6B", "m")
    for name in [*students, *curves]:
        assert cfg.path(name).read_bytes() == (ran.workdir / name).read_bytes()
    assert "student m x4" in capsys.readouterr().out


def test_paths_are_those_of_the_folder_that_the_notebook_was_opened_in(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(colab, "absolute", partial(colab.absolute, base=tmp_path))
    cfg = colab.configure("quick", "", str(tmp_path / "w"), photos="mine", teacher="general_x4v3")
    assert (cfg.data.photos, cfg.teacher) == (str(tmp_path / "mine"), "general_x4v3")
    said = capsys.readouterr().out
    assert "photos" in said and "steps" not in said, "only what the form sets"


def test_sharpening_takes_your_own_student_where_it_serves(tmp_path, capsys):
    cfg = colab.configure("quick", "", str(tmp_path))
    assert colab.pick_student(cfg) == ("", 4) and colab.pick_student(cfg, 1) == ("", 1)
    own = str(student.save(student.Student(8, 2, 4), cfg.path("student_model.pth")))
    assert [colab.pick_student(cfg, s) for s in (0, 4, 2)] == [(own, 4), (own, 4), (own, 2)]
    assert colab.pick_student(cfg, 1) == ("", 1) and "is of scale 4" in capsys.readouterr().out
    student.save(student.Student(8, 2, 1), cfg.path("student_model.pth"))
    assert colab.pick_student(cfg) == (own, 1) and colab.pick_student(cfg, 4) == ("", 4)


def test_uploads_of_colab_and_of_both_ipywidgets(google, monkeypatch):
    assert uploads.uploaded(uploads.upload()) == {"a.png": b"abc"}
    seven = types.SimpleNamespace(value={"b.png": {"metadata": {"name": "b.png"}, "content": b"b"}})
    eight = types.SimpleNamespace(value=({"name": "c.png", "size": 1, "content": memoryview(b"c")},))
    assert uploads.uploaded(seven) == {"b.png": b"b"} and uploads.uploaded(eight) == {"c.png": b"c"}
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.delattr(sys.modules["google"], "colab")
    widget = uploads.upload()
    assert type(widget).__name__ == "FileUpload" and widget.multiple and uploads.uploaded(widget) == {}


def test_what_an_upload_did_is_said(tmp_path, capsys):
    cfg = colab.configure("quick", "", str(tmp_path))
    (sample,) = uploads.chosen_photos(cfg, "", None)
    assert sample.name == "chelsea.png" and "Sharpens the sample" in capsys.readouterr().out
    mine = tmp_path / "mine.png"
    mine.touch()
    for photo, instead in (("", sample), (str(mine), mine)):
        assert uploads.chosen_photos(cfg, photo, uploads.upload()) == [instead], "Run all came past an empty widget"
        said = capsys.readouterr().out
        assert "NOTHING UPLOADED YET" in said and "run this cell and those below it again" in said
    assert uploads.chosen_photos(cfg, "", {}) == [sample], "Colab's dialog was cancelled"
    assert "NOTHING UPLOADED YET" in capsys.readouterr().out
    (sent,) = uploads.chosen_photos(cfg, str(mine), {"../a.png": b"abc"})
    assert sent == cfg.path("uploads", "a.png") and sent.read_bytes() == b"abc"


def test_an_upload_that_fails_is_one_sentence(google):
    def refuse():
        raise TypeError("'NoneType' object is not subscriptable")

    google.files.upload = refuse
    with pytest.raises(colab.ColabError, match="the upload did not work .*: run this cell again"):
        uploads.upload()


def test_the_download_button(google, monkeypatch, tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(b"A")
    b.write_bytes(b"B")
    sent = []
    google.files.download = sent.append
    uploads.download_button([a]).children[0].click()
    uploads.download_button([a, b]).children[0].click()
    assert sent == [str(a), str(tmp_path / "sharpened.zip")]
    assert zipfile.ZipFile(sent[1]).namelist() == ["a.png", "b.png"]
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.delattr(sys.modules["google"], "colab")
    box = uploads.download_button([a])
    assert box.children[1].value == "", "the file is in the page only when it is asked for"
    box.children[0].click()
    assert '<a download="a.png" href="data:image/png;base64,QQ==">' in box.children[1].value


def test_a_model_of_ones_choice(tmp_path):
    cfg = colab.configure("quick", "", str(tmp_path))
    assert colab.pick_student(cfg, 0, "anime-m") == (str(shipped.find_student("anime-m")), 4)
    assert colab.pick_student(cfg, 1, "s") == (str(shipped.find_student("s", 1)), 1)
    with pytest.raises(ConfigError, match="neither a file nor one of photo-s, .*did you mean 'anime-m'"):
        colab.pick_student(cfg, 0, "animem")
    own = student.save(student.Student(8, 2, 4), cfg.path("student_model.pth"))
    alone = student.save(student.Student(8, 2, 4), cfg.path("train", "no_teacher", "student_model.pth"))
    models = colab.models_to_compare(cfg, own, 4)
    assert list(models)[:3] == ["bicubic", "yours", "baseline"] and models["baseline"] == str(alone)
    assert list(models)[3:] == shipped.shipped_names()
    assert list(colab.models_to_compare(cfg, shipped.find_student("m"), 4))[:3] == ["bicubic", "photo-m", "yours"]
    assert list(colab.models_to_compare(cfg, shipped.find_student("s", 1), 1)) == ["bicubic", "photo-s"]


def test_what_is_missing_by_requirements_and_markers():
    here = packages.missing_on_colab(doctor.requirements())
    assert not [r for r in here if r.name in packages.KEPT]
    asked = 'numpy>=99  # kept as it is\nabsent-package>=2\nother-absent; python_version < "3"\npytest>=999\n\n# text\n'
    found = packages.missing_on_colab(packages.parse_requirements(asked))
    assert [str(r) for r in found] == ["absent-package>=2", "pytest>=999"]


def test_setting_up_without_torch_is_one_clear_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(colab.ColabError, match="torch is not installed in this Python"):
        colab.setup()


def test_what_is_downloaded_and_how_long_is_said_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    form = {"photos": "", "teacher": "", "size": "", "steps": 0}
    colab.configure("colab", "", str(tmp_path), **form)
    said = capsys.readouterr().out
    assert "Downloads 4.6 GB first (div2k_train, div2k_valid, anime_6B, vgg19)" in said
    assert re.search(r"NO GPU: On this CPU the training takes about \d+ (hours|days)\.", said) and "T4 GPU" in said
    assert "GB on Google Drive" not in said

    colab.configure("quick", "", str(tmp_path), **form)
    colab.configure("colab", "", str(tmp_path))  # notebook 05 trains nothing and needs no GPU
    said = capsys.readouterr().out
    assert "Downloads" not in said and "NO GPU" not in said and "hours" not in said


def test_what_drive_will_hold_is_said_before(tmp_path, capsys):
    colab.configure("colab", "", str(tmp_path), tmp_path / "drive", True, photos="")
    assert "Crops and labels will take about 1.8 GB on Google Drive" in capsys.readouterr().out
    colab.configure("colab", "", str(tmp_path), None, True, photos="")
    assert "drive_data keeps nothing without `drive`" in capsys.readouterr().out


def test_the_forecast_of_a_training_is_near_what_it_takes(labelled, tmp_path):
    cfg = config(labelled, tmp_path, "student.size=m train.steps=12 train.batch=8 train.baseline=no loss.perceptual=0")
    before = torch.random.get_rng_state()
    said = forecast.training_seconds(cfg)
    assert torch.equal(before, torch.random.get_rng_state()), "what is timed changes no training"
    began = time.perf_counter()
    train.train(cfg)
    assert said / 8 < time.perf_counter() - began < 30 * said + 20


def test_papermill_cannot_set_what_the_form_does_not_have():
    form = '# @title Settings\npreset: str = "quick"\nsteps: int = 0\n'
    colab.refuse_unknown_parameters(["", form, "import os\nmine = 3", "!pip list"])
    colab.refuse_unknown_parameters(["", form, "# Parameters\nsteps = 30\n"])
    with pytest.raises(UsageError, match="unknown key 'step': did you mean 'steps'"):
        colab.refuse_unknown_parameters(["", form, "# Parameters\nstep = 30\n"])


@pytest.fixture(scope="module")
def pip(tmp_path_factory):
    """A new environment with pip that sees all that is installed here, and a folder of three small wheels."""
    if not importlib.util.find_spec("ensurepip"):
        pytest.skip("LEFT OUT: this Python has no ensurepip, so the installation on Colab is not tested")
    base = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", str(base / "venv")], check=True)
    (site,) = (base / "venv").glob("lib/python*/site-packages")
    import numpy

    (site / "here.pth").write_text(str(Path(numpy.__file__).parents[1]))
    for name, version, needs in (("kdtiny", "1.0", "numpy"), ("kdgreedy", "1.0", "numpy>=99"), ("numpy", "99.0", "")):
        with zipfile.ZipFile(base / f"{name}-{version}-py3-none-any.whl", "w") as z:
            meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + f"Requires-Dist: {needs}\n" * bool(
                needs
            )
            info = f"{name}-{version}.dist-info"
            z.writestr(f"{name}_marker.py", "")
            z.writestr(f"{info}/METADATA", meta)
            z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            z.writestr(f"{info}/RECORD", "")
    return base


def test_installing_never_replaces_what_colab_has(pip, monkeypatch, capfd):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(pip))
    python = str(pip / "venv" / "bin" / "python")
    packages.install(packages.parse_requirements("kdtiny"), python)
    with pytest.raises(colab.ColabError, match="pip could not install kdgreedy"):
        packages.install(packages.parse_requirements("kdgreedy"), python)
    packages.install(packages.parse_requirements("basicsr>=1.4.2"), python)
    assert "left out basicsr>=1.4.2" in capfd.readouterr().out, "what is optional does not stop the notebook"
    names = {p.name for p in (pip / "venv").rglob("*_marker.py")}
    assert names == {"kdtiny_marker.py"}


# ---- the cell that finds the project, as a bare Python runs it


SHOW = "\nimport os, kd_utils\nprint('found', colab.in_colab(), os.getcwd(), kd_utils.__file__)\n"


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A repository that stands for the one on GitHub, and a Python on Colab that has all packages but ours."""
    origin = tmp_path / "origin"
    for folder in ("kd_utils", "notebooks"):
        shutil.copytree(ROOT / folder, origin / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (origin / "requirements.txt").write_text("numpy\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{origin}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"https://github.com/{REPO_SLUG}.git")

    fake = tmp_path / "fake" / "google" / "colab"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(fake.parents[1]))
    return origin


def bootstrap(folder, *more):
    """Run the cell in `folder`, and then more lines."""
    folder.mkdir(exist_ok=True)
    cell = read(NOTEBOOKS[0])[1][1]["source"]
    script = "\n".join([cell, SHOW, *more])
    # without the hooks of an editable installation, so that the project is where the test puts it
    command = [sys.executable, "-c", "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in "
               "str(f)]\nsys.path[:] = [p for p in sys.path if p != " + repr(str(ROOT)) + "]\n" + script]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_bootstrap_is_the_same_in_every_notebook():
    cells = {read(path)[1][1]["source"] for path in NOTEBOOKS}
    assert len(cells) == 1


@pytest.mark.slow
def test_the_bootstrap_clones_where_there_is_no_clone(origin, tmp_path):
    cell = read(NOTEBOOKS[0])[1][1]["source"]
    again = ["os.chdir('..')", cell, SHOW]  # a new session on a machine that has the clone
    got = bootstrap(tmp_path / "empty", *again)
    clone = (tmp_path / "empty" / REPO_SLUG.split("/")[1]).resolve()
    assert got.returncode == 0, got.stderr
    assert got.stdout.count(f"found True {clone} {clone / 'kd_utils' / '__init__.py'}") == 2, got.stdout
    assert not clone.with_name(f"{clone.name}.part").exists()


@pytest.mark.slow
def test_a_clone_that_was_cut_short_heals(origin, tmp_path):
    clone = tmp_path / "here" / REPO_SLUG.split("/")[1]
    (clone / ".git").mkdir(parents=True)
    (clone / "kd_utils").mkdir()  # the folder alone is no package
    Path(f"{clone}.part", "rest").mkdir(parents=True)
    got = bootstrap(tmp_path / "here")
    assert got.returncode == 0 and str(clone / "kd_utils" / "__init__.py") in got.stdout, got.stderr


@pytest.mark.slow
def test_a_folder_of_the_same_name_is_not_touched(origin, tmp_path):
    mine = tmp_path / "here" / REPO_SLUG.split("/")[1] / "photo.jpg"
    mine.parent.mkdir(parents=True)
    mine.touch()
    got = bootstrap(tmp_path / "here")
    assert got.returncode == 1 and mine.exists() and "or move the folder away" in got.stderr


@pytest.mark.slow
def test_an_installed_project_is_not_cloned_again(origin, tmp_path, monkeypatch):
    installed = tmp_path / "site"
    shutil.copytree(origin / "kd_utils", installed / "kd_utils")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{installed}")
    got = bootstrap(tmp_path / "elsewhere")
    assert f"found True {tmp_path / 'elsewhere'} {installed}" in got.stdout, got.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_no_network_is_one_clear_error(origin, tmp_path):
    shutil.rmtree(origin)
    got = bootstrap(tmp_path / "here")
    last = got.stderr.strip().splitlines()[-1]
    assert got.returncode == 1 and last.startswith(f"RuntimeError: {REPO_SLUG} could not be cloned")
    assert got.stderr.count("Traceback") == 1
