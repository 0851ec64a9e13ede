"""What a notebook does through `colab`: Drive, the settings of its form, the choice of a student, forecasts."""

from __future__ import annotations

import re
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.training import config

from kd_utils import colab, forecast, train
from kd_utils.common import files
from kd_utils.common.errors import ConfigError, UsageError
from kd_utils.config import PRESETS
from kd_utils.models import shipped, student
from kd_utils.training import drive
from kd_utils.training.validation import TRAINING_FILES


def test_drive_is_opt_in_and_loud_when_off(google, capsys):
    assert colab.mount_drive(False) is None and not google.mounted
    assert "NOT PERSISTED" in capsys.readouterr().out
    folder = colab.mount_drive(True, "/content/somewhere/run1")
    assert folder == colab.MOUNT / "MyDrive" / "ImageSharpening-KD" / "run1" and folder.is_dir()
    assert colab.mount_drive(True, "run1") == folder and len(google.mounted) == 1, "mounted once"


def test_a_drive_that_cannot_be_mounted_is_one_clear_error(google):
    def refuse(place):
        raise ValueError("mount failed")

    google.drive.mount = refuse
    with pytest.raises(colab.ColabError, match=r"could not be mounted \(mount failed\).*untick `drive`"):
        colab.mount_drive(True)
    google.drive.mount = lambda place: None
    with pytest.raises(colab.ColabError, match="MyDrive did not appear"):
        colab.mount_drive(True)


def test_the_end_offers_to_finish_the_upload(google, tmp_path, capsys, monkeypatch):
    kept = colab.mount_drive(True, "run1")
    monkeypatch.setattr(drive, "COLAB", colab.MOUNT)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    colab.offer_flush(None)
    assert not shown
    colab.offer_flush(kept)
    button = shown[0]
    assert "press the button" in capsys.readouterr().out and not hasattr(google, "flushed")
    button.click()
    assert google.flushed and "Google Drive has everything" in capsys.readouterr().out
    # nothing is written to where Drive was
    here = tmp_path / "w"
    drive.Drive(here, kept).copy(files.write_bytes(here / "student_model.pth", b"student"))
    assert "NOT KEPT" in (said := capsys.readouterr().out) and "not mounted" in said and not kept.exists()
    assert colab.mount_drive(True, "run1") == kept and len(google.mounted) == 2

    def fail():
        raise ValueError("timed out")

    google.drive.flush_and_unmount = fail
    with pytest.raises(colab.ColabError, match="did not take everything .timed out.: press again"):
        colab.flush_drive()


def test_off_colab_there_is_no_drive(capsys):
    assert colab.mount_drive(False) is None and capsys.readouterr().out == ""
    assert colab.mount_drive(True) is None and "drive=/some/folder" in capsys.readouterr().out


def test_students_kept_on_drive_come_back(ran, tmp_path, capsys):
    drive = tmp_path / "drive"
    (drive / "train" / "no_teacher").mkdir(parents=True)
    (drive / "train" / "student").mkdir()
    curves = [Path("train", run, name) for run in ("student", "no_teacher") for name in TRAINING_FILES]
    students = [Path("student_model.pth"), Path("train", "no_teacher", "student_model.pth")]
    for name in [*students, *curves]:
        shutil.copy(ran.workdir / name, drive / name)
    cfg = colab.configure("quick", "train.lr=3e-4", str(tmp_path / "w"), drive, steps=0, teacher="", size="m")
    assert (cfg.train.steps, cfg.teacher, cfg.student.size) == (PRESETS["quick"]["train.steps"], "anime_6B", "m")
    for name in [*students, *curves]:
        assert cfg.path(name).read_bytes() == (ran.workdir / name).read_bytes()
    assert "student m x4" in capsys.readouterr().out


