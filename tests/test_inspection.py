"""`doctor WORKDIR` on a finished work folder, and on each kind of damage."""

import shutil

import pytest

from kd_utils.__main__ import main
from kd_utils.training import checkpoints


@pytest.fixture
def work(labelled, trained, tmp_path):
    cfg, _, _ = trained
    shutil.copytree(cfg.path(), tmp_path / "w")  # what the links lead to, too
    return tmp_path / "w"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def states(out):
    return {" ".join(line.split()[:3]) for line in out.splitlines()}


def test_a_whole_work_folder(work, capsys):
    assert main(["doctor", str(work)]) == 0
    out = capsys.readouterr().out
    for line in (
        "good       crops",
        "good       labels",
        "good       student",
        "good       baseline",
        "the newest of step 12",
    ):
        assert line in out
    assert main(["doctor", str(work / "none")]) == 2


def test_every_damage_is_named_with_its_remedy(work, capsys):
    for path in ("crops/train-00000.safetensors", "labels/valid-00000.safetensors", "student_model.pth"):
        flip(work / path)
    newest = checkpoints.found(work / "train" / "student")[0]
    flip(newest)
    assert main(["doctor", str(work)]) == 1
    out = capsys.readouterr().out
    for part in (
        "1 of 4 shards (train-00000.safetensors): step 1",
        "1 of 2 shards (valid-00000.safetensors): step 2",
        "student_model.pth is damaged",
        f"{newest}: delete it",
        "2 whole, the newest of step 10",
    ):
        assert part in out, out
    (work / "crops" / "index.json").write_text("[" * 100_000)
    assert main(["doctor", str(work)]) == 1
    assert "index.json cannot be read" in capsys.readouterr().out
