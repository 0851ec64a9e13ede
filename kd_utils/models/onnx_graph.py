"""A student as an ONNX graph that onnxruntime, onnxruntime-web and OpenVINO read.

The graph is written node by node (a student is a chain of a few kinds) instead of through torch's exporter, so it is
the same bytes with every version of torch, has no data file beside it, and takes any height and width: what a scale 2
or 1 student needs of its input's sides is padded and cut inside the graph. A PReLU of slope s is written as
(1 - s) * relu(x) + s * x: onnxruntime's own PRelu breaks its blocked layout, which costs a fifth of the time. OpenVINO
computes a PRelu within the convolution before it, so the graph for its engine keeps it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from torch import nn

from kd_utils.common import files
from kd_utils.models import student
from kd_utils.models.receptive_field import measure_receptive_field

OPSET, IR = 17, 8  # old enough for every current reader


class Nodes:
    """The nodes and the constants of a graph, in the order in which they are added."""

    def __init__(self, dtype: type, prelu: bool = False):
        self.dtype = dtype  # of the convolutions and what stands between them
        self.prelu = prelu  # whether a PReLU stays one node
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: Any, dtype: type = np.int64) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, op: str, *inputs: str, out: str, **attributes: Any) -> str:
        """One node; returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}_{out}", **attributes))
        return out


def graph(net: student.Student, fp16: bool = False, prelu: bool = False) -> Any:
    """The onnx.ModelProto of a student: `image` (n, 3, h, w) RGB in [0, 1] -> `sharp` (n, 3, h*scale, w*scale).

    float32 in and out, not clamped, equal to the PyTorch network to rounding. With `fp16` the convolutions and their
    weights are half precision between two casts; input, residual and output stay float32. With `prelu` a PReLU stays
    one node.
    """
    from onnx import TensorProto

    about = {"scale": net.scale, "radius": measure_receptive_field(net).radius, "fp16": fp16}
    about |= describe(getattr(net, "meta", {}))
    net = student.fuse(net).float().cpu()
    nodes = Nodes(np.float16 if fp16 else np.float32, prelu)

    x = _pad_to_multiple(nodes, "image", net.down) if net.down > 1 else "image"
    y = nodes.add("Cast", x, out="half", to=TensorProto.FLOAT16) if fp16 else x
    y = _body(nodes, y, net)
    if fp16:
        y = nodes.add("Cast", y, out="full", to=TensorProto.FLOAT)
    y = nodes.add("DepthToSpace", y, out="shuffled", blocksize=student.UP, mode="CRD")

    if net.scale > 1:
        x = _repeat_pixels(nodes, x, net.scale)
    if net.down > 1:
        y = nodes.add("Add", y, x, out="sum")
        _cut_to_image(nodes, y, net.scale)
    else:
        nodes.add("Add", y, x, out="sharp")
    return _model(nodes, about)


def _pad_to_multiple(nodes: Nodes, x: str, down: int) -> str:
    """Repeat the last row and column up to a multiple of `down`."""
    nodes.constant("d", down)
    nodes.add("Shape", x, out="sides", start=2, end=4)
    nodes.add("Mod", "sides", "d", out="rest")
    nodes.add("Sub", "d", "rest", out="short")
    nodes.add("Mod", "short", "d", out="extra")  # 0 where the side is a multiple already
    nodes.constant("front", [0] * 6)
    nodes.add("Concat", "front", "extra", out="pads", axis=0)
    return nodes.add("Pad", x, "pads", out="padded", mode="edge")


def _body(nodes: Nodes, y: str, net: student.Student) -> str:
    """The convolutions and PReLUs, in the precision of `nodes`."""
    if net.down > 1:
        y = nodes.add("SpaceToDepth", y, out="unshuffled", blocksize=net.down)

    for i, layer in enumerate(net.layers):
        weight = layer.weight.detach().numpy()
        if isinstance(layer, nn.PReLU):
            y = _prelu(nodes, y, weight, i)
            continue
        if i == 0 and net.down > 1:  # SpaceToDepth counts block by block, PixelUnshuffle channel by channel
            weight = weight.reshape(len(weight), 3, net.down**2, 3, 3).swapaxes(1, 2).reshape(weight.shape)
        nodes.constant(f"weight{i}", weight, nodes.dtype)
        nodes.constant(f"bias{i}", layer.bias.detach().numpy(), nodes.dtype)
        y = nodes.add("Conv", y, f"weight{i}", f"bias{i}", out=f"y{i}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return y


def _prelu(nodes: Nodes, y: str, slopes: np.ndarray, i: int) -> str:
    slopes = slopes.reshape(-1, 1, 1)
    nodes.constant(f"slope{i}", slopes, nodes.dtype)
    if nodes.prelu:
        return nodes.add("PRelu", y, f"slope{i}", out=f"y{i}")

    nodes.constant(f"rest{i}", 1 - slopes, nodes.dtype)
    nodes.add("Relu", y, out=f"positive{i}")
    nodes.add("Mul", f"positive{i}", f"rest{i}", out=f"bent{i}")
    nodes.add("Mul", y, f"slope{i}", out=f"straight{i}")
    return nodes.add("Add", f"bent{i}", f"straight{i}", out=f"y{i}")


def _repeat_pixels(nodes: Nodes, x: str, scale: int) -> str:
    """Each pixel `scale` times, as torch's "nearest"."""
    nodes.constant("scales", [1, 1, scale, scale], np.float32)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return nodes.add("Resize", x, "", "scales", out="repeated", **how)


def _cut_to_image(nodes: Nodes, y: str, scale: int) -> None:
    """Leave away what `_pad_to_multiple` added."""
    nodes.constant("scale", scale)
    nodes.add("Mul", "sides", "scale", out="ends")
    nodes.constant("starts", [0, 0])
    nodes.constant("axes", [2, 3])
    nodes.add("Slice", y, "starts", "ends", "axes", out="sharp")


def _model(nodes: Nodes, about: dict[str, Any]) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    sharp = helper.make_tensor_value_info("sharp", TensorProto.FLOAT, ["n", 3, "H", "W"])
    weights = [numpy_helper.from_array(value, name) for name, value in nodes.constants.items()]
    body = helper.make_graph(nodes.nodes, "student", [image], [sharp], weights)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(body, opset_imports=[opset], ir_version=IR, producer_name="kd_utils")

    texts = {}
    for name, value in about.items():
        texts[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    helper.set_model_props(model, texts)
    return model


def describe(meta: dict[str, Any]) -> dict[str, Any]:
    """The teacher's name, and a short name of the training run, in front of all that the student's file says."""
    made = meta.get("provenance", {})
    teacher = made.get("labels.teacher") or meta.get("teacher")  # the latter in the students that ship
    if not teacher and "teacher_sha256" in meta:
        teacher = f"sha256 {meta['teacher_sha256']}"
    return {"teacher": teacher or "", "training_run": files.digest(made) if made else "", "meta": meta}
