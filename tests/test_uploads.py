"""Photos into a notebook and out of it: uploads and downloads, on Colab and in JupyterLab."""

from __future__ import annotations

import sys
import types
import zipfile

import pytest

from kd_utils import colab, uploads


def test_uploads_of_colab_and_of_both_ipywidgets(google, monkeypatch):
    assert uploads.uploaded(uploads.upload()) == {"a.png": b"abc"}
    seven = types.SimpleNamespace(value={"b.png": {"metadata": {"name": "b.png"}, "content": b"b"}})
    eight = types.SimpleNamespace(value=({"name": "c.png", "size": 1, "content": memoryview(b"c")},))
    assert uploads.uploaded(seven) == {"b.png": b"b"} and uploads.uploaded(eight) == {"c.png": b"c"}
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.delattr(sys.modules["google"], "colab")
    widget = uploads.upload()
    assert type(widget).__name__ == "FileUpload" and widget.multiple and uploads.uploaded(widget) == {}


def test_what_an_upload_did_is_said(tmp_path, capsys):
    cfg = colab.configure("quick", "", str(tmp_path))
    (sample,) = uploads.chosen_photos(cfg, "", None)
    assert sample.name == "chelsea.png" and "Sharpens the sample" in capsys.readouterr().out
    mine = tmp_path / "mine.png"
    mine.touch()
    for photo, instead in (("", sample), (str(mine), mine)):
        assert uploads.chosen_photos(cfg, photo, uploads.upload()) == [instead], "Run all came past an empty widget"
        said = capsys.readouterr().out
        assert "NOTHING UPLOADED YET" in said and "run this cell and those below it again" in said
    assert uploads.chosen_photos(cfg, "", {}) == [sample], "Colab's dialog was cancelled"
    assert "NOTHING UPLOADED YET" in capsys.readouterr().out
    (sent,) = uploads.chosen_photos(cfg, str(mine), {"../a.png": b"abc"})
    assert sent == cfg.path("uploads", "a.png") and sent.read_bytes() == b"abc"


def test_an_upload_that_fails_is_one_sentence(google):
    def refuse():
        raise TypeError("'NoneType' object is not subscriptable")

    google.files.upload = refuse
    with pytest.raises(colab.ColabError, match="the upload did not work .*: run this cell again"):
        uploads.upload()


def test_the_download_button(google, monkeypatch, tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(b"A")
    b.write_bytes(b"B")
    sent = []
    google.files.download = sent.append
    uploads.download_button([a]).children[0].click()
    uploads.download_button([a, b]).children[0].click()
    assert sent == [str(a), str(tmp_path / "sharpened.zip")]
    assert zipfile.ZipFile(sent[1]).namelist() == ["a.png", "b.png"]
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.delattr(sys.modules["google"], "colab")
    box = uploads.download_button([a])
    assert box.children[1].value == "", "the file is in the page only when it is asked for"
    box.children[0].click()
    assert '<a download="a.png" href="data:image/png;base64,QQ==">' in box.children[1].value
