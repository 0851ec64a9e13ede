"""`look`: models compared on one photo, as one page that needs nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from kd_utils import look
from kd_utils.__main__ import main as cli
from kd_utils.common.errors import SharpenError


@pytest.fixture
def photo(tmp_path):
    from skimage import data

    path = tmp_path / "a <b>.png"
    Image.fromarray(data.astronaut()[:80, 100:220]).save(path)
    return path


def test_a_page_of_any_models(photo, models, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli(["look", str(photo), "--model", "bicubic", models[4], "student_x4_photo_s", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    page = out.read_text()
    assert not re.search(r"https?:|<script src|<link|@import|url\(", page) and "a &lt;b&gt;.png" in page
    names = re.findall(r"<tr><th>([^<]*)</th><td", page)
    assert names == ["bicubic", "x4.pth", "student_x4_photo_s"]
    assert page.count("data:image/webp;base64,") == 4, "the input and three models, each pixel kept"
    assert page.count("data-spot=") >= 2 and "The whole photo, 120×80" in page


def test_of_a_large_photo_a_part_is_compared(photo, models, monkeypatch, tmp_path):
    monkeypatch.setattr(look, "LARGEST", 128)
    page = look.look(photo, ["bicubic", models[4]], tmp_path / "p.html", at=(119, 0)).read_text()
    assert "32×32 pixels at (88, 0) of 120×80" in page and 'width="128" height="128"' in page
    with pytest.raises(SharpenError, match="lies outside of the photo, which is 120x80"):
        look.look(photo, ["bicubic", models[4]], tmp_path / "p.html", at=(120, 0))


def test_refusals(photo, tmp_path):
    with pytest.raises(SharpenError, match="name two at least"):
        look.look(photo, ["bicubic", "bicubic"], tmp_path / "p.html")
    with pytest.raises(SharpenError, match="does not end in .html"):
        look.look(photo, ["bicubic", "s"], tmp_path / "p.png")
    assert cli(["look", str(photo), "--model", "bicubic", str(tmp_path / "none.pth"), "--out", "x.html"]) != 0


def test_a_size_alone_and_the_default_of_each_scale(photo, tmp_path, capsys):
    assert cli(["look", str(photo), "--model", "bicubic", "s", "--out", str(tmp_path / "a.html")]) == 0
    assert cli(["look", str(photo), "--scale", "1", "--out", str(tmp_path / "b.html")]) == 0
    assert ">photo-s<" in (tmp_path / "b.html").read_text()
    assert cli(["look", str(photo), "--scale", "1", "--model", "bicubic", "l", "--out", str(tmp_path / "c.html")]) != 0
    assert "none ships for scale 1: choose one of photo-s" in capsys.readouterr().err


def test_same_size(photo, models, tmp_path):
    page = look.look(photo, ["bicubic", models[1]], tmp_path / "p.html", scale=1).read_text()
    assert page.count('width="120" height="80"') == 3


def test_a_picture_of_the_page_is_the_models_own(photo, models, tmp_path):
    import base64
    import io

    from kd_utils import sharpen
    from kd_utils.imaging import reading

    page = look.look(photo, ["bicubic", models[4]], tmp_path / "p.html").read_text()
    uri = re.search(r'alt="x4.pth"[^>]*src="data:image/webp;base64,([^"]*)"', page)[1]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB"))
    assert np.array_equal(shown, sharpen.apply(sharpen.load(models[4]), reading.read(photo)).pixels)


def test_the_same_comparison_for_a_notebook(models, tmp_path):
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    html = look.widget(image, {"plain": "bicubic", "mine": models[4], "m <1>": "m"})
    assert not re.search(r"https?:|<script src|<link|@import|url\(", html) and " id=" not in html
    assert html.count('src="data:image/webp') == 4 and 'width="240" height="160"' in html
    assert re.findall(r"<tr><th>([^<]*)</th><td", html) == ["plain", "mine", "m &lt;1&gt;"]


def test_files_of_one_name_are_told_apart(photo, models, tmp_path):
    import shutil

    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(models[4], folder / "student_model.pth")
    page = look.look(photo, [str(folder / "student_model.pth") for folder in folders], tmp_path / "p.html").read_text()
    assert re.findall(r"<tr><th>([^<]*)</th><td", page) == ["student_model.pth", "b/student_model.pth"]
