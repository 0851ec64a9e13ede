"""Python packages: what is asked for, what is missing, and how pip installs it without replacing what Colab keeps.

The standard library is enough to import and run this module.
"""

from __future__ import annotations

import operator
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kd_utils.common.errors import ColabError

KEPT = ("torch", "torchvision", "numpy", "ipywidgets")  # Colab's own versions stay
OPTIONAL = ("realesrgan", "basicsr")  # the official implementation: a reference, nothing runs on it
SIGNS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}


def installed_version(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Requirement:
    """One line of a list of requirements, such as ``gdown>=5.2`` or ``basicsr>=1.4; python_version < "3.13"``."""

    name: str
    specifier: str  # ">=1.17,<1.23"; "" takes any version
    marker: str = ""

    def __str__(self) -> str:
        return self.name + self.specifier

    @property
    def extra(self) -> str:
        """The extra that asks for it; "" for the core."""
        found = re.search(r"extra == ['\"](\w+)['\"]", self.marker)
        return found[1] if found else ""

    def applies(self) -> bool:
        """Whether this Python is among those that the line is for."""
        found = re.search(r"python_version\s*([<>=!]=?)\s*['\"]([\d.]+)['\"]", self.marker)
        minor = ".".join(platform.python_version_tuple()[:2])
        return found is None or _compare(minor, found[1], found[2])

    def is_met(self) -> bool:
        """Whether a version that is good enough is installed."""
        version = installed_version(self.name)
        if version is None:
            return False
        clauses = re.findall(r"([<>=!]=?)\s*([\d.]+)", self.specifier)
        return all(_compare(version, sign, wanted) for sign, wanted in clauses)


def _compare(version: str, sign: str, wanted: str) -> bool:
    """Whether `version` is, for example, ``>=`` `wanted`, by the numbers of their releases."""
    left, right = _numbers(version), _numbers(wanted)
    length = max(len(left), len(right))
    left += (0,) * (length - len(left))
    right += (0,) * (length - len(right))
    return SIGNS[sign](left, right)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: (2, 6, 0) of ``2.6.0rc1+cu124``."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def parse_requirements(text: str) -> list[Requirement]:
    """The lines of a requirements.txt, without its comments."""
    found = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        package, _, marker = line.partition(";")
        parts = re.fullmatch(r"\s*([\w.-]+)(?:\[[\w,]*\])?\s*\(?([^()]*)\)?\s*", package)
        if parts:
            found.append(Requirement(parts[1], parts[2].replace(" ", ""), marker.strip()))
    return found


def missing(wanted: list[Requirement]) -> list[Requirement]:
    """Those of `wanted` that are for this Python and not installed in a version that is good enough."""
    return [r for r in wanted if r.applies() and not r.is_met()]


def missing_on_colab(wanted: list[Requirement]) -> list[Requirement]:
    """Those of `wanted` that this Python lacks. Of what Colab keeps, any installed version is good enough."""
    return [r for r in missing(wanted) if r.name not in KEPT or installed_version(r.name) is None]


# ---- installing


def install(wanted: list[Requirement], python: str = sys.executable) -> None:
    """pip installs `wanted`; the installed versions of `KEPT` are a constraint, so that nothing replaces them.

    Raises ColabError; a failure of what is only optional is printed.
    """
    versions = {name: installed_version(name) for name in KEPT}
    kept = [f"{name}=={version}" for name, version in versions.items() if version]
    needed = [str(r) for r in wanted if r.name not in OPTIONAL]
    optional = [str(r) for r in wanted if r.name in OPTIONAL]

    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(kept) + "\n")

        why = _pip_install(needed, constraints, python)
        if why:
            raise ColabError(f"pip could not install {', '.join(needed)}:\n{why}\nRun this cell again.")

        why = _pip_install(optional, constraints, python)
        if why:
            print(f"left out {', '.join(optional)}, the official implementation to compare with:\n{why}")


def _pip_install(packages: list[str], constraints: Path, python: str) -> str:
    """Install packages; returns the end of pip's errors, or "" where all went well."""
    if not packages:
        return ""
    print("installing", ", ".join(packages))
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
    done = subprocess.run([*command, *packages], text=True, stderr=subprocess.PIPE)
    if done.returncode == 0:
        return ""
    return done.stderr.strip()[-600:] or f"exit code {done.returncode}"
