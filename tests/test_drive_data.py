"""Crops and labels on Drive: packed without loss, found by another machine, gone on with after an interruption."""

from __future__ import annotations

import filecmp
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import TINY

from kd_utils import label, prepare
from kd_utils.__main__ import main
from kd_utils.common import files
from kd_utils.common.errors import StoreError
from kd_utils.config import make
from kd_utils.data import packs
from kd_utils.models import student
from kd_utils.training import drive, drive_data


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes the settings of a machine of some name, all of them with one Drive."""
    monkeypatch.setattr(drive_data, "PACK", 60_000)  # several packs of these few crops
    torch.manual_seed(5)
    teacher = student.save(student.build("s"), tmp_path / "teacher.pth")

    def settings(name, more=""):
        sets = f"{TINY} teacher={teacher} drive={tmp_path / 'drive'} drive_data=yes {more}"
        return make("quick", sets, workdir=str(tmp_path / name / "mine"))

    return settings


def same(a, b):
    for part in ("crops", "labels"):
        names = sorted(p.name for p in a.path(part).iterdir())
        assert names == sorted(p.name for p in b.path(part).iterdir())
        assert not filecmp.cmpfiles(a.path(part), b.path(part), names, shallow=False)[1:][0]


def test_the_next_machine_finds_crops_and_labels(machine, monkeypatch, capsys):
    first = machine("first")
    prepare.prepare(first)
    label.label(first)
    said = capsys.readouterr().out
    assert "Keeping the crops on Drive: about" in said and "Keeping the labels on Drive" in said
    folder = Path(first.drive, "data")
    names = sorted(p.name for p in folder.iterdir())
    assert len([n for n in names if n.startswith("crops-20") and "-mine-" in n and n.endswith(".safetensors")]) > 1
    assert not first.path("data").exists(), "nothing waits here"
    raw = sum(p.stat().st_size for part in ("crops", "labels") for p in first.path(part).glob("*.safetensors"))
    assert sum((folder / n).stat().st_size for n in names) < 0.7 * raw

    second = machine("second")
    monkeypatch.setattr(prepare, "split_photos", None)  # no photo is looked for, so none is downloaded
    monkeypatch.setattr(label, "_label_batch", None)
    made = prepare.prepare(second)
    assert made.made == 0 and made.crops == {"train": 24, "valid": 2, "test": 2}
    assert label.label(second).made == 0
    same(first, second)
    assert "come from Drive" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    prepare.prepare(second)  # nothing is brought or sent twice
    assert "Drive" not in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_what_is_damaged_on_drive_is_made_here(machine, capsys):
    first, second = machine("first"), machine("second")
    prepare.prepare(first)
    label.label(first)
    for kind in ("crops", "labels"):
        pack = min(Path(first.drive, "data").glob(f"{kind}-*.safetensors"))
        data = bytearray(pack.read_bytes())
        data[-9] ^= 1
        pack.write_bytes(data)
    made = prepare.prepare(second)
    assert 0 < made.made and 0 < label.label(second).made < 26
    assert capsys.readouterr().out.count("NOT FROM DRIVE") >= 2
    same(first, second)


def test_doctor_verifies_what_is_on_drive(machine, capsys):
    cfg = machine("first")
    prepare.prepare(cfg)
    label.label(cfg)
    capsys.readouterr()
    doctor = ["doctor", cfg.workdir, "--drive", cfg.drive]
    assert main(doctor) == 0
    said = capsys.readouterr().out
    assert re.search(r"good +crops on Drive +\d files, .* MB \(crops-20", said) and "labels on Drive" in said, said

    # another byte in one pack
    folder = Path(cfg.drive, "data")
    pack = min(folder.glob("crops-*.safetensors"))
    (kept,) = folder.glob("crops-*.json")
    data = bytearray(pack.read_bytes())
    data[-9] ^= 1
    pack.write_bytes(data)
    assert main(doctor) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DAMAGED")]
    assert "crops on Drive" in line and f"delete {pack.name} and {kept.name} in {folder}" in line

    # the remedy that it names: the other packs stay, and the step makes the one that lacks
    pack.unlink()
    kept.unlink()
    assert main(doctor) == 0 and "in no list yet: the step goes on with it" in capsys.readouterr().out
    prepare.prepare(cfg)
    assert main(doctor) == 0 and "in no list yet" not in capsys.readouterr().out

    # a pack that is gone
    pack = min(folder.glob("labels-*.safetensors"))
    pack.unlink()
    assert main(doctor) == 1 and f"delete {pack.name} and labels-" in capsys.readouterr().out

    # a list that is none
    (kept,) = folder.glob("crops-*.json")
    kept.write_text('{"some": "thing"}')
    assert main(doctor) == 1 and f"{kept} is no list of packs" in capsys.readouterr().out


def test_what_was_interrupted_goes_on(machine, monkeypatch, capsys):
    first = machine("first")
    whole = files.write_bytes
    sent = []

    def full(path, data):
        if "drive" in Path(path).parts and "data" in Path(path).parts:
            sent.append(Path(path).name)
            if len(sent) > 2:
                raise StoreError(f"{path} cannot be written (No space left on device)")
        return whole(path, data)

    monkeypatch.setattr(drive.files, "write_bytes", full)
    prepare.prepare(first)
    said = capsys.readouterr().out
    assert "NOT KEPT" in said and "ONLY HERE" in said
    assert not list(Path(first.drive, "data").glob("*.json")), "no list promises what is not there"
    monkeypatch.undo()
    monkeypatch.setattr(drive_data, "PACK", 60_000)
    there = {p.name: p.stat().st_mtime_ns for p in Path(first.drive, "data").iterdir()}
    assert len(there) == 2
    prepare.prepare(first)
    after = {p.name: p.stat().st_mtime_ns for p in Path(first.drive, "data").iterdir()}
    assert there.items() <= after.items() and len(list(Path(first.drive, "data").glob("*.json"))) == 1
    assert prepare.prepare(machine("second")).made == 0


def test_photos_of_ones_own_are_found_by_what_they_are(machine, tmp_path, capsys):
    from PIL import Image
    from skimage import data as samples

    shots = tmp_path / "shots"
    shots.mkdir()
    for n in range(24):
        Image.fromarray(samples.astronaut()[n * 8 : n * 8 + 96, 100:220]).save(shots / f"{n}.png")
    own = f"data.photos={shots} data.valid_count=2 data.test_count=2"
    prepare.prepare(machine("first", own))
    assert prepare.prepare(machine("second", own)).made == 0
    Image.fromarray(samples.coffee()[:96, :120]).save(shots / "0.png")
    assert prepare.prepare(machine("third", own)).made > 0
    assert "also keeps crops of other settings" in capsys.readouterr().out


def test_a_drive_without_room_is_said_before(machine, monkeypatch, capsys):
    usage = shutil._ntuple_diskusage(1, 1, 1)
    monkeypatch.setattr(drive_data.shutil, "disk_usage", lambda folder: usage)
    prepare.prepare(machine("first"))
    assert "NOT KEPT" in capsys.readouterr().out and not Path(machine("first").drive, "data").exists()


@pytest.mark.parametrize("shape", [(5, 40, 24, 3), (33, 17, 3), (70,), (0, 8, 8, 3), (2, 3, 5)])
def test_a_pack_gives_back_every_byte(tmp_path, shape):
    rng = np.random.default_rng(0)
    shard = files.save_arrays(
        tmp_path / "a.safetensors", {"x": rng.integers(256, size=shape, dtype=np.uint8)}, {"k": 1}
    )
    pack = packs.write(tmp_path / "pack.safetensors", [shard], {"part": 0})
    assert packs.read_meta(pack)["part"] == 0
    (out,) = packs.unpack(pack, tmp_path / "back")
    assert out.read_bytes() == shard.read_bytes() and packs.unpack(pack, tmp_path / "back") == []
