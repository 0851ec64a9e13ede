"""What differs between Google Colab and any other machine: installing, Drive, and the notebooks' form.

`google.colab` is imported inside the functions that need it. Everywhere else they fall back to local folders, so that
the same cell runs in Colab, in JupyterLab and under papermill. Nothing heavy is imported: on Colab `setup` runs before
the project's other packages are installed.
"""

from __future__ import annotations

import ast
import os
import platform
import sys
from pathlib import Path
from typing import Any

from kd_utils import doctor, forecast
from kd_utils.common import packages
from kd_utils.common.errors import ColabError, UsageError
from kd_utils.config import Config, make
from kd_utils.overrides import unknown_key
from kd_utils.own_files import ROOT
from kd_utils.workdir import BASELINE, STUDENT_FILE, Workdir

MOUNT = Path("/content/drive")
DRIVE_FOLDER = "ImageSharpening-KD"  # in MyDrive

# The names in a notebook's form and the fields they set; an empty one means what the preset says.
FORM = {"photos": "data.photos", "teacher": "teacher", "size": "student.size", "steps": "train.steps"}

NAMES = ("samples", "DIV2K", "imagenet", "random", "teacher", "auto")  # of photos, VGG19 weights, beginnings: no paths
START = Path.cwd()  # where the notebook was opened, before `setup` goes to the clone


def in_colab() -> bool:
    try:
        import google.colab  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return True


# ---- setting up


def setup() -> None:
    """Called once by each notebook: installs what is missing on Colab and names it elsewhere.

    In a clone, the clone becomes the current folder. Raises ColabError, and UsageError for an unknown parameter.
    """
    refuse_unknown_parameters(getattr(sys.modules["__main__"], "In", []))
    if (ROOT / "notebooks").is_dir():
        os.chdir(ROOT)

    lacking = packages.missing_on_colab(doctor.requirements())
    if in_colab():
        packages.install(lacking)
    else:
        needed = [str(r) for r in lacking if r.name not in packages.OPTIONAL]
        if needed:
            print(f"MISSING HERE: {', '.join(needed)}. Run: {doctor.how_to_install(needed)}")
    try:
        import torch
    except ModuleNotFoundError as e:
        raise ColabError(doctor.explain_missing_module("torch")) from e

    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores"
    print(f"Python {platform.python_version()} · torch {torch.__version__} · {where}")


def refuse_unknown_parameters(cells: list[str]) -> None:
    """Raise UsageError where papermill was given a name that the notebook's form does not have.

    papermill would set the misspelt name and run at the form's own values. `cells` are the sources that ran so far;
    the one that papermill injects begins with ``# Parameters``.
    """
    known: set[str] = set()
    for cell in cells:
        names = _assigned_names(cell)
        if cell.startswith("# Parameters\n"):
            unknown = sorted(names - known)
            if unknown:
                raise UsageError(f"papermill's -p: {unknown_key(unknown[0], sorted(known))}")
        known |= names


def _assigned_names(source: str) -> set[str]:
    """The names that the lines of a cell assign."""
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return set()
    names = set()
    for line in lines:
        if isinstance(line, ast.Assign):
            names |= {target.id for target in line.targets if isinstance(target, ast.Name)}
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            names.add(line.target.id)
    return names


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

    mine = MOUNT / "MyDrive"
    if not mine.is_dir():
        from google.colab import drive  # pyright: ignore[reportMissingImports]

        try:
            drive.mount(str(MOUNT))
        except Exception as e:  # Colab raises ValueError, MessageError, AttributeError: whatever its browser half met
            raise ColabError(_no_drive(f"{e or type(e).__name__}")) from e
    if not mine.is_dir():
        raise ColabError(_no_drive(f"{mine} did not appear"))

    folder = mine / DRIVE_FOLDER / Path(workdir).name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Google Drive keeps checkpoints, the student and the report in {folder}")
    return folder


def _no_drive(why: str) -> str:
    return f"Google Drive could not be mounted ({why}): run this cell again and allow access, or untick `drive`"


