"""Changing a setting and training again: more steps go on, anything else gets a folder of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers.training import config, difference

from kd_utils import provenance, train
from kd_utils.common import files
from kd_utils.common.errors import EvaluateError
from kd_utils.models import student
from kd_utils.training import checkpoints, folders, losses, optimizers, selection
from kd_utils.training.run import Run
from kd_utils.workdir import BASELINE, STUDENT, Workdir

SMALL = "student.size=8x2 student.expand=0 loss.perceptual=0 train.baseline=no"


def everything(root):
    """The bytes of all that trainings left."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.suffix in (".pt", ".pth")}


def made_of(path):
    return student.load(path).meta["provenance"]


@pytest.fixture(scope="module")
def raised(labelled, tmp_path_factory):
    """12 steps, then 30, undisturbed, with a baseline."""
    root = tmp_path_factory.mktemp("raised")
    for steps in (12, 30):
        trained = train.train(config(labelled, root, f"{SMALL} train.baseline=yes train.steps={steps} loss.gt_end=0.5"))
    return root, trained


def test_more_steps_go_on_from_the_newest_checkpoint(raised):
    root, trained = raised
    made = made_of(trained.student)
    assert made["train.steps"] == 30 and made["train.chain"] == [[12, 12]]
    assert made_of(trained.baseline)["train.chain"] == [[12, 12]]

    # the student of 12 steps stays, under its own name and with its own curve
    kept = root / "train" / "student-steps=12"
    assert made_of(kept / "student_model.pth")["train.steps"] == 12
    assert files.read_json(kept / "history.json")["step"][-1] == 12
    assert (root / "train" / "no_teacher-steps=12" / "student_model.pth").is_file()
    assert trained.student == root / "student_model.pth"
    assert trained.student.read_bytes() == (root / "train" / "student" / "student_model.pth").read_bytes()

    # the learning rate rises in a tenth of the 18 new steps, and falls to the end
    history = files.read_json(trained.history)
    assert history["step"] == list(range(1, 31)) and history["lr"][12] == max(history["lr"]) == 1e-3
    assert history["lr"][29] < 1e-4 < history["lr"][20]
    assert [v["step"] for v in history["valid"]] == [6, 12, 18, 24, 30]
    assert [p.name[:13] for p in checkpoints.found(root / "train" / "student")][0] == "step-00000030"


def test_what_rises_and_falls_counts_from_the_new_part(labelled, tmp_path):
    cfg = config(labelled, tmp_path, f"{SMALL} train.steps=30 loss.gt=0.1 loss.gt_end=0.5 train.warmup=50")
    whole = Run(cfg, STUDENT, *[None] * 7)
    assert whole.part is cfg and whole.begin == 0
    run = Run(cfg, STUDENT, *[None] * 7, chain=([8, 8], [20, 10]))
    assert run.begin == 10 and (run.part.train.steps, run.part.train.warmup) == (20, 2)
    assert [losses.original_weight(run.part, step) for step in (0, 19)] == pytest.approx([0.1, 0.5])


