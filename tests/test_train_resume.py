"""A training that stopped goes on where it was: after a kill, on another device, from Drive."""

import os
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy

import pytest
import torch
from helpers.training import config, difference

from kd_utils import colab, train
from kd_utils.common import devices, files
from kd_utils.training import checkpoints, optimizers

# ---- without Drive


def test_done_work_is_kept(trained):
    cfg, out, _ = trained
    before = out.student.stat().st_mtime_ns
    train.train(cfg)
    assert out.student.stat().st_mtime_ns == before


def test_a_killed_run_goes_on_exactly_where_it_was(labelled, trained, tmp_path):
    cfg = config(labelled, tmp_path, "train.baseline=no")
    sets = f"{labelled[1]} train.baseline=no workdir={tmp_path}"
    code = "import sys; from kd_utils import config, train; train.train(config.make('quick', sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, sets], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not checkpoints.found(tmp_path / "train" / "student") and time.time() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    step, _ = checkpoints.latest(tmp_path / "train" / "student")
    assert 0 < step < 12, "it was not killed midway"
    out = train.train(cfg)
    assert difference(out.student, trained[1].student) == 0
    assert files.read_json(out.history)["loss"] == files.read_json(trained[1].history)["loss"]


def test_a_run_of_an_older_version_or_another_device_goes_on(labelled, trained, tmp_path, monkeypatch):
    cfg = config(labelled, tmp_path, "train.baseline=no")
    train.train(cfg)
    folder = tmp_path / "train" / "student"
    (folder / "student_model.pth").unlink()
    (tmp_path / "student_model.pth").unlink()
    for path in checkpoints.found(folder)[:-1]:
        path.unlink()
    step, state = checkpoints.latest(folder)
    assert step == 8
    del state["provenance"]["loss.perceptual_gt"]  # a key that came later
    state["scaler"] = {}  # from a device that needs none
    checkpoints.save(folder, 8, state, keep=1)
    # where there is one, as on a T4
    monkeypatch.setattr(devices.Runtime, "needs_scaler", True)
    assert difference(train.train(cfg).student, trained[1].student) < 1e-6


@pytest.mark.parametrize("fused", [True, False])
def test_adam_goes_on_on_another_device(fused):
    """A GPU's Adam is fused, a CPU's is not, and fp16's loss scaler needs the one that it was made for."""
    x, scaler, made = torch.ones(3), torch.amp.GradScaler("cpu", init_scale=2.0), []
    for kind in (not fused, fused):
        p = torch.nn.Parameter(torch.zeros(3))
        opt = optimizers.make_optimizer("adam", [p], 0.1, [0.9, 0.99], fused=kind)
        if made:
            optimizers.load_optimizer_state(opt, made[0])
            assert opt.param_groups[0]["fused"] == fused
        scaler.scale((p * x).sum()).backward()
        scaler.step(opt)
        made.append(deepcopy(opt.state_dict()))
    assert made[1]["state"][0]["step"] == 2 and p[0].item() == pytest.approx(-0.1, abs=1e-6)


# ---- with Drive


def test_it_goes_on_from_drive_when_the_machine_is_lost(labelled, trained, tmp_path):
    drive = tmp_path / "drive"
    whole = config(labelled, tmp_path / "a", f"train.baseline=no drive={drive}")
    train.train(whole)
    assert (drive / "student_model.pth").read_bytes() == (tmp_path / "a" / "student_model.pth").read_bytes()
    kept = checkpoints.found(drive / "train" / "student")
    assert len(kept) == 3
    # as if it had stopped before the last one
    for path in (kept[0], drive / "student_model.pth", drive / "train" / "student" / "student_model.pth"):
        path.unlink()
    again = train.train(config(labelled, tmp_path / "b", f"train.baseline=no drive={drive}"))
    assert difference(again.student, trained[1].student) == 0


def test_curve_and_pictures_come_back_too(labelled, tmp_path, capsys):
    drive = tmp_path / "drive"
    cfg = config(labelled, tmp_path / "a", f"train.baseline=no drive={drive}")
    out = train.train(cfg)
    history = out.history.read_text()
    other = config(labelled, tmp_path / "b", "train.baseline=no")
    for name in ("student_model.pth", "train/student/history.json", "train/student/curve.png"):
        assert (drive / name).read_bytes() == cfg.path(name).read_bytes()
    colab.configure("quick", labelled[1], str(tmp_path / "b"), drive)
    assert train.train(other).curve.is_file() and other.path("train/student/valid.png").is_file()
    # lost after the last checkpoint, before the student was written
    for path in (out.student, cfg.path("train/student/student_model.pth"), out.history, out.curve):
        path.unlink()
    shutil.rmtree(drive)
    again = train.train(config(labelled, tmp_path / "a", "train.baseline=no"))
    assert again.curve.is_file() and again.history.read_text() == history


def test_a_drive_that_is_given_later_has_what_was_made_before(labelled, tmp_path):
    train.train(config(labelled, tmp_path / "a"))
    drive = tmp_path / "drive"
    train.train(config(labelled, tmp_path / "a", f"drive={drive}"))
    for name in ("student_model.pth", "train/student/history.json", "train/no_teacher/student_model.pth"):
        assert (drive / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_drive_that_is_gone_ends_nothing(labelled, trained, tmp_path, capsys):
    drive = tmp_path / "drive"
    drive.write_text("a file, where a folder was")
    out = train.train(config(labelled, tmp_path / "a", f"train.baseline=no drive={drive}"))
    assert difference(out.student, trained[1].student) == 0
    said = capsys.readouterr().out
    assert said.count(f"NOT KEPT: {drive} cannot be written (") == 1
    assert f"ONLY HERE, not in {drive}: " in said and str(out.student) in said
