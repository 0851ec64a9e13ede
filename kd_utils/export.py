"""A student as one ONNX file that onnxruntime, onnxruntime-web and OpenVINO read.

The graph is written node by node (a student is a chain of a few kinds) instead of through torch's exporter, so it is
the same bytes with every version of torch, has no data file beside it, and takes any height and width: what a scale 2
or 1 student needs of its input's sides is padded and cut inside the graph.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kd_utils.common import files
from kd_utils.common.errors import ConfigError, ExportError
from kd_utils.config import shipped
from kd_utils.models import student
from kd_utils.models.tiling import measure_receptive_field

OPSET, IR = 17, 8  # old enough for every current reader
DEFAULT = {4: "m", 2: "m", 1: "s"}  # size by scale, of the students in assets/weights


def graph(net: student.Student, fp16: bool = False) -> Any:
    """The onnx.ModelProto of a student: `image` (n, 3, h, w) RGB in [0, 1] -> `sharp` (n, 3, h*scale, w*scale).

    float32 in and out, not clamped, equal to the PyTorch network to rounding. With `fp16` the convolutions and their
    weights are half precision between two casts; input, residual and output stay float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    meta = getattr(net, "meta", {})
    net = student.fuse(net).float().cpu()
    kind = np.float16 if fp16 else np.float32
    nodes: list[Any] = []
    consts: dict[str, np.ndarray] = {}

    def const(name: str, value: Any, dtype: Any = np.int64) -> str:
        consts[name] = np.asarray(value, dtype)
        return name

    def node(op: str, *inputs: str, out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}_{out}", **attributes))
        return out

    x = "image"
    if net.down > 1:  # repeat the last row and column up to a multiple of `down`
        const("d", net.down)
        node("Shape", x, out="sides", start=2, end=4)
        node("Mod", "sides", "d", out="rest")
        node("Sub", "d", "rest", out="short")
        node("Mod", "short", "d", out="extra")
        node("Concat", const("front", [0] * 6), "extra", out="pads", axis=0)
        x = node("Pad", x, "pads", out="padded", mode="edge")
    y = node("Cast", x, out="half", to=TensorProto.FLOAT16) if fp16 else x
    if net.down > 1:
        y = node("SpaceToDepth", y, out="unshuffled", blocksize=net.down)
    for i, layer in enumerate(getattr(net, net.trunk)):
        weight = layer.weight.detach().numpy()
        if isinstance(layer, nn.PReLU):
            y = node("PRelu", y, const(f"slope{i}", weight.reshape(-1, 1, 1), kind), out=f"y{i}")
            continue
        if i == 0 and net.down > 1:  # SpaceToDepth counts block by block, PixelUnshuffle channel by channel
            weight = weight.reshape(len(weight), 3, net.down**2, 3, 3).swapaxes(1, 2).reshape(weight.shape)
        const(f"weight{i}", weight, kind)
        const(f"bias{i}", layer.bias.detach().numpy(), kind)
        y = node("Conv", y, f"weight{i}", f"bias{i}", out=f"y{i}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    if fp16:
        y = node("Cast", y, out="full", to=TensorProto.FLOAT)
    y = node("DepthToSpace", y, out="shuffled", blocksize=student.UP, mode="CRD")
    if net.scale > 1:
        const("scales", [1, 1, net.scale, net.scale], np.float32)
        # each pixel repeated, as torch's "nearest"
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        x = node("Resize", x, "", "scales", out="repeated", **how)
    y = node("Add", y, x, out="sum" if net.down > 1 else "sharp")
    if net.down > 1:
        node("Mul", "sides", const("scale", net.scale), out="ends")
        node("Slice", y, const("starts", [0, 0]), "ends", const("axes", [2, 3]), out="sharp")

    def image(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, *shape])

    weights = [numpy_helper.from_array(v, k) for k, v in consts.items()]
    body = helper.make_graph(nodes, "student", [image("image", "h", "w")], [image("sharp", "H", "W")], weights)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opset, ir_version=IR, producer_name="kd_utils")
    said = {"scale": net.scale, "radius": measure_receptive_field(net).radius, "fp16": fp16} | describe(meta)
    props = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in said.items()}
    helper.set_model_props(model, props)
    return model


def describe(meta: dict[str, Any]) -> dict[str, Any]:
    """The teacher's name, and a short name of the training run, in front of all that the student's file says."""
    made = meta.get("provenance", {})
    teacher = made.get("labels.teacher") or meta.get("teacher")  # the latter in the students that ship
    if not teacher and "teacher_sha256" in meta:
        teacher = f"sha256 {meta['teacher_sha256']}"
    return {"teacher": teacher or "", "training_run": files.digest(made) if made else "", "meta": meta}


def find(model: str | Path = "", scale: int = 4) -> Path:
    """A student's file by its path, or by "s", "m" or "l" (or nothing) among those that ship for `scale` 4, 2 or 1.

    None ships for scale 2: those of 4 serve, resized down. Raises ConfigError.
    """
    name = str(model) or DEFAULT[scale]
    if name in ("s", "m", "l"):
        return shipped(f"student_x{1 if scale == 1 else 4}_{name}.pth")
    path = Path(name).expanduser()
    if path.suffix.lower() == ".onnx":
        raise ConfigError(f"--model {name}: give the .pth that it was made of (--engine onnx runs that by onnxruntime)")
    if not path.exists():
        raise ConfigError(f"--model {name} is neither a file nor one of s, m, l: check the path")
    return path


def export(model: str | Path, out: str | Path, fp16: bool = False, scale: int | None = None) -> Path:
    """Write the ONNX file of a student, by path or as `find`, which has to be of `scale` if that is given.

    Raises CheckpointError for a model that is none, ConfigError for one that does not ship, ExportError for another
    suffix or scale.
    """
    out = Path(out).expanduser()
    if out.suffix.lower() != ".onnx":
        raise ExportError(f"{out} does not end in .onnx: give the file to write")
    path = find(model, scale or 4)
    net = student.load(path)
    if scale not in (None, net.scale):
        raise ExportError(f"{path} is of scale {net.scale}, not {scale}: leave --scale out, or name another --model")
    return files.write_bytes(out, graph(net, fp16).SerializeToString())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("output", metavar="OUT.onnx")
    add(
        "--model", default="", help="s, m or l of the students that ship (default: m; at scale 1, s), or a student .pth"
    )
    add("--scale", type=int, choices=(4, 2, 1), help="of the student (default: the file's own; of those that ship, 4)")
    add("--fp16", action="store_true", help="half-precision inside; input and output stay float32")


def main(args: argparse.Namespace) -> int:
    out = export(args.model, args.output, args.fp16, args.scale)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, image (n, 3, h, w) RGB in [0, 1] -> sharp")
    return 0
