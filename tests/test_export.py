"""What is exported computes what the PyTorch network computes, and other programs can read it."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from kd_utils import export
from kd_utils.__main__ import main
from kd_utils.common.errors import CheckpointError, ConfigError, ExportError
from kd_utils.models import onnx_graph, student
from kd_utils.models.ncnn import read_ncnn
from kd_utils.models.shipped import find_student
from kd_utils.own_files import shipped

SIZES = [(1, 1), (1, 70), (70, 1), (37, 53), (64, 48)]


def trained(scale: int, path) -> student.Student:
    """A student whose output is not just its residual, saved with what `train` says about a run."""
    torch.manual_seed(scale)
    net = student.build("s", scale)
    with torch.no_grad():
        getattr(net, net.trunk)[-1].weight.mul_(10)
    meta = {"provenance": {"labels.teacher": "general_x4v3", "train.steps": 7}, "run": "student"}
    student.save(net, path, meta)
    return student.load(path)


def write_onnx(model, path, **options):
    (written,) = export.export(model, path, ["onnx"], **options)
    return written


def session(path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_parity_with_pytorch_over_sizes(tmp_path, scale):
    net = trained(scale, tmp_path / "s.pth")
    run = session(write_onnx(tmp_path / "s.pth", tmp_path / "s.onnx"))
    for h, w in SIZES:
        x = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(h * w))
        with torch.inference_mode():  # sides that the network cannot take are padded and cut inside the file
            padded = F.pad(x, (0, -w % net.down, 0, -h % net.down), mode="replicate")
            want = net(padded)[..., : h * scale, : w * scale]
        got = run.run(None, {"image": x.numpy()})[0]
        assert got.shape == want.shape and np.abs(got - want.numpy()).max() <= 1e-4, (h, w)


@pytest.mark.parametrize("scale", [4, 1])
def test_fp16_is_half_the_size_and_takes_and_gives_float32(tmp_path, scale):
    net = trained(scale, tmp_path / "s.pth")
    whole = write_onnx(tmp_path / "s.pth", tmp_path / "s.onnx")
    half = write_onnx(tmp_path / "s.pth", tmp_path / "h.onnx", fp16=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    x = torch.rand(1, 3, 40, 36)
    got = session(half).run(None, {"image": x.numpy()})[0]
    assert got.dtype == np.float32
    with torch.inference_mode():
        assert np.abs(got - net(x).numpy()).max() < 4e-3  # a step of 8-bit colour


def test_one_file_old_opset_and_what_it_says_of_itself(tmp_path):
    trained(2, tmp_path / "s.pth")
    (tmp_path / "out").mkdir()
    path = write_onnx(tmp_path / "s.pth", tmp_path / "out" / "s.onnx")
    assert [p.name for p in path.parent.iterdir()] == ["s.onnx"]  # no .onnx.data beside it
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [o.version for o in model.opset_import] == [17] and model.ir_version == 8
    assert {n.domain for n in model.graph.node} == {""}
    says = {p.key: p.value for p in model.metadata_props}
    assert says["scale"] == "2" and says["teacher"] == "general_x4v3" and len(says["training_run"]) == 16
    assert json.loads(says["meta"])["provenance"]["train.steps"] == 7
    again = write_onnx(tmp_path / "s.pth", tmp_path / "again.onnx")
    assert again.read_bytes() == path.read_bytes()
    shape = session(path).get_inputs()[0].shape
    assert shape == ["n", 3, "h", "w"]


def test_a_real_compact_model_exports(shared, tmp_path):
    source = shared / "weights" / "realesr-animevideov3.pth"
    run = session(write_onnx(source, tmp_path / "c.onnx"))
    x = torch.rand(1, 3, 24, 33)
    with torch.inference_mode():
        want = student.load(source)(x).numpy()
    assert np.abs(run.run(None, {"image": x.numpy()})[0] - want).max() <= 1e-4


def test_the_x4_file_opens_in_spandrel(tmp_path):
    """So in chaiNNer, ComfyUI and all that read models through it."""
    from spandrel import ModelLoader

    net = trained(4, tmp_path / "s.pth")
    found = ModelLoader(device="cpu").load_from_file(tmp_path / "s.pth")
    assert (found.architecture.name, found.scale) == ("RealESRGAN Compact", 4)
    x = torch.rand(1, 3, 31, 20)
    with torch.inference_mode():
        assert (found.model(x) - net(x)).abs().max() <= 1e-6


def test_the_teacher_of_a_student_that_ships(tmp_path):
    """Those have no labels.teacher: their own entry, or the hash."""
    said = {p.key: p.value for p in onnx.load(write_onnx("s", tmp_path / "s.onnx")).metadata_props}
    meta = json.loads(said["meta"])
    assert (
        said["teacher"] == meta.get("teacher", f"sha256 {meta['teacher_sha256']}") and len(said["training_run"]) == 16
    )
    assert onnx_graph.describe({"teacher": "general_x4v3", "teacher_sha256": "ab"})["teacher"] == "general_x4v3"
    assert onnx_graph.describe({"teacher_sha256": "ab"})["teacher"] == "sha256 ab"
    assert onnx_graph.describe({})["teacher"] == ""


def test_the_students_that_ship_go_by_size_and_scale(tmp_path, capsys):
    asked = ("m", [], "x4_photo_m"), ("anime-l", [], "x4_anime_l"), ("s", ["--scale", "1"], "x1_photo_s")
    asked += (("photo-s", ["--scale", "2"], "x2_photo_s"),)
    for name, options, ships in asked:
        assert main(["export", name, str(tmp_path / "s.onnx"), *options]) == 0
        want = onnx_graph.graph(student.load(shipped(f"student_{ships}.pth"))).SerializeToString()
        assert (tmp_path / "s.onnx").read_bytes() == want
    assert main(["export", "m", str(tmp_path / "two.onnx"), "--scale", "2"]) == 1  # no m of scale 2 ships
    assert "student_x4_photo_m.pth is of scale 4, not 2" in capsys.readouterr().err
    assert not (tmp_path / "two.onnx").exists()


def test_command_line_writes_several_formats(tmp_path, capsys):
    net = trained(4, tmp_path / "s.pth")
    out = tmp_path / "out"
    args = ["export", str(tmp_path / "s.pth"), str(out), "--to", "ncnn,onnx", "--to", "safetensors", "--fp16"]
    assert main(args) == 0
    assert {p.name for p in out.iterdir()} == {"s-x4.param", "s-x4.bin", "s.onnx", "s.safetensors"}
    said = capsys.readouterr().out
    assert re.search(r"s-x4.param: \d\.\d kB\n.*s-x4.bin: 10\d\.\d kB\n", said) and "s.safetensors: 21" in said
    state = read_ncnn(out / "s-x4.param")
    assert torch.equal(state["body.0.weight"], net.body[0].weight.half().float())


def test_safetensors_and_pth_open_in_spandrel_and_repeat(tmp_path):
    from spandrel import ModelLoader

    net = trained(4, tmp_path / "s.pth")
    x = torch.rand(1, 3, 31, 20)
    for form in ("safetensors", "pth"):
        (path,) = export.export(tmp_path / "s.pth", tmp_path / "out", [form])
        found = ModelLoader(device="cpu").load_from_file(path)
        assert (found.architecture.name, found.scale) == ("RealESRGAN Compact", 4)
        with torch.inference_mode():
            assert (found.model(x) - net(x)).abs().max() <= 1e-6
        (again,) = export.export(tmp_path / "s.pth", tmp_path / "again", [form])
        assert again.read_bytes() == path.read_bytes()

    with safe_open(tmp_path / "out" / "s.safetensors", "pt") as f:
        assert json.loads(f.metadata()["kd"]) == student.load(tmp_path / "out" / "s.pth").meta
    assert student.load(tmp_path / "out" / "s.pth").meta["provenance"]["train.steps"] == 7


def test_where_files_go_and_how_they_are_called(tmp_path):
    trained(4, tmp_path / "student_model.pth")
    source = tmp_path / "student_model.pth"
    for out, form, want in (
        ("folder", "ncnn", "folder/student_model-x4.param"),
        ("folder", "onnx", "folder/student_model.onnx"),
        ("mine.onnx", "ncnn", "mine-x4.param"),  # another format's suffix is replaced
        ("mine_4x.param", "ncnn", "mine_4x.param"),
        ("mine.v2.onnx", "onnx", "mine.v2.onnx"),
    ):
        assert export.export(source, tmp_path / out, [form]) == [tmp_path / want]
    assert export.export(source, tmp_path / "a.param") == [tmp_path / "a-x4.param"]  # by the suffix alone
    with pytest.raises(ExportError, match=r"run_32x14.param would be taken for a x1 model, .*such as .*/mine-x4"):
        export.export(source, tmp_path / "run_32x14.onnx", ["onnx", "ncnn"])
    assert not (tmp_path / "run_32x14.onnx").exists()


def test_errors_say_what_to_do(tmp_path, capsys):
    trained(1, tmp_path / "s.pth")
    with pytest.raises(ExportError, match=r"out names no format: add --to pth\|safetensors\|onnx\|openvino\|ncnn"):
        export.export(tmp_path / "s.pth", tmp_path / "out")
    with pytest.raises(ExportError, match="unknown format 'coreml': choose among pth"):
        export.export(tmp_path / "s.pth", tmp_path / "out", ["coreml"])
    assert not (tmp_path / "out").exists()
    (tmp_path / "no.pth").write_text("text")
    with pytest.raises(CheckpointError, match="no.pth"):
        export.export(tmp_path / "no.pth", tmp_path / "s.onnx")
    assert main(["export", "x", str(tmp_path / "s.onnx")]) == 2
    assert "model x is neither a file nor one of photo-s, photo-m" in capsys.readouterr().err


def test_a_model_that_is_none_is_named_with_the_choices():
    for name, says in (("student_x4_photo_s", "neither a file nor one of photo-s, "), ("a.onnx", "give the .pth")):
        with pytest.raises(ConfigError, match=f"model {name}.*{says}"):
            find_student(name)


def test_the_pth_loads_into_real_esrgans_own_class(official, tmp_path):
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    (path,) = export.export("m", tmp_path, ["pth"])
    theirs = SRVGGNetCompact(3, 3, num_feat=32, num_conv=14, upscale=4, act_type="prelu")
    theirs.load_state_dict(torch.load(path, weights_only=True)["params"])
    x = torch.rand(1, 3, 20, 17)
    with torch.inference_mode():
        assert (theirs(x) - student.load(path)(x)).abs().max() <= 1e-6
