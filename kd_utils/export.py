"""A student in the formats of other programs. docs/export.md says which program opens what, and where to put it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_utils.common import files
from kd_utils.common.errors import ExportError, UnknownFormat
from kd_utils.models import shipped, student
from kd_utils.models.ncnn_writer import write_ncnn
from kd_utils.models.onnx_graph import graph
from kd_utils.overrides import did_you_mean


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


FORMATS = {
    "pth": Format(".pth", _write_pth),
    "safetensors": Format(".safetensors", _write_safetensors),
    "onnx": Format(".onnx", _write_onnx),
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

    path = shipped.find_student(model, scale or 4)
    net = student.load(path)
    if scale not in (None, net.scale):
        raise ExportError(f"{path} is of scale {net.scale}, not {scale}: leave --scale out, or name another student")

    # all names first, so that a wrong one is refused before anything is written
    targets = [_file_name(out, path, form, net.scale) for form in formats]
    written = []
    for form, target in zip(formats, targets, strict=True):
        if form.write is _write_onnx:
            written.append(_write_onnx(net, target, fp16))
        else:
            written.append(form.write(net, target))
    return written


def _choose_formats(out: Path, to: Sequence[str]) -> list[Format]:
    if not to:
        to = [name for name, form in FORMATS.items() if form.suffix == out.suffix.lower()]
        if not to:
            raise ExportError(
                f"{out} names no format: add --to {'|'.join(FORMATS)}, or end it in one of their suffixes"
            )
    for name in to:
        if name == "openvino":
            raise ExportError("OpenVINO files are not written yet: use --to onnx, which OpenVINO opens as it is")
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS)
            raise UnknownFormat(f"unknown format {name!r}: choose among {', '.join(FORMATS)}{hint}")
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
    add("student", metavar="STUDENT", help="s, m or l of the students that ship, or a student .pth")
    add("output", metavar="OUT", help="a folder, or the file to write")
    formats = "|".join([*FORMATS, "openvino"])
    help_to = "the format; several: --to onnx,ncnn (default: the one that OUT ends in)"
    add("--to", metavar=formats, type=lambda text: re.split(r"[,|]", text), action="extend", default=[], help=help_to)
    add("--scale", type=int, choices=(4, 2, 1), help="of the student (default: the file's own; of those that ship, 4)")
    add("--fp16", action="store_true", help="ONNX with half precision inside; input and output stay float32")


def main(args: argparse.Namespace) -> int:
    for path in export(args.student, args.output, args.to, args.fp16, args.scale):
        weights = path.with_suffix(".bin")
        also = f" and {weights.name} of {_size(weights)}" if path.suffix == ".param" else ""
        print(f"{path}: {_size(path)}{also}")
    return 0


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
