"""Where the project's own files lie, in a clone or as a wheel installs them."""

from __future__ import annotations

from pathlib import Path

from kd_utils.common.errors import ConfigError

REPO_SLUG = "yourusername/ImageSharpening-KD"
PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # in a clone, assets/ and notebooks/ lie beside kd_utils/
ASSETS = PACKAGE / "assets" if (PACKAGE / "assets").is_dir() else ROOT / "assets"  # a wheel has them within kd_utils/


def shipped(name: str) -> Path:
    """The path of a student that comes with the project (assets/weights), such as ``student_x4_photo_m.pth``.

    Raises ConfigError.
    """
    path = ASSETS / "weights" / name
    if path.is_file():
        return path
    there = [p.name for p in sorted(path.parent.glob("student_*.pth"))]
    is_clone = (ROOT / "pyproject.toml").is_file()
    remedy = "restore it with `git checkout assets/weights`" if is_clone else "install it again"
    raise ConfigError(
        f"no {name} among the students that ship (there: {', '.join(there) or 'none'}): name another or the path of a "
        f"file, or {remedy}"
    )