@pytest.mark.parametrize("after", [12, 22])
def test_killed_and_resumed_equals_undisturbed(labelled, raised, tmp_path, after):
    """SIGKILL at or soon after a checkpoint of the first, or of the second part."""
    sets = f"{labelled[1]} {SMALL} loss.gt_end=0.5 workdir={tmp_path}"
    config(labelled, tmp_path)
    code = "import sys; from kd_utils import config, train; train.train(config.make('quick', sys.argv[1]))"
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=12 loss.gt_end=0.5"))

    child = subprocess.Popen(
        [sys.executable, "-c", code, f"{sets} train.steps=30"], stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    child.stdout.readline()  # "goes on"
    deadline = time.time() + 120
    while time.time() < deadline and child.poll() is None:
        found = checkpoints.found(tmp_path / "train" / "student")
        if int(found[0].name[5:13]) >= after:
            break
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    newest = checkpoints.found(tmp_path / "train" / "student")[0].name
    assert newest < "step-00000030", "it was not killed midway"

    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=30 loss.gt_end=0.5"))
    undisturbed = {path: data for path, data in everything(raised[0]).items() if "no_teacher" not in str(path)}
    assert everything(tmp_path) == undisturbed


def test_an_unfinished_training_goes_on_with_more_steps(labelled, raised, tmp_path):
    """Of 12 steps 10 are there: the new part begins at 10."""
    config(labelled, tmp_path)
    source = raised[0] / "train" / "student"
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=12"))
    folder = tmp_path / "train" / "student"
    for path in (*folder.glob("*.pth"), tmp_path / "student_model.pth", checkpoints.found(folder)[0]):
        path.unlink()
    out = train.train(config(labelled, tmp_path, f"{SMALL} train.steps=20"))
    assert made_of(out.student)["train.chain"] == [[12, 10]]
    assert [p.name for p in (tmp_path / "train").iterdir()] == ["student"] and source.is_dir()


def test_fewer_steps_and_other_settings_get_a_folder_of_their_own(labelled, raised, tmp_path, capsys):
    shutil.copytree(raised[0], tmp_path / "w", symlinks=True)
    root = tmp_path / "w"
    before = everything(root)
    again = f"{SMALL} train.baseline=yes loss.gt_end=0.5"

    # what was trained already is found: the student of 12 steps, and again that of 30
    first = train.train(config(labelled, root, f"{again} train.steps=12"))
    assert made_of(first.student)["train.steps"] == 12 and first.history.parent.name == "student-steps=12"
    assert f"{root}/student_model.pth is now the student of {root}/train/student-steps=12" in capsys.readouterr().out
    assert first.baseline == root / "train" / "no_teacher-steps=12" / "student_model.pth"
    train.train(config(labelled, root, f"{again} train.steps=30"))
    assert everything(root) == before

    # fewer steps, and another loss: the baseline does not see that one, and stays
    train.train(config(labelled, root, f"{again} train.steps=8"))
    out = train.train(config(labelled, root, f"{again} train.steps=30 loss.fft=0.25"))
    said = capsys.readouterr().out
    assert "train.steps was 30, now 8): it trains in" in said and "loss.fft was 0.0, now 0.25): it trains in" in said
    names = {p.name for p in (root / "train").iterdir()}
    assert names == {
        *("student", "student-steps=12", "student-steps=8", "student-fft=0.25"),
        *("no_teacher", "no_teacher-steps=12", "no_teacher-steps=8"),
    }
    assert out.baseline == root / "train" / "no_teacher" / "student_model.pth"
    after = everything(root)
    assert all(
        after[path] == data for path, data in before.items() if path.name != "student_model.pth" or path.parts[1:]
    )
    assert made_of(root / "student_model.pth")["loss.fft"] == 0.25


def test_an_older_work_folder_goes_on(labelled, raised, tmp_path):
    """The student lay at the top alone."""
    out = train.train(config(labelled, tmp_path, f"{SMALL} train.steps=12"))
    own = tmp_path / "train" / "student" / "student_model.pth"
    data = own.read_bytes()
    own.unlink()
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=12"))
    assert own.read_bytes() == data == out.student.read_bytes()
    own.unlink()
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=14"))
    assert (tmp_path / "train" / "student-steps=12" / "student_model.pth").read_bytes() == data


def test_a_size_that_means_another_shape_now_trains_in_its_own_folder(labelled, tmp_path, monkeypatch, capsys):
    """Older trainings recorded the letter of a size; what it meant then counts."""
    out = train.train(config(labelled, tmp_path, f"{SMALL} train.steps=4"))
    own = tmp_path / "train" / "student" / "student_model.pth"
    net = student.load(own)
    assert net.meta["provenance"]["student.size"] == "8x2"
    net.meta["provenance"]["student.size"] = "s"
    for path in (own, out.student):
        student.save(net, path, net.meta)
    data = own.read_bytes()

    monkeypatch.setattr(provenance, "SIZES_BEFORE", {"s": "8x2"})
    monkeypatch.setattr(student, "SIZES", {"s": (16, 2)})
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=4"))
    assert own.read_bytes() == data
    out = train.train(config(labelled, tmp_path, f"{SMALL} train.steps=4 student.size=s"))
    assert 'student.size was "8x2", now "16x2"): it trains in' in capsys.readouterr().out
    assert student.load(tmp_path / "train" / "student-size=s" / "student_model.pth").feat == 16
    assert own.read_bytes() == data and made_of(out.student)["student.size"] == "16x2"


def test_drive_follows_and_gives_back(labelled, tmp_path):
    drive = tmp_path / "drive"
    here = tmp_path / "a"
    for more in ("train.steps=12", "train.steps=16", "train.steps=16 train.lr=2e-3"):
        train.train(config(labelled, here, f"{SMALL} drive={drive} {more}"))
    there = everything(drive)
    assert there == everything(here) and len([p for p in there if p.suffix == ".pth"]) == 4

    # on a new machine: each is found as it was, and the student that is newer on Drive replaces an older one
    other = config(labelled, tmp_path / "b", f"{SMALL} drive={drive} train.steps=16 train.lr=2e-3")
    train.train(other)
    assert {p: d for p, d in everything(tmp_path / "b").items() if p.suffix == ".pth"} == {
        p: d for p, d in there.items() if p.suffix == ".pth"
    }
    train.train(config(labelled, here, f"{SMALL} drive={drive} train.steps=16"))
    folders.restore(Workdir.of(other))
    assert (tmp_path / "b" / "student_model.pth").read_bytes() == (here / "student_model.pth").read_bytes()


def test_a_damaged_student_is_made_again(labelled, tmp_path, capsys):
    out = train.train(config(labelled, tmp_path, f"{SMALL} train.steps=4"))
    whole = out.student.read_bytes()
    for path in (out.student, out.history.parent / "student_model.pth"):
        path.write_bytes(whole[:2000])
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=4"))
    assert out.student.read_bytes() == whole
    assert "Its checkpoints are looked at instead" in capsys.readouterr().out


def test_which_student_is_looked_at(labelled, raised):
    root, trained = raised
    work = Workdir(root)
    for given, want in (
        ("", root / "student_model.pth"),
        ("student-steps=12", root / "train" / "student-steps=12" / "student_model.pth"),
        (str(trained.baseline), trained.baseline),
    ):
        path = selection.require_student(config(labelled, root, f"eval.student={given}"))
        assert path == want
    assert selection.folder_of(work, root / "student_model.pth") == root / "train" / "student"
    with pytest.raises(EvaluateError, match="eval.student=nobody is no file.*student, student-steps=12"):
        selection.require_student(config(labelled, root, "eval.student=nobody"))
    assert [len(folders.students(work, kind)) for kind in (STUDENT, BASELINE)] == [2, 2]
    assert difference(*folders.students(work, STUDENT)) > 0


def test_the_rate_of_a_short_second_part_falls_to_its_end(labelled, tmp_path):
    """The warm-up of a part is at most a tenth of it: it never ends at the top."""
    train.train(config(labelled, tmp_path, f"{SMALL} train.steps=4 train.warmup=50"))
    out = train.train(config(labelled, tmp_path, f"{SMALL} train.steps=14 train.warmup=50"))
    rates = files.read_json(out.history)["lr"][4:]
    assert max(rates) == rates[0] == rates[1] == 1e-3 and rates[-1] < 1e-4
    assert optimizers.learning_rate(config(labelled, tmp_path, "train.warmup=50").train, 3) < 1e-3
