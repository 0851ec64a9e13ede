"""Labels by ncnn beside labels by PyTorch: the same pictures to a level, and never mixed in one work folder."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.training import TINY

from kd_utils import label, prepare
from kd_utils.common import files
from kd_utils.common.errors import ConfigError, StoreError, TeacherError
from kd_utils.config import make
from kd_utils.data.crops import read_index
from kd_utils.models import ncnn_run, student
from kd_utils.models.ncnn import rrdbnet
from kd_utils.models.teacher import find_teacher, load_teacher
from kd_utils.workdir import Workdir


@pytest.fixture(scope="module")
def rrdb(tmp_path_factory):
    """A small RRDBNet of random weights under the official names, as RealESRGAN_x4plus.pth holds them."""
    torch.manual_seed(1)
    state = {}
    for layer in rrdbnet(feat=8, grow=32, blocks=1):
        if layer.kind == "Convolution":
            cout = layer.settings[0]
            state[f"{layer.name}.weight"] = 0.05 * torch.randn(cout, layer.settings[6] // cout // 9, 3, 3)
            state[f"{layer.name}.bias"] = 0.1 * torch.randn(cout)
    path = tmp_path_factory.mktemp("teacher") / "rrdb.pth"
    torch.save({"params_ema": state}, path)
    return path


@pytest.fixture(scope="module")
def crops(tmp_path_factory, rrdb):
    cfg = make("quick", f"{TINY} teacher={rrdb} label.dtype=fp32 device=cpu", workdir=str(tmp_path_factory.mktemp("w")))
    prepare.prepare(cfg)
    return cfg


def copy_of(cfg, folder, **settings):
    """The same crops in another work folder."""
    folder.mkdir()
    (folder / "crops").symlink_to(Workdir.of(cfg).crops)
    return dataclasses.replace(cfg, workdir=str(folder), label=dataclasses.replace(cfg.label, **settings))


def labels_of(cfg) -> np.ndarray:
    shards = read_index(cfg).shards
    return np.concatenate([files.load_arrays(Workdir.of(cfg).labels / s.file, verify=True)[0]["label"] for s in shards])


def test_labels_by_ncnn_are_those_by_torch(crops, tmp_path):
    by_torch = copy_of(crops, tmp_path / "torch")
    by_ncnn = copy_of(crops, tmp_path / "ncnn", engine="ncnn")
    label.label(by_torch)
    label.label(by_ncnn)

    a, b = labels_of(by_torch).astype(int), labels_of(by_ncnn)
    assert a.std() > 5  # a picture
    assert np.abs(a - b).max() <= 1 and (a != b).mean() < 0.001

    # in other batches the bytes are the same
    again = copy_of(crops, tmp_path / "again", engine="ncnn", batch=1)
    label.label(again)
    for shard in read_index(crops).shards:
        assert files.sha256(Workdir.of(again).labels / shard.file) == files.sha256(
            Workdir.of(by_ncnn).labels / shard.file
        )

    # only what is not PyTorch is recorded; another engine's labels are refused, and auto goes on with what is there
    assert "label.engine" not in files.read_json(Workdir.of(by_torch).label_index)
    assert files.read_json(Workdir.of(by_ncnn).label_index)["label.engine"] == "ncnn"
    mixed = dataclasses.replace(by_ncnn, label=crops.label)
    with pytest.raises(StoreError, match='label.engine was "ncnn"'):
        label.label(mixed)
    for there in (by_torch, by_ncnn):
        auto = dataclasses.replace(there, label=dataclasses.replace(crops.label, engine="auto"))
        assert label.label(auto).made == 0
        work = Workdir.of(auto)
        label.require_labels(auto, work, read_index(auto), find_teacher(auto.teacher))


def test_auto_takes_ncnn_on_a_cpu(crops, tmp_path, rrdb):
    new = copy_of(crops, tmp_path / "new", engine="auto")
    ref = find_teacher(str(rrdb))
    choose = label.choose_engine
    assert choose(new, Workdir.of(new), ref, label.devices.resolve_runtime("cpu", "fp32")) == "ncnn"
    assert choose(new, Workdir.of(new), ref, label.devices.resolve_runtime("cpu", "bf16")) == "torch"
    explicit = copy_of(crops, tmp_path / "explicit", engine="ncnn")
    with pytest.raises(ConfigError, match="computes on the CPU, not on meta"):
        choose(explicit, Workdir.of(explicit), ref, label.devices.resolve_runtime("meta", "fp32"))
    with pytest.raises(ConfigError, match="computes in fp32"):
        make("quick", "label.engine=ncnn label.dtype=bf16")


def test_a_compact_teacher_and_one_that_ncnn_cannot_run(tmp_path):
    torch.manual_seed(2)
    teacher = load_teacher(find_teacher(str(student.save(student.build("8x2"), tmp_path / "t.pth"))))
    assert ncnn_run.can_run(teacher.ref.path)
    x = torch.rand(2, 3, 20, 12)
    assert (ncnn_run.load(teacher)(x) - teacher.net(x)).abs().max() < 1e-5

    x2 = student.save(student.build("8x2", scale=2), tmp_path / "x2.pth")
    assert not ncnn_run.can_run(x2)
    teacher.ref = dataclasses.replace(teacher.ref, path=x2)
    with pytest.raises(TeacherError, match="can be written for ncnn; or set label.engine=torch"):
        ncnn_run.load(teacher)


def test_what_computes_something_else_is_refused(tmp_path, rrdb):
    teacher = load_teacher(find_teacher(str(rrdb)))
    with torch.no_grad():
        next(teacher.net.parameters()).mul_(0.5)
    with pytest.raises(TeacherError, match="levels of 255 from PyTorch's"):
        ncnn_run.load(teacher)
