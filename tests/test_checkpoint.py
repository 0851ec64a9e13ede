import subprocess

import pytest
import torch

from kd_utils.common import files
from kd_utils.training import checkpoints
from kd_utils.training.drive import Drive


def test_rotation_drive_copy_and_fallback(tmp_path, capsys):
    here, drive = tmp_path / "here", tmp_path / "drive"
    drive.mkdir()
    for step in (5, 10, 15, 20):
        checkpoints.save(here, step, {"w": torch.full((2,), step)}, keep=3, drive=Drive(here, drive))
    names = [p.name[:13] for p in checkpoints.found(here)]
    assert names == ["step-00000020", "step-00000015", "step-00000010"]
    assert [p.name for p in checkpoints.found(drive)] == [p.name for p in checkpoints.found(here)]
    step, state = checkpoints.latest(here)
    assert step == 20 and state["w"].tolist() == [20, 20]

    newest = checkpoints.found(here)[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert checkpoints.latest(here)[0] == 15
    assert f"{newest} is damaged" in capsys.readouterr().out
    assert checkpoints.latest(here, drive)[0] == 20  # the whole copy on Drive serves

    for p in checkpoints.found(here):
        p.write_bytes(b"")
    assert checkpoints.latest(here) is None
    assert checkpoints.latest(tmp_path / "none") is None
    (here / "step-notes.pt").write_text("not ours")
    assert len(checkpoints.found(here)) == 3


def test_a_damaged_newer_one_does_not_push_out_the_one_just_written(tmp_path):
    for keep in (1, 2):
        folder = tmp_path / str(keep)
        for step in (400, 500):
            checkpoints.save(folder, step, {"step": step}, keep)
        for path in checkpoints.found(folder):
            path.write_bytes(b"damaged")
        for step in (100, 200, 500, 600):  # training begins anew and comes past them
            path = checkpoints.save(folder, step, {"step": step}, keep)
            assert path.exists() and checkpoints.latest(folder) == (step, {"step": step})
        assert len(checkpoints.found(folder)) == keep


def test_one_that_torch_refuses_is_passed_over(tmp_path, capsys):
    checkpoints.save(tmp_path, 1, {"w": torch.ones(2)}, keep=2)
    for step, data in ((2, b"no zip"), (3, b"")):
        files.write_bytes(tmp_path / f"step-{step:08d}-{files.sha256(data)[:12]}.pt", data)
    assert checkpoints.latest(tmp_path)[0] == 1
    assert capsys.readouterr().out.count("cannot be loaded (") == 2


def test_equal_states_give_equal_files(tmp_path):
    a, b = (checkpoints.save(tmp_path / n, 1, {"w": torch.ones(3)}, 1) for n in "ab")
    assert a.name == b.name and a.read_bytes() == b.read_bytes()
    # equal strings, once the same object and once two
    word = "some words"
    for folder, other in (("c", word), ("d", "".join(["some", " words"]))):
        checkpoints.save(tmp_path / folder, 1, {"a": word, "b": [other, {other: (1, 2)}]}, 1)
    assert checkpoints.found(tmp_path / "c")[0].name == checkpoints.found(tmp_path / "d")[0].name


def test_what_is_on_drive_stays_where_the_new_one_did_not_get_there(tmp_path, monkeypatch, capsys):
    here, there = tmp_path / "here", tmp_path / "drive"
    drive = Drive(here, there)
    checkpoints.save(here, 10, {}, keep=1, drive=drive)
    whole = files.write_bytes

    def full(path, data):
        if there in path.parents:
            raise files.StoreError(f"{path} cannot be written (No space left on device): free some space")
        return whole(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    for step in (20, 30):
        checkpoints.save(here, step, {}, keep=1, drive=drive)
    drive.close()
    said = capsys.readouterr().out
    assert said.startswith(f"NOT KEPT: {there}") and said.count("No space left") == 1  # once
    assert f"ONLY HERE, not in {there}: {here}/step-00000030-" in said and "Copy them by hand" in said
    assert [p.name[:13] for p in checkpoints.found(there)] == ["step-00000010"]
    monkeypatch.undo()
    checkpoints.save(here, 40, {}, keep=1, drive=drive)
    assert [p.name[:13] for p in checkpoints.found(there)] == ["step-00000040"]
    assert "is back" in capsys.readouterr().out


def test_a_folder_that_is_renamed_away_gets_what_waited_when_it_is_back(tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "drive"
    drive = Drive(here, there)
    checkpoints.save(here, 10, {}, keep=2, drive=drive)
    there.rename(tmp_path / "away")
    there.mkdir()  # the empty mount point
    for step in (20, 30):
        checkpoints.save(here, step, {}, keep=2, drive=drive)
    assert not list(there.iterdir())  # nothing is written where nothing is kept
    assert capsys.readouterr().out.count("is gone, or another folder lies there") == 1

    there.rmdir()
    (tmp_path / "away").rename(there)
    checkpoints.save(here, 40, {}, keep=2, drive=drive)
    drive.close()
    assert [p.name for p in checkpoints.found(there)] == [p.name for p in checkpoints.found(here)]


def test_a_copy_that_is_lost_after_it_was_written_is_noticed(tmp_path, monkeypatch, capsys):
    here, there = tmp_path / "here", tmp_path / "drive"
    drive = Drive(here, there)
    path = files.write_bytes(here / "student_model.pth", b"student")
    whole = files.write_bytes
    monkeypatch.setattr(files, "write_bytes", lambda path, data: whole(path, data[:3]))
    drive.copy(path)
    assert "is not what was written when it is read back" in capsys.readouterr().out
    monkeypatch.undo()
    drive.close()
    assert (there / path.name).read_bytes() == b"student"
    assert [p.name for p in there.iterdir()] == [path.name]  # the marker is gone, too


def test_a_marker_that_alone_is_lost_is_left_again(tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "drive"
    drive = Drive(here, there)
    drive.copy(files.write_bytes(here / "a", b"a"))
    drive.marker.unlink()
    drive.copy(files.write_bytes(here / "b", b"b"))
    assert (there / "b").read_bytes() == b"b" and not capsys.readouterr().out


@pytest.fixture
def mounted(tmp_path):
    """A small disk, really mounted."""
    there = tmp_path / "drive"
    there.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", there], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"LEFT OUT: faults of a real mount need root ({done.stderr.strip()})")
    yield there
    subprocess.run(["umount", "-l", there], capture_output=True)


def test_a_mount_that_is_lost_full_or_read_only(tmp_path, mounted, capsys):
    here = tmp_path / "here"
    drive = Drive(here, mounted)
    checkpoints.save(here, 10, {}, keep=2, drive=drive)

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", mounted], check=True)

    remount("ro")
    checkpoints.save(here, 20, {}, keep=2, drive=drive)
    said = capsys.readouterr().out
    assert "Read-only file system): choose another folder, or make this one writable" in said
    remount("rw")
    checkpoints.save(here, 30, {}, keep=2, drive=drive)
    assert "is back" in capsys.readouterr().out and len(checkpoints.found(mounted)) == 2

    checkpoints.save(here, 40, {"w": torch.zeros(500_000)}, keep=2, drive=drive)
    assert "No space left on device): free some space" in capsys.readouterr().out
    remount("size=20m")
    drive.retry()
    assert "is back" in capsys.readouterr().out

    subprocess.run(["umount", "-l", mounted], check=True)
    checkpoints.save(here, 50, {}, keep=2, drive=drive)
    drive.close()
    said = capsys.readouterr().out
    assert "is it still mounted" in said and f"ONLY HERE, not in {mounted}: {here}/step-00000050-" in said
    assert not list(mounted.iterdir())
