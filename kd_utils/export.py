"""A student in the formats of other programs. docs/export.md says which program opens what, and where to put it."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from kd_utils.common import files
from kd_utils.common.errors import ExportError, UnknownFormat
from kd_utils.common.tensors import to_tensor
from kd_utils.config import Config
from kd_utils.data.photos import find_photos, split_photos
from kd_utils.imaging import reading
from kd_utils.models import int8, shipped, student
from kd_utils.models.ncnn_writer import write_ncnn
from kd_utils.models.onnx_graph import graph
from kd_utils.models.teacher import find_teacher, load_teacher, teacher_target
from kd_utils.overrides import did_you_mean

PAIRED = (".param", ".xml")  # of ncnn and OpenVINO: the network, whose weights lie in a .bin beside it
MOST_PICTURES, SIDE = 32, 96  # for the ranges of int8: how many pictures, and the side of each


@dataclass(frozen=True)
class Format:
    suffix: str
    write: Callable[[student.Student, Path], Path]
    named_by_scale: bool = False  # programs read the scale from the file's name


def _write_pth(net: student.Student, path: Path) -> Path:
    return student.save(net, path, net.meta)


def _write_safetensors(net: student.Student, path: Path) -> Path:
    from safetensors.torch import save

    about = json.dumps(
        {"scale": net.scale} | net.meta, sort_keys=True
    )  # one entry: the library orders several at random
    return files.write_bytes(path, save(net.state_dict(), {"kd": about}))


def _write_onnx(net: student.Student, path: Path, fp16: bool = False) -> Path:
    return files.write_bytes(path, graph(net, fp16).SerializeToString())


def _write_openvino(net: student.Student, path: Path) -> Path:
    import openvino

    return save_openvino(openvino.Core().read_model(graph(net, prelu=True).SerializeToString()), path)


def save_openvino(model: Any, path: Path) -> Path:
    """Write an openvino.Model as `path` (.xml) and the `.bin` beside it, fp32; returns the path of the `.xml`."""
    import openvino

    # names that OpenVINO makes up count on through a process: equal students are to give equal bytes
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "model.xml")
        openvino.save_model(model, made, compress_to_fp16=False)
        files.write_bytes(path.with_suffix(".bin"), made.with_suffix(".bin").read_bytes())
        return files.write_bytes(path, made.read_bytes())


FORMATS = {
    "pth": Format(".pth", _write_pth),
    "safetensors": Format(".safetensors", _write_safetensors),
    "onnx": Format(".onnx", _write_onnx),
    "openvino": Format(".xml", _write_openvino),
    "ncnn": Format(".param", write_ncnn, named_by_scale=True),
}


def export(
    model: str | Path, out: str | Path, to: Sequence[str] = (), fp16: bool = False, scale: int | None = None
) -> list[Path]:
    """Write a student, by path or as `find_student`, in the formats `to`; returns the files, one a format.

    `out` is a folder, or the name of the file to write; its suffix is replaced where it is another format's. Without
    `to` its suffix says the format. `fp16` is for ONNX only, ncnn is half precision in any case. The student has to be
    of `scale` if that is given. Raises CheckpointError for a model that is none, ConfigError for one that does not
    ship, ExportError for what cannot be written.
    """
    out = Path(out).expanduser()
    formats = _choose_formats(out, to)

    path, net = _find(model, scale)

    # all names first, so that a wrong one is refused before anything is written
    targets = [_file_name(out, path, form, net.scale) for form in formats]
    written = []
    for form, target in zip(formats, targets, strict=True):
        if form.write is _write_onnx:
            written.append(_write_onnx(net, target, fp16))
        else:
            written.append(form.write(net, target))
    return written


def _find(model: str | Path, scale: int | None) -> tuple[Path, student.Student]:
    """A student and its file. Raises ExportError where it is of another scale than asked for."""
    path = shipped.find_student(model, scale or 4)
    net = student.load(path)
    if scale not in (None, net.scale):
        raise ExportError(f"{path} is of scale {net.scale}, not {scale}: leave --scale out, or name another student")
    return path, net


def with_weights(paths: Sequence[Path]) -> list[Path]:
    """What `export` returned, and after each .param and .xml the .bin that holds its weights."""
    found = []
    for path in paths:
        found.append(path)
        if path.suffix in PAIRED:
            found.append(path.with_suffix(".bin"))
    return found


def export_int8(
    model: str | Path, out: str | Path, teacher: str, photos: str = "samples", scale: int | None = None
) -> tuple[Path, int8.Int8]:
    """Write a student in 8-bit integers for OpenVINO; returns the `.xml` and what the rounding costs.

    `photos` ("samples", a folder or a zip) calibrate it, and `teacher` says how good it is. Raises ExportError where it
    loses more than `int8.MOST_LOSS` dB to the teacher, and what `export`, `find_teacher` and `find_photos` raise.
    """
    path, net = _find(model, scale)
    target = _file_name(Path(out).expanduser(), path, FORMATS["openvino"], net.scale)
    teach = load_teacher(find_teacher(teacher))

    made = int8.quantize(net, lambda x: teacher_target(teach.net, x, net.scale), _pictures(photos, net.scale))
    if made.loss > int8.MOST_LOSS:
        raise ExportError(f"{path}: {made}, more than {int8.MOST_LOSS}: not written; use --to openvino without --int8")
    return save_openvino(made.model, target), made


def _pictures(photos: str, scale: int) -> list[Tensor]:
    """Inputs as a student of `scale` gets them: the centre of each photo, made smaller by `scale`, (1, 3, h, w)."""
    if photos == "samples":
        found = [photo for split in split_photos(Config()).values() for photo in split]
    else:
        found = find_photos(photos, "--photos")
    found = found[:: max(1, len(found) // MOST_PICTURES)][:MOST_PICTURES]

    pictures = []
    for photo in found:
        pixels = reading.read(photo.bytes(), photo.name).pixels
        height, width = (min(SIDE, side // scale // 4 * 4) for side in pixels.shape[:2])
        top, left = (pixels.shape[0] - height * scale) // 2, (pixels.shape[1] - width * scale) // 2
        square = pixels[top : top + height * scale, left : left + width * scale]
        if min(height, width) >= 4 and pixels.dtype == np.uint8:
            pictures.append(to_tensor(cv2.resize(square, (width, height), interpolation=cv2.INTER_AREA)[None]))
    return pictures


def _choose_formats(out: Path, to: Sequence[str]) -> list[Format]:
    if not to:
        to = [name for name, form in FORMATS.items() if form.suffix == out.suffix.lower()]
        if not to:
            raise ExportError(
                f"{out} names no format: add --to {'|'.join(FORMATS)}, or end it in one of their suffixes"
            )
    for name in to:
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS)
            raise UnknownFormat(f"unknown format {name!r}: choose among {', '.join(FORMATS)}{hint}")
        if name == "openvino" and not find_spec("openvino"):
            raise ExportError(
                'OpenVINO files need the package openvino: pip install "imagesharpening-kd[fast]", or use --to onnx, '
                "which OpenVINO opens as it is"
            )
    return [FORMATS[name] for name in dict.fromkeys(to)]


def _file_name(out: Path, student_file: Path, form: Format, scale: int) -> Path:
    """The file to write in a folder `out`, or under the name `out`. Raises ExportError."""
    known = {other.suffix for other in FORMATS.values()}
    path = out
    if out.suffix.lower() not in known or out.is_dir():
        path = out / f"{student_file.stem}.pth"
    if not form.named_by_scale:
        return path.with_suffix(form.suffix)

    found = _scale_in_name(path.stem)
    if found is None:
        return path.with_name(f"{path.stem}-x{scale}{form.suffix}")
    if found != scale:
        raise ExportError(
            f"{path.stem}{form.suffix} would be taken for a x{found} model, because programs that open {form.suffix} "
            f"files read the scale from the name: name it without x{found}, such as {path.with_name(f'mine-x{scale}')}"
        )
    return path.with_suffix(form.suffix)


def _scale_in_name(name: str) -> int | None:
    """What Upscayl takes for the scale of a model: the first of x1, x2, x3 ... that is anywhere in its name."""
    for scale in (1, 2, 3, 4, 8, 16):
        if f"x{scale}" in name.lower() or f"{scale}x" in name.lower():
            return scale
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = f"a student that ships ({', '.join(shipped.shipped_names())}), or a student .pth"
    add("student", metavar="STUDENT", help=text)
    add("output", metavar="OUT", help="a folder, or the file to write")
    formats = "|".join(FORMATS)
    help_to = "the format; several: --to onnx,ncnn (default: the one that OUT ends in)"
    add("--to", metavar=formats, type=lambda text: re.split(r"[,|]", text), action="extend", default=[], help=help_to)
    add("--scale", type=int, choices=(4, 2, 1), help="of the student (default: the file's own; of those that ship, 4)")
    add("--fp16", action="store_true", help="ONNX with half precision inside; input and output stay float32")
    text = "OpenVINO in 8-bit integers, by nncf; refused where it loses more than .3 dB to the teacher"
    add("--int8", action="store_true", help=text)
    add("--photos", default="samples", help="a folder or zip of photos that calibrate --int8 (default: bundled)")
    add("--teacher", default="anime_6B", help="who judges --int8 (default: anime_6B)")


def main(args: argparse.Namespace) -> int:
    if args.int8:
        if args.to not in ([], ["openvino"]):
            raise ExportError("--int8 is for --to openvino alone: write the other formats by another call")
        path, made = export_int8(args.student, args.output, args.teacher, args.photos, args.scale)
        print(made)
        paths = [path]
    else:
        paths = export(args.student, args.output, args.to, args.fp16, args.scale)

    for path in with_weights(paths):
        print(f"{path}: {_size(path)}")
    return 0


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
