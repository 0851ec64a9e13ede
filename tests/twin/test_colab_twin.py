"""The notebooks on a twin of Google Colab, each from a bare kernel in an empty folder (`make test-colab`)."""

from __future__ import annotations

import pytest
from helpers import pipeline, twin
from helpers.notebooks import NOTEBOOKS

from kd_utils.notebook_forms import form_of
from kd_utils.own_files import REPO_SLUG

ADDED = {"onnx", "onnxruntime", "papermill", "pyvips", "pyvips-binary", "spandrel"}  # what Colab lacks
ON_A_BARE_MACHINE = ("01_data", "ImageSharpeningKD")  # the others find what these two have installed


@pytest.fixture(scope="module")
def machine(tmp_path_factory, shared):
    base = tmp_path_factory.mktemp("twin")
    booted = twin.boot(base, shared / "colab-constraints.txt")
    before = booted.versions()
    yield booted
    booted.without(booted.versions().keys() - before.keys())


@pytest.fixture(scope="module")
def before(machine):
    return machine.versions()


def texts(outputs, kind="text"):
    return "".join("".join(output.get(kind, [])) for output in outputs)


def errors(cells):
    return [output for outputs in cells.values() for output in outputs if output["output_type"] == "error"]


def test_both_opencvs_are_there_as_on_colab(before):
    assert before["opencv-python"].startswith("5.0") and before["opencv-contrib-python"].startswith("4.14")
    assert before["ipywidgets"] == "7.7.1" and not before.keys() & ADDED


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all_replaces_nothing(machine, before, path):
    if path.stem in ON_A_BARE_MACHINE:
        machine.without(machine.versions().keys() - before.keys())
    form = {"preset": "quick", "workdir": str(machine.content / "work"), "overrides": " ".join(pipeline.TINY)}
    if "steps" in form_of(path):
        form["steps"] = 20
    cells = machine.run(path.stem, **form)

    assert not errors(cells), errors(cells)[0]["traceback"][-1]
    red = [output["text"] for outputs in cells.values() for output in outputs if output.get("name") == "stderr"]
    assert not red
    assert "Python 3.13" in texts(cells["bootstrap"]) and cells["written"]
    assert (machine.content / REPO_SLUG.split("/")[1] / "kd_utils" / "colab.py").is_file(), "the bootstrap cloned"

    after = machine.versions()
    changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
    assert not changed and after.keys() >= ADDED


@pytest.mark.parametrize(
    "wrong, said", [("refused", "could not be mounted (mount failed)"), ("nothing", "did not appear")]
)
def test_a_drive_that_fails_is_one_sentence(machine, wrong, said):
    cells = machine.run("05_sharpen", until="config", wrong=wrong, drive=True)
    (error,) = errors(cells)
    assert error["ename"] == "ColabError" and said in error["evalue"] and "untick `drive`" in error["evalue"]


def test_an_upload_that_fails_is_one_sentence(machine):
    cells = machine.run("05_sharpen", until="upload", wrong="closed", upload=True)
    (error,) = errors(cells)
    assert error["ename"] == "ColabError" and "run this cell again" in error["evalue"]


def test_an_uploaded_photo_is_sharpened_and_drive_keeps_it(machine):
    cells = machine.run("05_sharpen", until="sharpen", upload=True, drive=True, workdir=str(machine.content / "mine"))
    assert not errors(cells), errors(cells)[0]["evalue"]
    assert "Google Drive keeps" in texts(cells["config"])
    kept = machine.content / "drive" / "MyDrive" / "ImageSharpening-KD" / "mine"
    assert (kept / "sharpened" / "mine (1).png").is_file()
