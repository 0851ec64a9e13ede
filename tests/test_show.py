"""The pictures: right size, right pixels, the same every time, and a slider that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from kd_utils.evaluation import curves, figures, viewer


@pytest.fixture
def photo():
    """A smooth ground with two patches of texture, the stronger one at (96, 32)."""
    rng = np.random.default_rng(0)
    x = np.full((120, 200, 3), 128, np.uint8)
    x[20:40, 150:170] = rng.integers(96, 112, (20, 20, 1))
    x[32:64, 96:128] = rng.integers(100, 140, (32, 32, 1))
    return x


def test_most_detailed(photo):
    first = figures.most_detailed(photo, 32)
    assert first == (96, 32, 128, 64)
    second = figures.most_detailed(photo, 24, [first])
    assert second[0] >= 128 + 12 and second[1] <= 40, "the other patch, clear of the first"
    left, top, right, bottom = figures.most_detailed(photo[:96, :96], 32, [(32, 32, 64, 64)])
    assert right <= 32 or left >= 64 or bottom <= 32 or top >= 64, "beside the first where there is room for no gap"
    assert figures.most_detailed(photo, 500)[1::2] == (0, 120), "never larger than the image"
    assert figures.most_detailed(photo, 32, [(0, 0, 200, 120)]) == first, "overlaps where there is no room"


def test_zooms_are_spread_over_the_photo(photo):
    left, right = figures.spread_zooms(photo, 32, 2)
    assert left[2] <= 100 <= right[0], "one in each half"
    top, bottom = figures.spread_zooms(np.ascontiguousarray(photo.transpose(1, 0, 2)), 32, 2)
    assert top[3] <= 100 <= bottom[1]
    assert len(figures.spread_zooms(np.zeros((1, 2, 3), np.uint8), 80, 2)) == 2


def test_where_pictures_differ_most():
    pictures = [np.full((90, 120, 3), 100, np.uint8) for _ in range(3)]
    pictures[1][10:20, 70:80] += 50
    pictures[2][60:70, 20:30] += 20
    first, second = figures.most_different(pictures, 20, 2)
    assert first[0] <= 70 and first[1] <= 10 and first[2] >= 80 and first[3] >= 20
    assert second[0] <= 20 and second[1] <= 60 and second[2] >= 30 and second[3] >= 70


def test_error_map():
    label = np.full((4, 5, 3), 100, np.uint8)
    image = label.copy()
    image[1, 2] += 10
    image[3, 4] = 255
    shown = figures.error_map(image, label)
    assert shown.shape == label.shape and shown.dtype == np.uint8
    dark, some, most = (int(shown[at].sum()) for at in ((0, 0), (1, 2), (3, 4)))
    assert dark < 10 < some < most


def test_panel(photo):
    box = (96, 32, 128, 64)
    sheet = figures.panel(
        {"input": photo[::4, ::4], "bicubic": photo, "original": photo}, [box], "a caption", column=128
    )
    assert sheet.size == (10 + 3 * 138, 40 + round(128 * 120 / 200) + 10 + 138 + 34)
    pixels = np.asarray(sheet)
    top = 40 + 77 + 10
    inside = pixels[top + 3 : top + 125, 10 + 2 * 138 + 3 : 10 + 2 * 138 + 125]  # the zoom, less its frame
    wanted = photo[32:64, 96:128].repeat(4, axis=0).repeat(4, axis=1)[3:125, 3:125]
    assert np.array_equal(inside, wanted), "a zoom shows the image's own pixels"
    squares = pixels[top + 16 : top + 112, 10 + 16 : 10 + 112].reshape(6, 16, 6, 16, 3)
    assert (squares == squares[:, :1, :, :1]).all(), "the small input is shown by squares"
    again = figures.panel(
        {"input": photo[::4, ::4], "bicubic": photo, "original": photo}, [box], "a caption", column=128
    )
    assert again.tobytes() == sheet.tobytes()


def test_panel_of_a_portrait_keeps_its_shape(photo):
    tall = np.ascontiguousarray(photo.transpose(1, 0, 2)).repeat(2, axis=0)
    sheet = figures.panel({"a": tall, "b": tall}, [], column=150)
    assert sheet.size == (10 + 2 * 160, 40 + 200 + 10)


def test_grid(photo):
    sheet = figures.grid([(f"image {i}", photo) for i in range(5)], columns=3, cell=100)
    assert sheet.size == (10 + 3 * 110, 5 + 2 * 140)
    assert figures.grid([("one", photo)]).width == 10 + 250


def test_long_titles_stay_readable(photo):
    """Two lines where one is too narrow, then cut short: never below the smallest size."""
    plain = figures.grid([("short", photo)], cell=150)
    two = figures.grid([("a title of many words for a narrow cell", photo)], cell=150)
    assert two.height > plain.height
    figures.grid([("x" * 300, photo)], cell=60)
    figures.panel({"y" * 300: photo}, [], "z " * 300, column=120)


def test_student_and_baseline_share_one_figure():
    history = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "valid": [{"step": 3, "psnr_y_teacher": 30.0}]}
    alone, both = curves.curve(history), curves.curve(history, baseline=history)
    assert alone.size == both.size and alone.tobytes() != both.tobytes()


def test_curve_leaves_out_what_is_missing():
    from matplotlib import pyplot

    steps = list(range(1, 121))
    history = {"step": steps, "loss": [1 / s for s in steps], "lr": [1e-3] * 120, "valid": []}
    for i, score in ((60, 30.0), (120, 31.0)):
        history["valid"].append({"step": i, "psnr_y_teacher": score, "psnr_y": None})
    image = curves.curve(history, "student s")
    assert image.mode == "RGB" and image.size == (1000, 360)
    assert image.tobytes() == curves.curve(history, "student s").tobytes()
    assert curves.curve({"step": [], "loss": [], "valid": []}).size == (1000, 360)
    assert pyplot.get_fignums() == [], "no figure is left in pyplot's global state"


def test_data_uri(photo):
    for kind in ("png", "jpeg"):
        head, data = figures.data_uri(photo, kind).split(",")
        assert head == f"data:image/{kind};base64"
        back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.array_equal(back, photo) if kind == "png" else np.abs(back.astype(int) - photo).mean() < 3


def test_slider_is_self_contained(photo):
    pictures = {'in <put> "x"': photo[::4, ::4], "student": photo, "teacher": photo}
    page = viewer.slider(pictures)
    assert page == viewer.slider(pictures), "the same every time"
    assert page.count("data:image/jpeg;base64,") == 3 and page.count('class="kd-small"') == 1
    assert not re.search(r"https?:|<script src|<link|@import|url\(", page)
    assert "<put>" not in page and " id=" not in page
    assert 'type="range"' in page and "aria-label=" in page and "clip-path" in page
    assert page.count('<option value="2">teacher') == 2, "any picture can be chosen on either side"
    shown = viewer.slider(pictures, "student", "teacher")
    before, after = (re.search(rf'kd-{side}"><img alt="([^"]*)"', shown)[1] for side in ("before", "after"))
    assert (before, after) == ("student", "teacher")


def test_the_most_detailed_square_of_a_thin_picture_has_a_side():
    for shape in ((1, 9000, 3), (2, 2, 3), (1, 1, 3)):
        left, top, right, bottom = figures.most_detailed(np.zeros(shape, np.uint8), 0)
        assert right - left == bottom - top == 1
