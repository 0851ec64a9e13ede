"""What differs between Google Colab and any other machine: installing, Drive, uploads, and the notebooks' form.

`google.colab` is imported inside the functions that need it. Everywhere else they fall back to local folders, so that
the same cell runs in Colab, in JupyterLab and under papermill. Nothing heavy is imported: on Colab `setup` runs before
the project's other packages are installed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd_utils.common.errors import ColabError
from kd_utils.config import ROOT, Config, make

MOUNT = Path("/content/drive")
DRIVE_FOLDER = "ImageSharpening-KD"  # in MyDrive
STUDENTS = (Path("student_model.pth"), Path("train", "no_teacher", "student_model.pth"))
KEPT = ("torch", "torchvision", "numpy", "ipywidgets")  # Colab's own versions stay
OPTIONAL = ("realesrgan", "basicsr")  # the official implementation: a reference, nothing runs on it

# The names in a notebook's form and the fields they set; an empty one means what the preset says.
FORM = {"photos": "data.photos", "teacher": "teacher", "size": "student.size", "steps": "train.steps"}

NAMES = ("samples", "DIV2K", "imagenet", "random", "teacher", "auto")  # of photos, VGG19 weights, beginnings: no paths
START = Path.cwd()  # where the notebook was opened, before `setup` goes to the clone


def in_colab() -> bool:
    try:
        import google.colab  # noqa: F401
    except ImportError:
        return False
    return True


# ---- setting up


def missing(requirements: str) -> list[str]:
    """The lines of a requirements.txt that this Python does not meet; those whose marker does not hold are left out."""
    from packaging.requirements import Requirement

    lines = (line.split(" #")[0].strip() for line in requirements.splitlines())
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [str(r) for r in wanted if (r.marker is None or r.marker.evaluate()) and not _met(r)]


def _met(requirement: Any) -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.name in KEPT or requirement.specifier.contains(version, prereleases=True)


def install(wanted: list[str], python: str = sys.executable) -> None:
    """pip installs `wanted`; the installed versions of `KEPT` are a constraint, so that nothing replaces them.

    Raises ColabError; a failure of what is only optional is printed.
    """
    kept = []
    for name in KEPT:
        try:
            kept.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    optional = [w for w in wanted if w.startswith(OPTIONAL)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(kept) + "\n")
        for group in ([w for w in wanted if w not in optional], optional):
            if not group:
                continue
            print("installing", ", ".join(group))
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run([*command, "-c", str(constraints), *group], text=True, stderr=subprocess.PIPE)
            why = done.stderr.strip()[-600:]
            if done.returncode and group == optional:
                print(f"left out {', '.join(optional)}, the official implementation to compare with:\n{why}")
            elif done.returncode:
                raise ColabError(f"pip could not install {', '.join(group)}:\n{why}\nRun this cell again.")


def setup() -> None:
    """Called once by each notebook: the clone becomes the current folder, and what is missing is installed on Colab,
    named elsewhere. Raises ColabError.
    """
    os.chdir(ROOT)
    lacking = missing((ROOT / "requirements.txt").read_text())
    if in_colab():
        install(lacking)
    elif needed := [r for r in lacking if not r.startswith(OPTIONAL)]:
        print(f"MISSING HERE: {', '.join(needed)}. Run: pip install -r {ROOT / 'requirements.txt'}")
    import torch

    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores"
    print(f"Python {platform.python_version()} · torch {torch.__version__} · {where}")
    if in_colab() and not cuda:
        print("NO GPU: choose Runtime > Change runtime type > T4 GPU, or keep to the preset quick.")


# ---- Drive


def mount_drive(enabled: bool, workdir: str = "workdir") -> Path | None:
    """The folder on Google Drive that keeps this work folder's results, or None. Raises ColabError.

    Off Colab there is no Drive to mount; a folder of your own is given as the override ``drive=/some/folder``.
    """
    if not in_colab():
        if enabled:
            print("No Google Drive here: give a folder that is kept as overrides='drive=/some/folder'.")
        return None
    if not enabled:
        print(
            "NOT PERSISTED: Google Drive is off. Checkpoints and the student are lost with this Colab machine.\n"
            "Tick `drive` in the form to keep them, or download student_model.pth when you are done."
        )
        return None
    if not (MOUNT / "MyDrive").is_dir():
        from google.colab import drive

        try:
            drive.mount(str(MOUNT))
        except Exception as e:  # Colab raises ValueError, MessageError, AttributeError: whatever its browser half met
            raise ColabError(_no_drive(f"{e or type(e).__name__}")) from e
    if not (MOUNT / "MyDrive").is_dir():
        raise ColabError(_no_drive(f"{MOUNT / 'MyDrive'} did not appear"))
    folder = MOUNT / "MyDrive" / DRIVE_FOLDER / Path(workdir).name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Google Drive keeps checkpoints, the student and the report in {folder}")
    return folder


def _no_drive(why: str) -> str:
    return f"Google Drive could not be mounted ({why}): run this cell again and allow access, or untick `drive`"


def absolute(value: str, base: Path = START) -> str:
    """The path `value` as seen from `base`, where something is there; else as it is: it may be a teacher's name."""
    path = base / Path(value).expanduser()
    return str(path.resolve()) if value and value not in NAMES and path.exists() else value


