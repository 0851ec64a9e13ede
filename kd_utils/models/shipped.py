"""The students that ship: their names, the file of a name, and which of them a teacher taught."""

from __future__ import annotations

import re
from pathlib import Path

from kd_utils.common.errors import ConfigError
from kd_utils.models import student
from kd_utils.overrides import did_you_mean
from kd_utils.own_files import ASSETS, shipped

FAMILIES = (
    "photo",
    "anime",
)  # of scale 4, taught by x4plus and by anime_6B; the first is meant where a name is only a size
NAME = re.compile(rf"((?:{'|'.join(FAMILIES)})-)?([sml])")  # of a student that ships
DEFAULTS = {4: "photo-m", 2: "photo-m", 1: "photo-s"}  # by scale


def find_student(model: str | Path = "", scale: int = 4) -> Path:
    """A student's file by its path, or by name (or nothing) among those that ship for `scale` 4, 2 or 1.

    A name is a family and a size, such as "anime-m": the family says what it is for. A size alone is of the
    family photo. Where none of the name ships for scale 2, that of 4 serves, resized down. Raises ConfigError.
    """
    name = str(model) or DEFAULTS[scale]
    parts = NAME.fullmatch(name)
    if parts:  # a size alone is of the first family
        name = name if parts[1] else f"{FAMILIES[0]}-{name}"
        known = shipped_names(scale)
        if known and name not in known:
            raise ConfigError(
                f"model {name}: none ships for scale {scale}: choose one of {', '.join(known)}, or a file"
            )
        return shipped(_file_name(name, scale))
    path = Path(name).expanduser()
    if path.suffix.lower() == ".onnx":
        raise ConfigError(f"model {name}: give the .pth that it was made of (--engine onnx runs that by onnxruntime)")
    if not path.exists():
        known = shipped_names(scale)
        hint = did_you_mean(name, known) or ": check the path"
        raise ConfigError(f"model {name} is neither a file nor one of {', '.join(known)}{hint}")
    return path


def _file_name(name: str, scale: int) -> str:
    own = f"student_x{scale}_{name.replace('-', '_')}.pth"
    return own if scale != 2 or (ASSETS / "weights" / own).is_file() else own.replace("x2", "x4", 1)


def shipped_names(scale: int = 4) -> list[str]:
    """The names that `find_student` knows at a scale, by the files that are there: photo-s, photo-m and so on.

    At scale 2 they are those of scale 4, which serve there; photo-s has a file of its own.
    """
    prefix = f"student_x{1 if scale == 1 else 4}_"
    names = []
    for path in (ASSETS / "weights").glob(f"{prefix}*.pth"):
        name = path.stem.removeprefix(prefix).replace("_", "-")
        parts = NAME.fullmatch(name)
        if parts and parts[1]:
            names.append(name)
    return sorted(names, key=lambda name: (FAMILIES.index(name[:-2]), "sml".index(name[-1])))


def taught_by(teacher: str, sha256: str, size: str, scale: int) -> tuple[Path, bool]:
    """The student that ships of this size and scale, and whether this teacher taught it.

    Where the teacher taught none, it is the one of the family photo. Raises ConfigError where none of the size ships.
    """
    there, alike = [], []
    for name in shipped_names(scale):
        path = find_student(name, scale)
        net = student.load(path)
        if net.scale != scale:
            continue
        there.append(name)
        if (net.feat, net.convs) != student.shape(size):
            continue
        if net.meta.get("teacher_sha256") == sha256 or net.meta.get("teacher") == teacher:
            return path, True
        alike.append(path)
    if alike:
        return alike[0], False
    raise ConfigError(
        f"train.init=shipped: no student of size {size} and scale {scale} ships (there: {', '.join(there) or 'none'}): "
        "choose student.size among those, or name a file: one of scale 4 can begin one of scale 2 or 1"
    )
