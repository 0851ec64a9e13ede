"""Students are written as ncnn files from which ncnn computes the same picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.images import photo_tensor

from kd_utils.common.errors import NcnnError
from kd_utils.models import student
from kd_utils.models.ncnn import read_ncnn
from kd_utils.models.ncnn_writer import write_ncnn
from kd_utils.own_files import shipped


@pytest.mark.parametrize("name", ["x4_photo_s", "x4_photo_m", "x4_photo_l"])
def test_ncnn_computes_a_x4_student_to_one_level_at_odd_sides(tmp_path, name, by_ncnn):
    net = student.load(shipped(f"student_{name}.pth"))
    param = write_ncnn(net, tmp_path / f"{name}.param")
    for sides in ((37, 53), (64, 48), (1, 1), (1, 70)):
        x = photo_tensor(*sides)
        with torch.inference_mode():
            want = net(x)[0].clamp(0, 1).numpy()
        assert np.abs(by_ncnn(param, x).clip(0, 1) - want).max() * 255 <= 1, sides


@pytest.mark.parametrize("scale", [2, 1])
def test_ncnn_computes_a_student_of_smaller_scale_to_one_level_at_odd_sides(tmp_path, scale, by_ncnn):
    """Sides that are no multiple of 4/scale are continued inside the file, as everywhere else."""
    torch.manual_seed(scale)
    net = student.Student(24, 3, scale).eval() if scale == 2 else student.load(shipped("student_x1_photo_s.pth"))
    param = write_ncnn(net, tmp_path / "small.param")
    for height, width in ((36, 52), (37, 55), (38, 53), (1, 1), (1, 70), (4, 8)):
        x = photo_tensor(height, width)
        with torch.inference_mode():
            continued = F.pad(x, (0, -width % net.down, 0, -height % net.down), mode="replicate")
            want = net(continued)[0, :, : height * scale, : width * scale].clamp(0, 1).numpy()
        assert np.abs(by_ncnn(param, x).clip(0, 1) - want).max() * 255 <= 1, (height, width)


def test_a_student_that_was_written_is_read_again_and_its_bytes_repeat(tmp_path):
    net = student.build("s", 4, 2)  # the training form: it is fused on the way
    param = write_ncnn(net, tmp_path / "one" / "a-x4.param")
    again = write_ncnn(net, tmp_path / "b-x4.param")
    assert param.read_bytes() == again.read_bytes()
    assert param.with_suffix(".bin").read_bytes() == again.with_suffix(".bin").read_bytes()
    state = read_ncnn(param)
    for name, weight in student.fuse(net).state_dict().items():
        assert torch.equal(state[name], weight.half().float() if weight.dim() == 4 else weight)


def test_the_param_file_has_the_layers_of_realesr_animevideov3(tmp_path):
    param = write_ncnn(student.Student(8, 1), tmp_path / "a.param")
    lines = [line.split() for line in param.read_text().splitlines()]
    assert lines[0] == ["7767517"] and lines[1] == [str(len(lines) - 2), str(len(lines) - 1)]
    kinds = "Input Split Convolution PReLU Convolution PReLU Convolution PixelShuffle Interp BinaryOp"
    assert [line[0] for line in lines[2:]] == kinds.split()
    assert lines[2][2:] == ["0", "1", "data"] and lines[-1][-1] == "output"


def test_weights_beyond_half_precision_are_refused(tmp_path):
    net = student.Student(8, 1)
    net.body[2].weight.data[0] = 1e6
    with pytest.raises(NcnnError, match="body.2 are too large for half precision"):
        write_ncnn(net, tmp_path / "a.param")
    assert not (tmp_path / "a.bin").exists()
