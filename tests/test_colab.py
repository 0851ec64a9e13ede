"""Colab: Drive, uploads, paths, what is installed; google.colab alone is a stand-in, it exists there only."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import types
import zipfile
from functools import partial
from pathlib import Path

import pytest
from helpers.notebooks import NOTEBOOKS, read

from kd_utils import colab, train
from kd_utils.config import PRESETS, REPO_SLUG, ROOT


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A stand-in for google.colab, which exists on Colab only; its drive has a MyDrive once it is mounted."""
    module = types.ModuleType("google.colab")
    module.mounted = []

    def mount(place):
        module.mounted.append(place)
        Path(place, "MyDrive").mkdir(parents=True)

    module.drive = types.SimpleNamespace(mount=mount)
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


def test_off_colab_there_is_no_drive(capsys):
    assert colab.mount_drive(False) is None and capsys.readouterr().out == ""
    assert colab.mount_drive(True) is None and "drive=/some/folder" in capsys.readouterr().out


def test_students_kept_on_drive_come_back(ran, tmp_path, capsys):
    drive = tmp_path / "drive"
    (drive / "train" / "no_teacher").mkdir(parents=True)
    (drive / "train" / "student").mkdir()
    curves = [Path("train", run, name) for run in ("student", "no_teacher") for name in train.SHOWN]
    for name in [*colab.STUDENTS, *curves]:
        shutil.copy(ran.workdir / name, drive / name)
    cfg = colab.configure("quick", "train.lr=3e-4", str(tmp_path / "w"), drive, steps=0, teacher="", size="m")
    assert (cfg.train.steps, cfg.teacher, cfg.student.size) == (PRESETS["quick"]["train.steps"], "student_x4_m", "m")
    for name in [*colab.STUDENTS, *curves]:
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
    from kd_utils.models import student

    cfg = colab.configure("quick", "", str(tmp_path))
    assert colab.pick_student(cfg) == ("", 4) and colab.pick_student(cfg, 1) == ("", 1)
    own = str(student.save(student.Student(8, 2, 4), cfg.path("student_model.pth")))
    assert [colab.pick_student(cfg, s) for s in (0, 4, 2)] == [(own, 4), (own, 4), (own, 2)]
    assert colab.pick_student(cfg, 1) == ("", 1) and "is of scale 4" in capsys.readouterr().out
    student.save(student.Student(8, 2, 1), cfg.path("student_model.pth"))
    assert colab.pick_student(cfg) == (own, 1) and colab.pick_student(cfg, 4) == ("", 4)


def test_uploads_of_colab_and_of_both_ipywidgets(google, monkeypatch):
    assert colab.uploaded(colab.upload()) == {"a.png": b"abc"}
    seven = types.SimpleNamespace(value={"b.png": {"metadata": {"name": "b.png"}, "content": b"b"}})
    eight = types.SimpleNamespace(value=({"name": "c.png", "size": 1, "content": memoryview(b"c")},))
    assert colab.uploaded(seven) == {"b.png": b"b"} and colab.uploaded(eight) == {"c.png": b"c"}
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.delattr(sys.modules["google"], "colab")
    widget = colab.upload()
    assert type(widget).__name__ == "FileUpload" and widget.multiple and colab.uploaded(widget) == {}


def test_what_is_missing_by_requirements_and_markers():
    text = (ROOT / "requirements.txt").read_text()
    assert not [r for r in colab.missing(text) if r.startswith(colab.KEPT)]
    asked = 'numpy>=99  # kept as it is\nabsent-package>=2\nother-absent; python_version < "3"\npytest>=999\n\n# text\n'
    assert colab.missing(asked) == ["absent-package>=2", "pytest>=999"]


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


@pytest.mark.slow
def test_installing_never_replaces_what_colab_has(pip, monkeypatch, capfd):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(pip))
    python = str(pip / "venv" / "bin" / "python")
    colab.install(["kdtiny"], python)
    with pytest.raises(colab.ColabError, match="pip could not install kdgreedy"):
        colab.install(["kdgreedy"], python)
    colab.install(["basicsr>=1.4.2"], python)
    assert "left out basicsr>=1.4.2" in capfd.readouterr().out, "what is optional does not stop the notebook"
    names = {p.name for p in (pip / "venv").rglob("*_marker.py")}
    assert names == {"kdtiny_marker.py"}


@pytest.mark.slow
def test_the_bootstrap_clones_where_there_is_no_clone(tmp_path, monkeypatch):
    origin, empty = tmp_path / "origin", tmp_path / "empty"
    shutil.copytree(ROOT / "kd_utils", origin / "kd_utils", ignore=shutil.ignore_patterns("__pycache__"))
    (origin / "requirements.txt").write_text("numpy\n")
    empty.mkdir()
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{origin}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"https://github.com/{REPO_SLUG}.git")
    fake = tmp_path / "fake" / "google" / "colab"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(fake.parents[1]))
    boot = read(NOTEBOOKS[0])[1][1]["source"]
    shown = "\nimport os, kd_utils\nprint(colab.in_colab(), os.getcwd(), kd_utils.__file__)\n"
    again = "os.chdir('..')\n"  # a new session on a machine that has the clone
    got = subprocess.run([sys.executable, "-c", boot + shown + again + boot + shown], cwd=empty, capture_output=True)
    clone = (empty / REPO_SLUG.split("/")[1]).resolve()
    assert got.returncode == 0, got.stderr.decode()
    assert got.stdout.decode().count(f"True {clone} {clone / 'kd_utils' / '__init__.py'}") == 2, got.stdout.decode()
    assert b"NO GPU" in got.stdout or b"NVIDIA" in got.stdout
