"""Fixtures that many tests share. What a machine lacks is skipped loudly, with the reason in pytest's summary."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' folder of photos and real weights, which is no part of the project."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("LEFT OUT: ../shared (real Real-ESRGAN weights, photos) is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def official():
    """The official (realesrgan, basicsr), through our one bridge."""
    from kd_utils import teacher

    try:
        return teacher.official()
    except ImportError as e:
        pytest.skip(f"LEFT OUT: the official realesrgan and basicsr cannot be had on Python 3.13 ({e})")