def test_paths_are_those_of_the_folder_that_the_notebook_was_opened_in(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(colab, "absolute", partial(colab.absolute, base=tmp_path))
    cfg = colab.configure("quick", "", str(tmp_path / "w"), photos="mine", teacher="general_x4v3")
    assert (cfg.data.photos, cfg.teacher) == (str(tmp_path / "mine"), "general_x4v3")
    said = capsys.readouterr().out
    assert "photos" in said and "steps" not in said, "only what the form sets"


def test_sharpening_takes_your_own_student_where_it_serves(tmp_path, capsys):
    cfg = colab.configure("quick", "", str(tmp_path))
    assert colab.pick_student(cfg) == ("", 4) and colab.pick_student(cfg, 1) == ("", 1)
    own = str(student.save(student.Student(8, 2, 4), cfg.path("student_model.pth")))
    assert [colab.pick_student(cfg, s) for s in (0, 4, 2)] == [(own, 4), (own, 4), (own, 2)]
    assert colab.pick_student(cfg, 1) == ("", 1) and "is of scale 4" in capsys.readouterr().out
    student.save(student.Student(8, 2, 1), cfg.path("student_model.pth"))
    assert colab.pick_student(cfg) == (own, 1) and colab.pick_student(cfg, 4) == ("", 4)


def test_a_model_of_ones_choice(tmp_path):
    cfg = colab.configure("quick", "", str(tmp_path))
    assert colab.pick_student(cfg, 0, "anime-m") == (str(shipped.find_student("anime-m")), 4)
    assert colab.pick_student(cfg, 1, "s") == (str(shipped.find_student("s", 1)), 1)
    with pytest.raises(ConfigError, match="neither a file nor one of photo-s, .*did you mean 'anime-m'"):
        colab.pick_student(cfg, 0, "animem")
    own = student.save(student.Student(8, 2, 4), cfg.path("student_model.pth"))
    alone = student.save(student.Student(8, 2, 4), cfg.path("train", "no_teacher", "student_model.pth"))
    models = colab.models_to_compare(cfg, own, 4)
    assert list(models)[:3] == ["bicubic", "yours", "baseline"] and models["baseline"] == str(alone)
    assert list(models)[3:] == shipped.shipped_names()
    assert list(colab.models_to_compare(cfg, shipped.find_student("m"), 4))[:3] == ["bicubic", "photo-m", "yours"]
    assert list(colab.models_to_compare(cfg, shipped.find_student("s", 1), 1)) == ["bicubic", "photo-s"]


def test_what_is_downloaded_and_how_long_is_said_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    form = {"photos": "", "teacher": "", "size": "", "steps": 0}
    colab.configure("colab", "", str(tmp_path), **form)
    said = capsys.readouterr().out
    assert "Downloads 4.6 GB first (div2k_train, div2k_valid, anime_6B, vgg19)" in said
    assert re.search(r"NO GPU: On this CPU the training takes about \d+ (hours|days)\.", said) and "T4 GPU" in said
    assert "GB on Google Drive" not in said

    colab.configure("quick", "", str(tmp_path), **form)
    colab.configure("colab", "", str(tmp_path))  # notebook 05 trains nothing and needs no GPU
    said = capsys.readouterr().out
    assert "Downloads" not in said and "NO GPU" not in said and "hours" not in said


def test_what_drive_will_hold_is_said_before(tmp_path, capsys):
    colab.configure("colab", "", str(tmp_path), tmp_path / "drive", True, photos="")
    assert "Crops and labels will take about 1.8 GB on Google Drive" in capsys.readouterr().out
    colab.configure("colab", "", str(tmp_path), None, True, photos="")
    assert "drive_data keeps nothing without `drive`" in capsys.readouterr().out


def test_the_forecast_of_a_training_is_near_what_it_takes(labelled, tmp_path):
    cfg = config(labelled, tmp_path, "student.size=m train.steps=12 train.batch=8 train.baseline=no loss.perceptual=0")
    before = torch.random.get_rng_state()
    said = forecast.training_seconds(cfg)
    assert torch.equal(before, torch.random.get_rng_state()), "what is timed changes no training"
    began = time.perf_counter()
    train.train(cfg)
    assert said / 8 < time.perf_counter() - began < 30 * said + 20


def test_papermill_cannot_set_what_the_form_does_not_have():
    form = '# @title Settings\npreset: str = "quick"\nsteps: int = 0\n'
    colab.refuse_unknown_parameters(["", form, "import os\nmine = 3", "!pip list"])
    colab.refuse_unknown_parameters(["", form, "# Parameters\nsteps = 30\n"])
    with pytest.raises(UsageError, match="unknown key 'step': did you mean 'steps'"):
        colab.refuse_unknown_parameters(["", form, "# Parameters\nstep = 30\n"])
