"""What a training begins from: a file, the teacher cut down, or nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import config, difference

from kd_utils import label, train
from kd_utils.common import files
from kd_utils.common.errors import ConfigError, TrainError
from kd_utils.config import make
from kd_utils.data import crops
from kd_utils.models import student, teacher
from kd_utils.models.student import StudentError
from kd_utils.own_files import shipped
from kd_utils.training import initialization


@pytest.fixture
def rrdb(tmp_path):
    """A teacher of anime_6B's kind, out of which no student can be cut."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.save({"params_ema": RRDBNet(num_filters=8, num_blocks=1).state_dict()}, tmp_path / "rrdb.pth")
    return tmp_path / "rrdb.pth"


def test_it_starts_from_a_student_file(labelled, trained, tmp_path):
    cfg = config(
        labelled, tmp_path, f"train.init={trained[1].student} train.lr=1e-9 train.lr_end=1e-9 train.baseline=no"
    )
    assert difference(train.train(cfg).student, trained[1].student) < 1e-5
    more = "train.lr=1e-9 train.lr_end=1e-9 train.steps=2 train.baseline=no"
    grown = train.train(config(labelled, tmp_path / "m", f"train.init={trained[1].student} student.size=m {more}"))
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(student.load(grown.student)(x), student.load(trained[1].student)(x), atol=1e-5, rtol=0)
    # what the file holds counts, not where it lies
    moved = Path(shutil.copy(trained[1].student, tmp_path / Path(trained[1].student).name))
    again = make("quick", f"{labelled[1]} train.init={moved} student.size=m {more}", workdir=str(tmp_path / "m"))
    assert train.train(again).student == grown.student
    student.save(student.load(grown.student), moved)
    other = train.train(again)
    assert other.history.parent != grown.history.parent, "what begins as another file gets a folder of its own"
    with pytest.raises(TrainError, match="24, 8 convolutions and scale 4, which cannot become student.size=16x9"):
        train.train(config(labelled, tmp_path / "x", f"train.init={trained[1].student} student.size=16x9"))


def test_it_starts_from_a_larger_student_cut_down(labelled, trained, tmp_path):
    more = "student.size=16x4 train.steps=2 train.lr=1e-9 train.lr_end=1e-9 train.baseline=no"
    cut = train.train(config(labelled, tmp_path / "cut", f"train.init={trained[1].student} {more}"))
    fresh = train.train(config(labelled, tmp_path / "fresh", more))
    net = student.load(cut.student)
    assert (net.feat, net.convs) == (16, 4) and net.meta["provenance"]["train.init_sha256"]
    near, far = (files.read_json(o.history)["valid"][-1]["psnr_y_teacher"] for o in (cut, fresh))
    assert near > far + 1


def test_it_starts_from_its_teacher_cut_down(labelled, tmp_path, monkeypatch):
    more = "train.init=teacher student.size=16x4 train.steps=4 train.lr=1e-5 train.lr_end=1e-5 train.baseline=no"
    cfg = config(labelled, tmp_path, more)
    out = train.train(cfg)
    fresh = train.train(config(labelled, tmp_path / "fresh", more.replace("train.init=teacher", "")))
    cut, new = (files.read_json(o.history)["valid"][-1]["psnr_y_teacher"] for o in (out, fresh))
    assert cut > new + 3
    made = student.load(out.student).meta["provenance"]
    assert made["train.init"] == "teacher" and "train.init_sha256" not in made
    # what goes on from a checkpoint is not cut again
    monkeypatch.setattr(initialization, "ENOUGH", 1000)
    with pytest.raises(TrainError, match="crops of data.crop=32 are too few .* raise data.crops_per_photo, or leave"):
        train.train(config(labelled, tmp_path / "few", more))
    first = out.student.rename(tmp_path / "first.pth")
    monkeypatch.setattr(initialization.pruning, "prune", None)
    assert difference(train.train(cfg).student, first) == 0
    # and what began so is not taken for what began otherwise
    for init in ("", first):
        other = train.train(config(labelled, tmp_path, more.replace("init=teacher", f"init={init}")))
        assert other.history.parent != out.history.parent


