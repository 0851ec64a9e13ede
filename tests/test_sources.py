"""sources.fetch against real servers on loopback: breaks, wrong answers, mirrors, full disks, two processes at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.server import BODY, HTML, sha256

from kd_utils.common.downloads import CHUNK
from kd_utils.common.sources import SOURCES, Source, SourceError, fetch
from kd_utils.own_files import ROOT


@pytest.fixture
def entry(cache, site, monkeypatch):
    """Register a row of SOURCES, 'tiny', by default the site's file with its right hash."""

    def add(body: bytes = BODY, url: str = "", mirrors: tuple[str, ...] = (), size: int = 0) -> Source:
        s = Source("tiny", url or f"{site.url}/v1/tiny.bin", size or len(body), sha256(body), "ours", mirrors)
        monkeypatch.setitem(SOURCES, "tiny", s)
        return s

    return add


def closed_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


def child(source: Source, before: str = "") -> subprocess.Popen:
    """Another process that fetches `source`."""
    code = f"{before}\nfrom kd_utils.common import sources as s\ns.SOURCES['tiny'] = s.Source(**{asdict(source)!r})\n"
    code += "try: s.fetch('tiny')\nexcept s.SourceError as e: raise SystemExit(f'SourceError: {e}')"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=-1, stderr=-1)


