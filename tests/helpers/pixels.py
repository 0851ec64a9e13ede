"""The pixels of an image file, compared with those that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_utils.common.errors import ImageError
from kd_utils.imaging import reading
from kd_utils.imaging.reading import Photo


def near(path: Path, want: np.ndarray, atol: float = 10) -> None:
    """An output at strength 0, read by Pillow: each pixel of the input `want` is the mean of its 4 x 4 there."""
    a = np.asarray(Image.open(path).convert("RGB" if want.shape[2] == 3 else "L"))
    a = a.reshape(a.shape[0], a.shape[1], -1)
    assert a.shape == (want.shape[0] * 4, want.shape[1] * 4, want.shape[2])
    means = a.reshape(want.shape[0], 4, want.shape[1], 4, -1).mean((1, 3))
    assert np.abs(means - want)[2:-2, 2:-2].max() < atol


def equal(data: bytes, want: np.ndarray, alpha: np.ndarray | None = None, atol: int = 0) -> Photo:
    """The photo that our reader makes of a file, whose pixels are `want`, (H, W, C) of the same type."""
    photo = reading.read(data)
    assert photo.pixels.shape == want.shape and photo.pixels.dtype == want.dtype
    assert np.abs(photo.pixels.astype(int) - want.astype(int)).max() <= atol
    assert (photo.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(photo.alpha, alpha)
    return photo


def refusal(data: bytes) -> str:
    """What our reader says of a file that it refuses."""
    with pytest.raises(ImageError) as caught:
        reading.read(data, "a file")
    return str(caught.value)
