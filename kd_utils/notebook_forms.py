"""The parameters of the notebooks: their forms, and what the command line gives them, by name and type."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_utils.colab import FORM, absolute
from kd_utils.common.errors import RunError, UsageError
from kd_utils.models.shipped import find_student
from kd_utils.overrides import did_you_mean, unknown_key

RESERVED = {"preset": "--preset", "workdir": "--workdir", "overrides": "--set"}  # they have options of their own
PATHS = ("teacher", "data.photos", "data.test_photos", "loss.vgg", "train.init", "photo", "photos", "model")


@dataclass
class Parameter:
    """One field of a notebook's form."""

    default: Any
    choices: list[Any] = field(default_factory=list)  # what the form offers; empty: anything
    low: float = float("-inf")  # the ends of a slider
    high: float = float("inf")


def form_of(notebook: Path) -> dict[str, Parameter]:
    """A notebook's parameters by name. Raises RunError where it has none."""
    import papermill

    found = papermill.inspect_notebook(notebook)
    if not found:
        raise RunError(
            f"{notebook.name} has no cell tagged `parameters` that sets any: papermill would run it as it stands. "
            "Restore the tag (JupyterLab: property inspector, cell tags) or the file (git checkout)"
        )
    return {name: _parameter(p["default"], p["help"].strip()) for name, p in found.items()}


def _parameter(default: str, comment: str) -> Parameter:
    """A field from the text of its value and its ``@param`` comment."""
    parameter = Parameter(ast.literal_eval(default))
    offered = re.match(r"@param\s*(\[.*?\])(?!.*allow-input)", comment)
    slider = re.search(r"min:\s*([\d.-]+),\s*max:\s*([\d.-]+)", comment)
    if offered:
        parameter.choices = json.loads(offered[1])
    if slider:
        parameter.low, parameter.high = float(slider[1]), float(slider[2])
    return parameter


def typed(name: str, text: str, parameter: Parameter) -> Any:
    """`text` from the command line as the type of the notebook's default. Raises UsageError."""
    kind = type(parameter.default)
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as e:
        example = f"{name}={parameter.default!r}"
        raise UsageError(f"-p {name}={text}: {name} is of type {kind.__name__}, such as {example}") from e

    if parameter.choices and value not in parameter.choices:
        hint = did_you_mean(text, map(str, parameter.choices))
        raise UsageError(f"-p {name}={text}: choose one of {', '.join(map(repr, parameter.choices))}{hint}")
    if kind in (int, float) and not parameter.low <= value <= parameter.high:
        raise UsageError(f"-p {name}={text}: {name} lies between {parameter.low:g} and {parameter.high:g}")
    return value


def parameters_of(notebooks: list[Path], given: Sequence[str]) -> list[dict[str, Any]]:
    """What of ``name=value`` each notebook takes, typed. Raises UsageError where none of them knows the name."""
    forms = [form_of(notebook) for notebook in notebooks]
    names = sorted({name for form in forms for name in form} - RESERVED.keys())
    taken: list[dict[str, Any]] = [{} for _ in forms]

    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"-p {item}: write name=value, for example -p steps=500")
        if name in RESERVED:
            raise UsageError(f"-p {name}: use {RESERVED[name]}")
        if name not in names:
            raise UsageError(f"-p {name}: {unknown_key(name, names)} Any other setting: --set")
        for form, mine in zip(forms, taken):
            if name in form:
                mine[name] = typed(name, text, form[name])
    return taken


def absolute_setting(item: str) -> str:
    """``key=value`` with the path of a file that is there made absolute, as notebooks run in another folder.

    What is not there may be a name, such as a teacher's. As a setting, `drive` is a folder, perhaps yet to be made.
    """
    key, _, value = item.partition("=")
    if key == "drive" and value:
        return f"drive={Path(value).expanduser().resolve()}"
    return f"{key}={absolute(value, Path.cwd())}" if key in PATHS else item


def refuse_twice(parameters: Sequence[str], sets: Sequence[str]) -> None:
    """UsageError for what has an option of its own, is given both ways, or names a photo that is not there."""
    form = dict(item.split("=", 1) for item in parameters)
    parameter_of = {FORM.get(name, name): name for name in form}

    for item in sets:
        key = item.partition("=")[0].strip()
        if key in RESERVED:
            raise UsageError(f"--set {key}: use {RESERVED[key]}")
        if key in parameter_of:
            raise UsageError(f"-p {parameter_of[key]} and --set {key} are the same setting: give one of them")

    model = form.get("model", "yours")
    if model != "yours":
        find_student(model, int(form.get("scale", 0)) or 4)
    photo = form.get("photo")
    if photo and not Path(photo).expanduser().exists():
        raise UsageError(f"-p photo={photo}: there is no such file or folder: check the path")