def div2k_zip(path: Path, photos: tuple[str, ...] = ("astronaut", "chelsea", "coffee")) -> Path:
    """A zip shaped like DIV2K's, DIV2K_train_HR/0001.png and so on, of photos that are inside scikit-image."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    with zipfile.ZipFile(path, "w") as z:
        for i, name in enumerate(photos, 1):
            z.write(folder / f"{name}.png", f"{path.stem}/{i:04}.png")
    return path


def test_the_table():
    assert set(SOURCES) == {
        "div2k_train", "div2k_valid", "anime_6B", "general_x4v3", "general_wdn_x4v3", "animevideov3", "x4plus", "vgg19",
    }  # fmt: skip
    for name, s in SOURCES.items():
        assert s.name == name and s.bytes > 1e6 and re.fullmatch("[0-9a-f]{64}", s.sha256) and s.licence
        assert s.url.startswith("https://") and all(m.endswith("/" + s.file) for m in s.mirrors)
    assert SOURCES["vgg19"].sha256[:8] in SOURCES["vgg19"].file  # PyTorch names its weights by their hash
    with pytest.raises(SourceError, match="anime_6b.*did you mean 'anime_6B'"):
        fetch("anime_6b")


def test_a_div2k_zip_survives_two_breaks(tmp_path, site, entry):
    site.body = div2k_zip(tmp_path / "DIV2K_train_HR.zip").read_bytes()
    site.breaks = [4 * CHUNK, 8 * CHUNK]
    path = fetch(entry(site.body).name)
    assert site.asked == [None, f"bytes={4 * CHUNK}-", f"bytes={12 * CHUNK}-"]
    assert path.read_bytes() == site.body and not path.with_name("tiny.bin.part").exists()
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None and "DIV2K_train_HR/0001.png" in z.namelist()


def test_once_fetched_it_stays_until_it_changes(site, entry, cache):
    entry()
    path = fetch("tiny")
    assert path == cache / "tiny.bin" and fetch("tiny") == path and len(site.asked) == 1
    # Known by size and time, not hashed again: the same size and time with other bytes passes ...
    stat = path.stat()
    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fetch("tiny") == path
    # ... and a new time does not.
    os.utime(path)
    with pytest.raises(SourceError, match=r"tiny\.bin is not tiny\.bin: .*sha256.*Delete it"):
        fetch("tiny")
    path.unlink()
    assert fetch("tiny").read_bytes() == BODY and len(site.asked) == 2


def test_a_file_put_by_hand_is_taken_if_it_is_right(site, entry, cache):
    entry()
    cache.mkdir()
    (cache / "tiny.bin").write_bytes(HTML)  # what a browser saves of an error page
    with pytest.raises(SourceError, match="it is a web page"):
        fetch("tiny")
    (cache / "tiny.bin").write_bytes(BODY)
    assert fetch("tiny").read_bytes() == BODY and site.asked == []


def test_a_server_that_ignores_range(site, entry):
    site.ranges, site.breaks = False, [3 * CHUNK, 6 * CHUNK]
    entry()
    assert fetch("tiny").read_bytes() == BODY and len(site.asked) == 3


def test_a_server_that_always_breaks_ends_in_an_error_and_keeps_the_part(site, entry, cache):
    site.ranges, site.breaks = False, [3 * CHUNK] * 99
    entry()
    with pytest.raises(SourceError, match=r"4 attempts.*\n.*196,608 of 700,000 bytes are kept.*KD_MIRROR.*by hand at"):
        fetch("tiny")
    site.ranges, site.breaks = True, []
    assert fetch("tiny").read_bytes() == BODY and site.asked[-1] == f"bytes={3 * CHUNK}-"


def test_a_kept_part_of_something_else(site, entry, cache):
    entry()
    cache.mkdir()
    for old in (b"x" * 1000, b"x" * len(BODY), b"x" * (len(BODY) + 5)):
        (cache / "tiny.bin.part").write_bytes(old)
        assert fetch("tiny").read_bytes() == BODY
        (cache / "tiny.bin").unlink()
    entry(body := BODY[:5000])  # 416: the server's file ends before our part does
    site.body = body[:4000]
    (cache / "tiny.bin.part").write_bytes(body[:4500])
    with pytest.raises(SourceError, match="4000 bytes instead of 5000"):
        fetch("tiny")
    site.body = body
    assert fetch("tiny").read_bytes() == body


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 404, "html": True}, "answered 404 Not Found"),
        ({"status": 503, "html": True}, r"answered 503 Service Unavailable \(4 attempts\)"),
        ({"html": True}, "sent a web page"),
        ({"body": BODY[::-1]}, f"sha256 {sha256(BODY[::-1])} instead of 700000 bytes and sha256 {sha256(BODY)}"),
        ({"body": BODY + b"?"}, "700001 bytes instead of 700000"),
    ],
)  # fmt: skip
def test_wrong_answers_leave_nothing_behind(site, entry, cache, answer, message):
    entry()
    for key, value in answer.items():
        setattr(site, key, value)
    with pytest.raises(SourceError, match=rf"tiny\.bin could not(.|\n)*{message}(.|\n)*by hand at .*tiny\.bin"):
        fetch("tiny")
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


def test_mirrors_and_no_network(site, entry, cache):
    entry(url=f"{closed_port()}/tiny.bin", mirrors=(f"{site.url}/tiny.bin",))
    assert fetch("tiny").read_bytes() == BODY
    (cache / "tiny.bin").unlink()
    entry(url=f"{closed_port()}/tiny.bin")
    with pytest.raises(SourceError, match=r"no connection: .*Connection refused(.|\n)*Check the network(.|\n)*by hand"):
        fetch("tiny")


@pytest.mark.parametrize("kind", ["folder", "file url", "base url"])
def test_kd_mirror_is_tried_first(site, entry, tmp_path, monkeypatch, kind):
    entry(url=f"{closed_port()}/tiny.bin" if kind == "base url" else "")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.bin").write_bytes(BODY)
    base = {"folder": str(tmp_path / "mirror"), "file url": f"file://{tmp_path}/mirror/", "base url": f"{site.url}/m"}
    monkeypatch.setenv("KD_MIRROR", base[kind])
    assert fetch("tiny").read_bytes() == BODY
    assert len(site.asked) == (kind == "base url")


def test_a_mirror_without_the_right_file_is_passed_over(site, entry, tmp_path, monkeypatch, capsys):
    entry()
    monkeypatch.setenv("KD_MIRROR", str(tmp_path))
    path = fetch("tiny")
    assert f"{tmp_path}/tiny.bin: No such file" in capsys.readouterr().err
    path.unlink()
    (tmp_path / "tiny.bin").write_bytes(BODY[::-1])
    assert fetch("tiny").read_bytes() == BODY
    assert "sha256" in capsys.readouterr().err


def test_the_stand_in_weights_are_no_mirror(shared, cache, monkeypatch):
    s = SOURCES["general_x4v3"]
    monkeypatch.setitem(SOURCES, s.name, Source(s.name, f"{closed_port()}/{s.file}", s.bytes, s.sha256, s.licence))
    monkeypatch.setenv("KD_MIRROR", str(shared / "weights"))
    theirs = sha256((shared / "weights" / s.file).read_bytes())
    with pytest.raises(SourceError, match=f"sha256 {theirs} instead of {s.bytes} bytes and sha256 {s.sha256}"):
        fetch(s.name)
    assert not (cache / f"{s.file}.part").exists()


def test_no_room(site, entry, cache):
    with pytest.raises(SourceError, match="no room for tiny.bin in .* bytes needed, .* free.*KD_CACHE"):
        fetch(entry(size=10**18).name)
    assert site.asked == []
    # A disk that fills up on the way: the kernel refuses to let the file grow past 300,000 bytes.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    p = child(entry(), limit)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 1 and "SourceError: no room for tiny.bin" in err and "KD_CACHE" in err
    assert fetch("tiny").read_bytes() == BODY and site.asked[-1] == "bytes=300000-"


def test_a_cache_that_cannot_be_written(entry, tmp_path):
    entry()
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"the download cache .* cannot be written .*KD_CACHE"):
        fetch("tiny", cache=tmp_path / "file" / "cache")


def test_two_processes_at_once_download_once(site, entry):
    site.delay = 0.05
    first, second = (child(entry()) for _ in range(2))
    outs = [p.communicate(timeout=60) for p in (first, second)]
    assert [p.returncode for p in (first, second)] == [0, 0], outs
    assert fetch("tiny").read_bytes() == BODY and site.asked == [None]
    assert sum("another process is fetching tiny.bin" in err for _, err in outs) == 1


def test_a_killed_download_goes_on(site, entry, cache):
    site.delay = 0.05
    p = child(entry())
    part = cache / "tiny.bin.part"
    while not part.exists() or part.stat().st_size < 200_000:
        time.sleep(0.01)
        assert p.poll() is None
    p.send_signal(signal.SIGKILL)
    p.communicate()
    assert fetch("tiny").read_bytes() == BODY
    assert int(site.asked[1].removeprefix("bytes=").removesuffix("-")) >= 200_000


def test_div2k_over_a_line_that_breaks_twice_becomes_crops(site, cache, tmp_path, monkeypatch):
    from dataclasses import replace

    from kd_utils import prepare
    from kd_utils.config import make

    train = div2k_zip(tmp_path / "DIV2K_train_HR.zip", ("astronaut", "motorcycle_left", "motorcycle_right", "ihc"))
    valid = div2k_zip(tmp_path / "DIV2K_valid_HR.zip", ("chelsea", "coffee"))
    site.body, site.breaks = train.read_bytes(), [CHUNK * 3, CHUNK * 7]
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    shutil.move(valid, mirror)
    monkeypatch.setenv("KD_MIRROR", str(mirror))
    for name, body in (("div2k_train", site.body), ("div2k_valid", (mirror / valid.name).read_bytes())):
        file = SOURCES[name].file
        row = replace(SOURCES[name], url=f"{site.url}/{file}", bytes=len(body), sha256=sha256(body), mirrors=())
        monkeypatch.setitem(SOURCES, name, row)
    sets = "data.photos=DIV2K data.valid_count=1 data.crops_per_photo=3 data.test_side=64 data.crop=64 loss.crop=16"
    made = prepare.prepare(make("quick", sets, workdir=str(tmp_path / "w")))
    assert len(site.asked) == 3 and site.asked[1:] == [f"bytes={CHUNK * n}-" for n in (3, 10)]
    assert made.photos == {"train": 3, "valid": 1, "test": 2} and made.crops["train"] == 9
    # one's own test photos: DIV2K's are not downloaded
    (cache / "DIV2K_valid_HR.zip").unlink()
    mine = f"{sets} data.test_photos={mirror / 'DIV2K_valid_HR.zip'}"
    assert prepare.prepare(make("quick", mine, workdir=str(tmp_path / "mine"))).photos["test"] == 2
    assert not (cache / "DIV2K_valid_HR.zip").exists()
