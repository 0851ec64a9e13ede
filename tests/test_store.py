import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from kd_utils import provenance
from kd_utils.common import files
from kd_utils.common.files import StoreError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"lr": rng.integers(256, size=(3, 4, 5, 3), dtype=np.uint8), "hr": np.zeros((0, 2, 2, 3), np.uint8)}


def test_round_trip_is_memory_mapped_and_repeats_to_the_byte(tmp_path, arrays):
    a = files.save_arrays(tmp_path / "a.safetensors", arrays, {"b": 1, "a": [2]})
    b = files.save_arrays(tmp_path / "other-name", arrays, {"a": [2], "b": 1})
    assert a.read_bytes() == b.read_bytes()
    back, meta = files.load_arrays(a, verify=True)
    assert meta == {"a": [2], "b": 1} == files.read_meta(a)
    assert isinstance(back["lr"].base.base, np.memmap) or isinstance(back["lr"].base, np.memmap)
    np.testing.assert_array_equal(back["lr"], arrays["lr"])
    assert back["hr"].shape == (0, 2, 2, 3)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be written"):
        files.write_json(tmp_path / "file" / "x" / "a.json", {})


def test_the_official_safetensors_reader_reads_it(tmp_path, arrays):
    from safetensors.numpy import load_file

    back = load_file(files.save_arrays(tmp_path / "a.safetensors", arrays, {}))
    np.testing.assert_array_equal(back["lr"], arrays["lr"])


def test_damage_is_found(tmp_path, arrays):
    path = files.save_arrays(tmp_path / "a.safetensors", arrays, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    files.load_arrays(path)  # the quick look sees the length only
    with pytest.raises(StoreError, match="checksum"):
        files.load_arrays(path, verify=True)
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="cut short"):
        files.read_meta(path)
    path.write_bytes(b"hello")
    with pytest.raises(StoreError, match="a.safetensors is damaged"):
        files.load_arrays(path)
    with pytest.raises(StoreError, match="missing"):
        files.load_arrays(tmp_path / "none")


def test_only_uint8(tmp_path):
    with pytest.raises(TypeError, match="not uint8"):
        files.save_arrays(tmp_path / "a", {"x": np.zeros(3)}, {})


def test_torch_bytes_do_not_depend_on_the_name(tmp_path):
    a, b = (files.write_torch(tmp_path / n, {"w": torch.ones(2)}).read_bytes() for n in ("a.pth", "b.pth"))
    assert a == b


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_name_of_255_bytes_is_written(tmp_path):
    for name in ("a" * 251 + ".png", "\u00e9" * 125 + "a.pth"):
        assert len(name.encode()) == 255
        assert files.write_bytes(tmp_path / name, b"whole").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "big"
    files.write_bytes(path, b"old")
    code = (
        "import sys; from kd_utils.common import files\nwhile True: files.write_bytes(sys.argv[1], bytes(50_000_000))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.time() + 60
    while path.read_bytes()[:3] == b"old" and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert path.stat().st_size == 50_000_000


def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "f"
    files.write_bytes(path, b"old")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from kd_utils.common import files\n"
        "try: files.write_bytes(sys.argv[1], bytes(5000))\n"
        "except files.StoreError as e: print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert "cannot be written" in out and "free some space" in out
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_temporary_files_of_dead_processes_are_swept(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = files.socket.gethostname()[:40]
    dead = [f".kd-{host}-{child.pid}-0.part", f".{child.pid}-3.part", f".a.json.{child.pid}.part"]
    for name in [*dead, ".kd-elsewhere-1-0.part", ".movie-1-2.part", "a.part"]:
        (tmp_path / name).write_bytes(b"half")
    ours = files.temporary(tmp_path / "x")
    ours.write_bytes(b"half")
    files.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".kd-elsewhere-1-0.part", ".movie-1-2.part", "a.part", ours.name}
    os.utime(tmp_path / ".kd-elsewhere-1-0.part", (0, 0))  # of another machine, and older than any write can be
    files.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_require_same_names_the_difference(tmp_path):
    provenance.require_same(tmp_path, {"a": 1}, {"a": 1}, "")
    with pytest.raises(StoreError, match="data.crop was 64, now 128.*Delete it"):
        provenance.require_same(tmp_path, {"data.crop": 64}, {"data.crop": 128}, "Delete it.")
