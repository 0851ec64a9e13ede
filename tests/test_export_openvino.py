"""OpenVINO's own files hold what PyTorch computes, and int8 is written only where it loses little to the teacher."""

import openvino
import pytest
import torch

from kd_utils import export
from kd_utils.__main__ import main
from kd_utils.common import files
from kd_utils.common.errors import ExportError
from kd_utils.models import cpu_engines, student


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_an_xml_computes_what_pytorch_does(models, tmp_path, scale):
    (path,) = export.export(models[scale], tmp_path / "a.xml")
    run = cpu_engines.openvino_model_run(openvino.Core().read_model(path))
    x = torch.rand(1, 3, 20, 36)
    with torch.inference_mode():
        assert (run(x) - student.load(models[scale])(x)).abs().max() < 1e-4
    assert run(torch.rand(1, 3, 21, 33)).shape == (1, 3, 21 * scale, 33 * scale)

    # one call's files are the next one's
    (again,) = export.export(models[scale], tmp_path / "again", ["openvino"])
    for suffix in (".xml", ".bin"):
        assert files.sha256(path.with_suffix(suffix)) == files.sha256(again.with_suffix(suffix))


@pytest.mark.slow
def test_int8_is_written_with_its_loss_or_refused(tmp_path, capsys):
    torch.manual_seed(0)
    ours = student.save(student.build("8x2"), tmp_path / "ours.pth")
    other = student.build("8x2")
    with torch.no_grad():
        other.layers[-1].bias += 0.05  # 26 dB from ours: int8 adds little to that
    teacher = student.save(other, tmp_path / "teacher.pth")

    command = ["export", str(ours), str(tmp_path / "small.xml"), "--int8", "--teacher"]
    assert main([*command, str(teacher)]) == 0
    assert "a loss of" in capsys.readouterr().out
    model = openvino.Core().read_model(tmp_path / "small.xml")
    assert any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    x = cpu_engines.sample()
    with torch.inference_mode():
        off = (cpu_engines.openvino_model_run(model)(x) - student.load(ours)(x)).abs()
    assert 0 < off.mean() < 2 / 255

    # to a teacher that the student equals, every rounding is a loss
    with pytest.raises(ExportError, match=r"more than 0\.3: not written; use --to openvino without --int8"):
        export.export_int8(ours, tmp_path / "no.xml", str(ours))
    assert not (tmp_path / "no.xml").exists()