def offer_flush(kept: Path | None) -> None:
    """Show a button that waits until Google Drive has everything and then unmounts it, where something is kept there.

    Drive uploads in the background: what a machine wrote in its last minutes is lost with it if it is closed at once.
    """
    if not (kept and in_colab()):
        return
    from IPython.display import display
    from ipywidgets import Button, Layout

    button = Button(description="Finish the upload to Drive", layout=Layout(width="auto"))
    button.on_click(lambda _: flush_drive())
    print("Google Drive uploads in the background. Before you close this machine, press the button and wait.")
    display(button)


def flush_drive() -> None:
    """Wait until Google Drive has everything, and unmount it. Raises ColabError."""
    from google.colab import drive  # pyright: ignore[reportMissingImports]

    try:
        drive.flush_and_unmount()
    except Exception as e:  # Colab raises whatever its mount met
        raise ColabError(f"Google Drive did not take everything ({e or type(e).__name__}): press again") from e
    print("Google Drive has everything, and is unmounted. To go on here, run the cell of the settings again.")


# ---- settings


def absolute(value: str, base: Path = START) -> str:
    """The path `value` as seen from `base`, where something is there; else as it is: it may be a teacher's name."""
    if not value or value in NAMES:
        return value
    path = base / Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


def configure(
    preset: str, overrides: str, workdir: str, drive: Path | None = None, drive_data: bool = False, **form: Any
) -> Config:
    """The `Config` of a notebook's form. `form` names fields of `FORM`; an empty value means what the preset says, and
    a path is one seen from the folder in which the notebook was opened (on Colab /content), or from the clone.

    Students that were trained before and are on `drive` are copied back into the work folder.
    """
    given = {}
    for name, value in form.items():
        if value:
            given[FORM[name]] = absolute(value) if name in ("photos", "teacher") else value
    cfg = make(preset, overrides, workdir=workdir, drive=drive, drive_data=drive_data or None, **given)

    said = [cfg.preset]
    if "photos" in form:
        said.append(f"photos {cfg.data.photos}")
    if "teacher" in form:
        said.append(f"teacher {cfg.teacher}")
    if "steps" in form:
        said += [f"student {cfg.student.size} x{cfg.scale}", f"{cfg.train.steps} steps of {cfg.train.batch}"]
    print(" · ".join(said))
    print(f"Everything is written to {Workdir.of(cfg).root.resolve()}.")

    forecast.say(cfg, set(form))
    if cfg.drive:
        from kd_utils.training import folders

        folders.restore(Workdir.of(cfg))
    return cfg


def pick_student(cfg: Config, scale: int = 0, model: str = "yours") -> tuple[str, int]:
    """(model, scale) for sharpening at `scale`; 0: at the scale of your own student, or else of the settings.

    The model "yours" is your own student where step 3 left one of that scale (one of scale 4 serves scale 2 as well),
    else "", which stands for the one that ships. Any other is a name of one that ships, or a file. Raises ConfigError.
    """
    from kd_utils.models import shipped, student
    from kd_utils.training import selection

    if model != "yours":
        scale = scale or cfg.scale
        return str(shipped.find_student(absolute(model), scale)), scale

    work = Workdir.of(cfg)
    own = work.student
    made = student.load(own).scale if own.is_file() else 0
    scale = scale or made or cfg.scale
    if made == scale or (made, scale) == (4, 2):
        if folder := selection.folder_of(work, own):
            print(*selection.which(work, folder))
        return str(own), scale
    if made:
        print(f"Your student {own} is of scale {made}: for scale {scale} the one that ships is taken.")
    return "", scale


def models_to_compare(cfg: Config, chosen: Path, scale: int) -> dict[str, str]:
    """{name: model} for `look`: plain enlargement, the chosen model, your own and its baseline, and those that ship."""
    from kd_utils.models import shipped, student

    work = Workdir.of(cfg)
    files = {"yours": work.student, "baseline": work.training(BASELINE) / STUDENT_FILE}
    for name in shipped.shipped_names(scale):
        files[name] = shipped.find_student(name, scale)
    title = next((name for name, path in files.items() if path == chosen), chosen.name)

    models = {"bicubic": "bicubic", title: str(chosen)}
    for name, path in files.items():
        if path.is_file() and student.load(path).scale in (scale, 4 if scale == 2 else scale):
            models.setdefault(name, str(path))
    return models
