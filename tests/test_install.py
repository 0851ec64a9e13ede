"""What is installed, where and by what: requirements.txt, pyproject.toml and the Makefile, against Colab's versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from kd_utils import __version__, doctor
from kd_utils.own_files import ROOT

OFFICIAL = {"realesrgan", "basicsr"}
COLAB_HAS_NO = {"papermill", "spandrel", "onnx", "onnxruntime", "pyvips", "pyvips-binary"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lines(path: Path) -> list[str]:
    return [x for line in path.read_text().splitlines() if (x := re.sub(r"(^|\s)#.*", "", line).strip())]


def requirements() -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines(ROOT / "requirements.txt"))}


@pytest.fixture
def pins(shared) -> dict[str, str]:
    """Colab's versions: {name: version}."""
    pairs = (line.split("==") for line in lines(shared / "colab-constraints.txt"))
    return {canonicalize_name(name): version for name, version in pairs}


def applies(r: Requirement, python: str, extra: str = "") -> bool:
    on = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
    return r.marker is None or r.marker.evaluate(default_environment() | on)


def test_every_version_that_colab_has_is_good_enough(pins):
    asked = requirements()
    assert {"torch", "torchvision", "numpy", "ipywidgets"} <= asked.keys() & pins.keys()
    for name in asked.keys() & pins.keys():
        assert asked[name].specifier.contains(pins[name]), f"{asked[name]} would replace Colab's {name} {pins[name]}"
    missing = {name for name in asked.keys() - pins.keys() if applies(asked[name], "3.13")}
    missing -= {"jinja2"}  # Colab has it through nbconvert; the list of its versions leaves it out
    assert missing == COLAB_HAS_NO, "what Colab's runtime adds to itself"


def test_what_colab_lacks_asks_for_no_other_versions(pins):
    """All that the missing packages need, down to the last, as installed here, on Python 3.13."""
    queue, seen = [(name, "") for name in sorted(COLAB_HAS_NO)], set()
    while queue:
        if (node := queue.pop()) in seen:
            continue
        seen.add(node)
        name, extra = node
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform, or Python 3.13 only
            continue
        for r in map(Requirement, needs):
            need = canonicalize_name(r.name)
            if not applies(r, "3.13", extra):
                continue
            if need in pins:
                assert r.specifier.contains(pins[need]), f"{name} wants {r}, Colab has {pins[need]}"
            else:
                queue += [(need, e) for e in r.extras | {""}]
    names = {name for name, _ in seen}
    # the walk went deep, and not into what Colab has
    assert {"ml-dtypes", "flatbuffers"} <= names and "einops" not in names


def test_the_official_packages_are_for_python_before_3_13():
    asked = requirements()
    for name in OFFICIAL:
        assert [applies(asked[name], v) for v in ("3.11", "3.12", "3.13")] == [True, True, False]
    assert all(r.marker is None for name, r in asked.items() if name not in OFFICIAL)


def test_what_is_installed_here_is_what_is_asked_for():
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name, r in requirements().items():
        if applies(r, python):
            assert r.specifier.contains(metadata.version(name), prereleases=True), name


def test_the_files_agree():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["notebooks"], *extras["export"], *extras["official"]]
    assert sorted(map(str, map(Requirement, asked))) == sorted(map(str, requirements().values()))
    assert set(extras) == {*doctor.EXTRAS, "demo", "heic", "fast", "dev", "docs"}
    core = {canonicalize_name(Requirement(r).name) for r in project["dependencies"]}
    assert not core & (OFFICIAL | {"papermill", "ipywidgets", "onnx", "onnxruntime"}), "a small core"
    assert project["requires-python"] == ">=3.11,<3.14" and project["license"] == "BSD-3-Clause"
    assert (ROOT / "LICENSE").read_text().startswith("BSD 3-Clause")
    makefile = (ROOT / "Makefile").read_text()
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in makefile
    dev = {Requirement(r).name for r in extras["dev"]}
    assert set(re.findall(r"-m (pytest|ruff|jupyterlab|pyright)", makefile)) < dev
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert {"ruff", "nbstripout"} == set(re.findall(r"\.venv/bin/(\w+)", hooks)) & dev
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    assert 'python: ["3.11", "3.12", "3.13"]' in workflow and "make test" in workflow


# ---- the wheel


def test_the_wheel_holds_every_package():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "kd_utils").rglob("__init__.py")}
    data = {name for name in PYPROJECT["tool"]["setuptools"]["package-data"] if name != "kd_utils"}
    assert listed == found | data


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A folder into which our wheel was installed, and nothing else."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    skip = shutil.ignore_patterns("__pycache__", "before", "*.png")
    for folder in ("kd_utils", "assets"):
        shutil.copytree(ROOT / folder, source / folder, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", base / "dist", source], check=True)
    (built,) = (base / "dist").glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", base / "site", built], check=True)
    shutil.rmtree(source)
    return base / "site"


@pytest.mark.slow
def test_the_wheel_sharpens_from_another_folder(wheel, tmp_path):
    def kd_utils(*args: str) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, wheel / "bin" / "kd-utils", *args]
        return subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120)

    Image.new("RGB", (16, 16), "teal").save(tmp_path / "photo.png")
    done = kd_utils("sharpen", "photo.png", "out")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "photo.png") as sharp:
        assert sharp.size == (64, 64)

    assert f"at {wheel}" in kd_utils("doctor").stdout
    assert kd_utils("--version").stdout == f"kd-utils {__version__}\n"
    done = kd_utils("run")
    assert done.returncode == 2 and "they come with a clone of the repository" in done.stderr


