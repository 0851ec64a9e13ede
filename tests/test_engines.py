"""What runs a network on a CPU: OpenVINO beside PyTorch, and the choice of the fastest that is exact enough."""

import numpy as np
import openvino  # noqa: F401 - a development package, so that nothing here is left out
import pytest
import torch

from kd_utils.__main__ import main
from kd_utils.common import devices
from kd_utils.common.errors import SharpenError
from kd_utils.imaging import writing
from kd_utils.imaging.reading import Photo
from kd_utils.models import cpu_engines, engines, pipeline, student


@pytest.fixture
def photo() -> Photo:
    return Photo(np.random.default_rng(0).integers(0, 256, (70, 53, 3), dtype=np.uint8))


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_openvino_gives_the_same_picture(models, photo, scale):
    by_torch = pipeline.apply(engines.load(models[scale], scale, "cpu"), photo).pixels
    tool = engines.load(models[scale], scale, engine="openvino")
    assert tool.device.type == "cpu" and tool.engine.startswith("OpenVINO 20") and tool.engine.endswith("in fp32")

    # in tiles too: what one call returns is not overwritten by the next
    for tile in (None, 24):
        by_openvino = pipeline.apply(tool, photo, tile=tile).pixels
        assert np.abs(by_openvino.astype(int) - by_torch).max() <= 1


def test_auto_says_what_it_chose(models, photo, tmp_path, capsys):
    writing.save(photo, tmp_path / "a.png")
    command = ["sharpen", str(tmp_path / "a.png"), str(tmp_path / "out"), "--model", models[4], "--engine", "auto"]
    assert main([*command, "--device", "cpu"]) == 0
    chosen = "OpenVINO" if not devices.has_fast_bf16() else ""
    assert f"written to {tmp_path / 'out'}, computed by {chosen}" in capsys.readouterr().out


def test_auto_takes_bf16_only_where_pictures_stay_close(monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: True)
    monkeypatch.setattr(cpu_engines, "has_openvino", lambda: False)  # PyTorch imitates bf16 on every CPU
    torch.manual_seed(0)
    net = student.Student(32, 2).eval()
    near = engines.choose(net, torch.device("cpu"), "auto")
    assert near.dtype == "bf16" and "of 255 levels from fp32" in near.remark and near.name.startswith("PyTorch")

    # a residual of many levels, whose bf16 is coarse
    with torch.no_grad():
        net.layers[-1].weight.mul_(500)
    far = engines.choose(net, torch.device("cpu"), "auto")
    assert far.dtype == "fp32" and far.remark.startswith("bf16 is at most")
    narrow = engines.choose(student.Student(24, 2).eval(), torch.device("cpu"), "auto")
    assert narrow.dtype == "fp32" and narrow.remark == "bf16 is slower with 24 channels"
    x = cpu_engines.sample()
    with torch.inference_mode():
        assert torch.equal(far.run(x), engines.torch_engine(net, torch.device("cpu"))(x))


def test_the_difference_of_two_pictures():
    same = cpu_engines.compare(lambda x: x, lambda x: x)
    assert same.levels == 0 and same.is_close and "equal" in str(same)

    # three levels everywhere: 20 log10(255 / 3) dB
    far = cpu_engines.compare(lambda x: 0 * x, lambda x: 0 * x + 3 / 255)
    assert far.levels == 3 and far.psnr == pytest.approx(38.59, abs=0.01) and not far.is_close


def test_what_an_engine_cannot_do(models, tmp_path, monkeypatch):
    with pytest.raises(SharpenError, match="runs on the CPU, not on meta"):
        engines.load(models[4], 4, "meta", "openvino")
    with pytest.raises(SharpenError, match="choose one of auto, torch"):
        engines.load(models[4], 4, "cpu", "tensorrt")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(SharpenError, match=r"pip install \"imagesharpening-kd\[fast\]\", or choose --engine torch"):
        engines.load(models[4], 4, "cpu", "openvino")
