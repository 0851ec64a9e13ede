import torch

from kd_utils.common import files
from kd_utils.training import checkpoints


def test_rotation_drive_copy_and_fallback(tmp_path, capsys):
    here, drive = tmp_path / "here", tmp_path / "drive"
    drive.mkdir()
    for step in (5, 10, 15, 20):
        checkpoints.save(here, step, {"w": torch.full((2,), step)}, keep=3, drive=drive)
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


def test_equal_states_give_equal_files(tmp_path):
    a, b = (checkpoints.save(tmp_path / n, 1, {"w": torch.ones(3)}, 1) for n in "ab")
    assert a.name == b.name and a.read_bytes() == b.read_bytes()


def test_what_is_on_drive_stays_where_the_new_one_did_not_get_there(tmp_path, monkeypatch, capsys):
    here, drive = tmp_path / "here", tmp_path / "drive"
    checkpoints.save(here, 10, {}, keep=1, drive=drive)
    whole = files.write_bytes

    def full(path, data):
        if drive in path.parents:
            raise files.StoreError(f"{path} cannot be written (No space left on device): free some space")
        return whole(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    checkpoints.save(here, 20, {}, keep=1, drive=drive)
    said = capsys.readouterr().out
    assert said.startswith(f"NOT KEPT: {drive}") and "No space left" in said and "copy it by hand" in said
    assert [p.name[:13] for p in checkpoints.found(drive)] == ["step-00000010"]
    monkeypatch.undo()
    checkpoints.save(here, 30, {}, keep=1, drive=drive)
    assert [p.name[:13] for p in checkpoints.found(drive)] == ["step-00000030"]