def test_a_teacher_of_another_kind_is_no_beginning(labelled, tmp_path, rrdb):
    cfg = config(labelled, tmp_path, f"teacher={rrdb} train.init=teacher")
    with pytest.raises(teacher.TeacherError, match="rrdb is of the kind ESRGAN, and only a RealESRGAN Compact can be"):
        label.label(cfg)
    for step in (label.label, train.train):  # said before the labels are made, too
        with pytest.raises(StudentError, match="student.size=32x14 cannot be cut out of a x4 network of 24x8: neither"):
            step(config(labelled, tmp_path / "m", "train.init=teacher student.size=m"))


def test_auto_begins_as_the_teacher_where_that_can_be(labelled, tmp_path, rrdb):
    index = crops.read_index(config(labelled, tmp_path))

    def resolved(more, index):
        cfg = make("quick", f"{labelled[1]} train.init=auto {more}")
        return initialization.resolve_init(cfg, index, teacher.find_teacher(cfg.teacher)).train.init

    inits = [resolved(more, index) for more in ("", "student.size=m", "scale=1", f"teacher={rrdb}")]
    assert inits == ["teacher", "", "", ""]
    few = [replace(shard, count=2) for shard in index.of_split("train")[:1]]
    assert resolved("", replace(index, shards=few + index.of_split("valid"))) == ""
    out = train.train(config(labelled, tmp_path, "train.init=auto train.steps=2 train.baseline=no"))
    assert student.load(out.student).meta["provenance"]["train.init"] == "teacher"


def test_shipped_is_the_student_of_its_size_by_its_teacher(labelled, tmp_path, capsys):
    index = crops.read_index(config(labelled, tmp_path))

    def resolved(more):
        cfg = make("quick", f"{labelled[1]} train.init=shipped {more}")
        ref = teacher.TeacherRef(name, tmp_path, sha256)
        return Path(initialization.resolve_init(cfg, index, ref, quiet=False).train.init).name

    name, sha256 = "anime_6B", "0"
    assert resolved("student.size=m") == "student_x4_anime_m.pth" and not capsys.readouterr().out
    assert resolved("student.size=32x14") == "student_x4_anime_m.pth"
    assert resolved("student.size=l") == "student_x4_anime_l.pth"
    name = "animevideov3"
    assert resolved("student.size=l") == "student_x4_photo_l.pth"
    assert "No student of this size that animevideov3 taught ships" in capsys.readouterr().out
    name = "general_x4v3"
    assert resolved("student.size=m") == "student_x4_photo_m.pth"
    name, sha256 = "mine", student.load(shipped("student_x4_anime_m.pth")).meta["teacher_sha256"]
    assert resolved("student.size=m") == "student_x4_anime_m.pth", "by its bytes, whatever its name"
    assert resolved("student.size=s scale=1") == "student_x1_photo_s.pth"
    assert resolved("student.size=s scale=2") == "student_x2_photo_s.pth"
    with pytest.raises(ConfigError, match="no student of size 8x2 and scale 4 ships"):
        resolved("student.size=8x2")


@pytest.mark.parametrize(("more", "shape"), [("scale=2", (24, 8, 2)), ("scale=1 student.size=m", (32, 14, 1))])
def test_a_student_of_scale_4_begins_one_of_a_smaller_scale(more, shape):
    cfg = make("quick", f"train.init={shipped('student_x4_photo_s.pth')} {more}")
    net = initialization.initial_student(cfg, None, None, torch.device("cpu"))  # neither teacher nor crops are asked
    assert (net.feat, net.convs, net.scale) == shape

    x = torch.rand(1, 3, 16, 16)
    plain = torch.nn.functional.interpolate(x, scale_factor=net.scale)
    assert (net.eval()(x) - plain).abs().mean() > 0.01, "it does not begin as plain enlargement"


def test_a_training_from_a_shipped_student_says_which(labelled, tmp_path):
    more = "train.init=shipped train.steps=2 train.lr=1e-9 train.lr_end=1e-9 train.baseline=no"
    out = train.train(config(labelled, tmp_path, more))
    made = student.load(out.student).meta["provenance"]
    assert made["train.init"] == "student_x4_photo_s.pth"
    assert made["train.init_sha256"] == files.sha256(shipped("student_x4_photo_s.pth"))
    assert difference(out.student, shipped("student_x4_photo_s.pth")) < 1e-5