def configure(preset: str, overrides: str, workdir: str, drive: Path | None = None, **form: Any) -> Config:
    """The `Config` of a notebook's form. `form` names fields of `FORM`; an empty value means what the preset says, and
    a path is one seen from the folder in which the notebook was opened (on Colab /content), or from the clone.

    Students that were trained before and are on `drive` are copied back into the work folder.
    """
    given = {FORM[k]: absolute(v) if k in ("photos", "teacher") else v for k, v in form.items() if v}
    cfg = make(preset, overrides, workdir=workdir, drive=drive, **given)
    said = [cfg.preset]
    said += [f"photos {cfg.data.photos}"] if "photos" in form else []
    said += [f"teacher {cfg.teacher}"] if "teacher" in form else []
    if "steps" in form:
        said += [f"student {cfg.student.size} x{cfg.scale}", f"{cfg.train.steps} steps of {cfg.train.batch}"]
    print(" · ".join([*said, f"everything goes to {cfg.path().resolve()}"]))
    if cfg.drive:
        _restore(cfg)
    return cfg


def _restore(cfg: Config) -> None:
    from kd_utils.common import files
    from kd_utils.train import NO_TEACHER, TRAINING_FILES

    curves = [Path("train", run, name) for run in ("student", NO_TEACHER) for name in TRAINING_FILES]
    for name in [*STUDENTS, *curves]:
        kept = Path(cfg.drive).expanduser() / name
        if kept.is_file() and not cfg.path(name).is_file():
            if name in STUDENTS:
                print(f"{name} comes from {kept}")
            files.write_bytes(cfg.path(name), kept.read_bytes())


def pick_student(cfg: Config, scale: int = 0) -> tuple[str, int]:
    """(model, scale) for sharpening at `scale`; 0: at the scale of your own student, or else of the settings.

    The model is your own student where step 3 left one of that scale (one of scale 4 serves scale 2 as well), else
    "", which stands for the one that ships.
    """
    from kd_utils.models import student

    own = cfg.path("student_model.pth")
    made = student.load(own).scale if own.is_file() else 0
    scale = scale or made or cfg.scale
    if made == scale or (made, scale) == (4, 2):
        return str(own), scale
    if made:
        print(f"Your student {own} is of scale {made}: for scale {scale} the one that ships is taken.")
    return "", scale


# ---- photos from the browser


def upload() -> Any:
    """Ask for photos: Colab's own dialog, which waits, elsewhere a widget, which the next cell reads (`uploaded`)."""
    if in_colab():
        from google.colab import files

        return files.upload()
    from ipywidgets import FileUpload

    return FileUpload(accept="image/*", multiple=True, description="photos")


def uploaded(picked: Any) -> dict[str, bytes]:
    """{file name: bytes} of what `upload` returned: Colab's dict, or the widget of ipywidgets 7 or 8."""
    value = getattr(picked, "value", picked)
    if isinstance(value, dict):  # Colab: {name: bytes}; ipywidgets 7: {name: {"content": bytes}}
        return {name: bytes(v["content"] if isinstance(v, dict) else v) for name, v in value.items()}
    return {v["name"]: bytes(v["content"]) for v in value}


# ---- what notebooks show


def live() -> Callable[[Any], None]:
    """A `watch` for `train.train`: the curve and the validation pictures of each run, renewed in place."""
    from IPython.display import display

    from kd_utils.evaluation import figures

    places: dict[tuple[str, str], Any] = {}

    def watch(seen: Any) -> None:
        step = seen.history["valid"][-1]["step"]
        pictures = {
            "curve": figures.curve(seen.history, title=f"{seen.name}, step {step}"),
            "pictures": figures.grid(seen.pictures, columns=4, cell=180),
        }
        for kind, picture in pictures.items():
            if place := places.get((seen.name, kind)):
                place.update(picture)
            else:
                places[seen.name, kind] = display(picture, display_id=True)

    return watch


def written(*paths: str | Path) -> None:
    """Print what is in files and folders, with sizes: the end of every notebook."""
    for path in map(Path, paths):
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for p in found[:12]:
            size = f"{p.stat().st_size:>13,} bytes" if p.is_file() else "not there".rjust(19)
            print(f"{size}  {p}")
        if len(found) > 12:
            rest = sum(p.stat().st_size for p in found[12:])
            print(f"{rest:>13,} bytes  in {len(found) - 12} more files of {path}")
