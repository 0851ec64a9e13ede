"""A twin of Google Colab: its Python, its versions, its oddities, a stand-in for google.colab, and an empty folder.

The environment takes several GB and is made once, in .venv-colab; what a test installs into it is taken out again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.notebooks import filled_in
from kd_utils.own_files import REPO_SLUG, ROOT

PLACE = ROOT / ".venv-colab"
PIP = ["-m", "pip", "--disable-pip-version-check", "-q"]
# Colab has this beside opencv-python 5, and whichever is unpacked last is the cv2 that is imported.
BESIDE = ("opencv-contrib-python==4.14.*",)

# The stand-in, which exists on Colab only. KD_FAKE says what goes wrong, KD_CONTENT where Colab's /content lies here.
FAKE = {
    "__init__.py": """
import os, pathlib, sys
ours = sys.modules.get("kd_utils.colab")
if ours:
    ours.MOUNT = pathlib.Path(os.environ["KD_CONTENT"], "drive")
""",
    "drive.py": """
import os, pathlib
def mount(place):
    wrong = os.environ.get("KD_FAKE")
    if wrong == "refused":
        raise ValueError("mount failed")
    if wrong != "nothing":
        pathlib.Path(place, "MyDrive").mkdir(parents=True)
""",
    "files.py": """
import io, os
def upload():
    if os.environ.get("KD_FAKE") == "closed":
        raise TypeError("'NoneType' object is not subscriptable")
    from PIL import Image
    data = io.BytesIO()
    Image.effect_noise((48, 40), 60).convert("RGB").save(data, "PNG")
    return {"mine (1).png": data.getvalue()}
def download(path):
    print("downloads", path)
""",
}


def find_python() -> str:
    """A Python 3.13 on PATH or under pyenv; the test is skipped without one."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    for candidate in ("python3.13", *map(str, sorted(pyenv.glob("3.13*/bin/python")))):
        code = "import sys; print(sys.executable * (sys.version_info[:2] == (3, 13)))"
        try:
            found = subprocess.run([candidate, "-c", code], capture_output=True, text=True).stdout.strip()
        except OSError:
            continue
        if found:
            return found
    pytest.skip("LEFT OUT: the Colab twin needs a Python 3.13, on PATH or under pyenv")


def _run(*command: str | Path) -> None:
    got = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert got.returncode == 0, f"{command}: {got.stderr[-2000:]}"


def install(constraints: Path) -> Path:
    """The twin's Python, with exactly the versions of `constraints`; made where it is not there or has others."""
    wanted = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join([*wanted, *BESIDE, ""])
    stamp = PLACE / f"made-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    python = PLACE / "bin" / "python"
    if stamp.is_file():
        return python

    base = find_python()
    shutil.rmtree(PLACE, ignore_errors=True)
    uv = shutil.which("uv") or shutil.which(ROOT / ".venv-uv" / "bin" / "uv")
    if uv:
        _run(uv, "venv", "-q", "--seed", "--python", base, PLACE)
    else:
        _run(base, "-m", "venv", PLACE)
    (PLACE / "wanted.txt").write_text(text)
    into = [uv, "pip", "install", "-q", "--python", python] if uv else [python, *PIP, "install"]
    _run(*into, "-r", PLACE / "wanted.txt")
    stamp.touch()
    return python


@dataclass
class Twin:
    """A machine of Colab's kind. `content` is what is /content there, `origin` the repository on GitHub."""

    python: Path
    content: Path
    origin: Path
    env: dict[str, str]

    def versions(self) -> dict[str, str]:
        """All that is installed: {name: version}."""
        code = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        return json.loads(subprocess.check_output([self.python, "-c", code], env=self.env))

    def without(self, added: set[str]) -> None:
        """Uninstall what a notebook added: a bare machine again."""
        if added:
            _run(self.python, *PIP, "uninstall", "-y", *sorted(added))

    def run(self, name: str, until: str = "", wrong: str = "", **form: Any) -> dict[str, list[dict[str, Any]]]:
        """Run a committed notebook in a new kernel: {cell id: outputs}, up to the cell `until`.

        `wrong` is what goes wrong on Colab: Drive "refused", "nothing" appears, the upload's dialog "closed".
        """
        nb = filled_in(name, self.origin / "notebooks", **form)
        ids = [cell["id"] for cell in nb["cells"]]
        nb["cells"] = nb["cells"][: ids.index(until) + 1 if until else None]
        (self.content / f"{name}.ipynb").write_text(json.dumps(nb))
        command = ["nbconvert", "--to", "notebook", "--execute", "--allow-errors", "--inplace", f"{name}.ipynb"]
        command += ["--ExecutePreprocessor.kernel_name=twin", "--ExecutePreprocessor.timeout=1800"]
        got = subprocess.run([sys.executable, "-m", *command], cwd=self.content, env=self.env | {"KD_FAKE": wrong},
                             capture_output=True, text=True)  # fmt: skip
        assert got.returncode == 0, got.stderr[-2000:]
        done = json.loads((self.content / f"{name}.ipynb").read_text())
        return {cell["id"]: cell.get("outputs", []) for cell in done["cells"]}


def boot(base: Path, constraints: Path) -> Twin:
    """A new machine with an empty /content, which sees this clone as the repository on GitHub."""
    python = install(constraints)
    content, origin = base / "content", base / "origin"
    content.mkdir()
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.splitlines()):
        if (ROOT / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, origin / name)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        _run("git", "-C", origin, *command)

    for name, text in FAKE.items():
        path = base / "fake" / "google" / "colab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    spec = base / "jupyter" / "kernels" / "twin" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "twin", "language": "python"}))

    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env |= {
        "PYTHONPATH": str(base / "fake"), "KD_CONTENT": str(content), "JUPYTER_PATH": str(base / "jupyter"),
        "IPYTHONDIR": str(base / "ipython"), "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin}.insteadOf", "GIT_CONFIG_VALUE_0": f"https://github.com/{REPO_SLUG}.git",
    }  # fmt: skip
    return Twin(python, content, origin, env)
