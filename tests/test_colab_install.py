"""How Colab gets the project: the packages that it lacks, and the cell that finds or clones the project."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.notebooks import NOTEBOOKS, read

from kd_utils import colab, doctor
from kd_utils.common import packages
from kd_utils.own_files import REPO_SLUG, ROOT

# ---- packages


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
            meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            if needs:
                meta += f"Requires-Dist: {needs}\n"
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
