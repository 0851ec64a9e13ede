"""The pixels of an image file, compared with those that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def near(path: Path, want: np.ndarray, atol: float = 10) -> None:
    """An output at strength 0, read by Pillow: each pixel of the input `want` is the mean of its 4 x 4 there."""
    a = np.asarray(Image.open(path).convert("RGB" if want.shape[2] == 3 else "L"))
    a = a.reshape(a.shape[0], a.shape[1], -1)
    assert a.shape == (want.shape[0] * 4, want.shape[1] * 4, want.shape[2])
    means = a.reshape(want.shape[0], 4, want.shape[1], 4, -1).mean((1, 3))
    assert np.abs(means - want)[2:-2, 2:-2].max() < atol