@pytest.mark.slow
def test_the_wheel_holds_no_more_than_it_needs(wheel):
    package = wheel / "kd_utils"
    weights = {p.name for p in (ROOT / "assets" / "weights").glob("student_*.pth")}
    assert {p.name for p in (package / "assets" / "weights").iterdir()} == weights
    page = {p.name for p in (ROOT / "assets" / "demo").iterdir()}
    assert {p.name for p in (package / "assets" / "demo").iterdir()} == page
    assert (package / "py.typed").is_file() and list((package / "evaluation" / "templates").iterdir())
    assert sum(p.stat().st_size for p in wheel.rglob("*") if p.is_file() and p.suffix != ".pyc") < 8_000_000


# The Makefile, run for real on a PATH of our own.


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A machine with the usual tools and no Python, no uv: put Pythons into .bin; .make(...) runs our Makefile."""

    class Machine:
        bin = tmp_path / "bin"
        python = getattr(sys, "_base_executable", sys.executable)

        def make(self, *args: str) -> subprocess.CompletedProcess:
            env = {
                k: v for k, v in os.environ.items() if not re.match("PYTHON|VENV|CONSTR|TORCH_IN|MAKE|MFLAGS|ARGS", k)
            }
            cmd = ["make", "-C", str(tmp_path / "clone"), *args]
            return subprocess.run(cmd, env=env | {"PATH": str(self.bin)}, text=True, capture_output=True, timeout=120)

        def has(self, name: str, text: str = "") -> None:
            """A program `name`: `text`, or this Python, which leaves pip (it takes seconds) out of new environments."""
            quick = 'case "$*" in "-m venv "*) shift 2; set -- -m venv --without-pip "$@";; esac'
            executable(self.bin / name, text or f'{quick}\nexec "{self.python}" "$@"')

    machine = Machine()
    machine.bin.mkdir()
    for tool in ("make", "sh", "bash", "cat", "cksum", "tr", "grep", "sed", "expand", "rm", "touch", "tail", "find"):
        (machine.bin / tool).symlink_to(shutil.which(tool))
    for folder in ("kd_utils", "tests", "notebooks"):
        (tmp_path / "clone" / folder).mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / "clone")
    return machine


BROKEN = (
    'echo "pyenv: $0: command not found" >&2; exit 127'  # what pyenv leaves on PATH for a version it has not chosen
)


@pytest.mark.slow
def test_make_takes_the_newest_python_that_runs(machine, tmp_path):
    machine.has("python3.13", BROKEN)
    machine.has("python3.12", BROKEN)
    machine.has("python3.11", "exit 1")
    p = machine.make("venv")
    assert p.returncode == 2 and "No Python 3.11, 3.12 or 3.13 that runs" in p.stderr and "make PYTHON=" in p.stderr
    p = machine.make("venv", "PYTHON=python3.12")
    assert p.returncode == 2 and "PYTHON=python3.12" in p.stderr
    machine.has("python3")
    p = machine.make("venv")
    assert p.returncode == 0, p.stderr
    venv = tmp_path / "clone" / ".venv"
    assert "(%s)" % (machine.bin / "python3") in p.stdout and (venv / "bin" / "python").exists()
    # There, it stays; with another Python asked for, it is not mixed; and it is removed only if it is one.
    assert "Making" not in machine.make("venv").stdout
    machine.has("python3.12", 'case "$2" in *print*) echo "(3, 99)";; esac')
    p = machine.make("install", "PYTHON=python3.12")
    assert p.returncode == 2 and ".venv has Python 3" in p.stderr and "make clean" in p.stderr
    assert machine.make("clean").returncode == 0 and not venv.exists()
    venv.mkdir()
    for goal in ("clean", "venv"):
        p = machine.make(goal)
        assert p.returncode == 2 and "no virtual environment" in p.stderr and venv.exists()


@pytest.mark.slow
def test_make_says_which_debian_package_is_missing(machine, tmp_path):
    (tmp_path / "ensurepip.py").write_text("raise ImportError")  # Debian's python3 without python3-venv
    machine.has("python3", f'PYTHONPATH="{tmp_path}" exec "{machine.python}" "$@"')
    p = machine.make("venv")
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert p.returncode == 2 and f"apt-get install {package}" in p.stderr and not (tmp_path / "clone/.venv").exists()


def test_make_installs_again_only_when_something_changed(machine, tmp_path):
    clone = tmp_path / "clone"
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(machine.python)

    def stamps(*args: str) -> list[str]:
        plan = machine.make("-n", "lint", *args).stdout
        return re.findall(r"\S*/\.installed-\S+", plan.split("touch ", 1)[1]) if "touch " in plan else []

    first = stamps()
    assert len(first) == 2  # with the development tools, what `make run` needs is there too
    for stamp in first:
        (clone / stamp).touch()
    assert stamps() == [] and "pip" not in machine.make("-n", "run").stdout
    (clone / "pins.txt").write_text("numpy==2.1.3\n")
    (clone / "empty.txt").write_text("")
    with open(clone / "requirements.txt", "a") as f:
        f.write("# changed\n")
    keys = [tuple(first), *(tuple(stamps(*a)) for a in ([], ["CONSTRAINTS=pins.txt"], ["TORCH_INDEX=http://x"]))]
    assert len(set(keys)) == 4 and all(len(k) == 2 for k in keys)
    p = machine.make("install", "CONSTRAINTS=gone.txt")
    assert p.returncode == 2 and "CONSTRAINTS=gone.txt: no such file" in p.stderr
