"""Run the numbered notebooks headless, through papermill, strictly.

papermill alone lets a misspelt parameter pass, and a notebook that lost its `parameters` tag runs at full size with
exit code 0. Here every name and type is checked before anything runs. The executed notebooks are kept, failed ones
too. Nothing is skipped: a second run calls every step again, and the steps know what is done.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from kd_utils.colab import FORM, absolute
from kd_utils.common.errors import RunError, UsageError
from kd_utils.config import ROOT, make
from kd_utils.overrides import unknown_key

NOTEBOOKS = ROOT / "notebooks"
RESERVED = {"preset": "--preset", "workdir": "--workdir", "overrides": "--set"}  # they have options of their own
PATHS = ("teacher", "data.photos", "data.test_photos", "loss.vgg", "train.init", "photo", "photos")
LOG_EVERY = 15  # seconds between two states of a progress bar in a log file


@dataclass
class Ran:
    notebooks: list[Path]  # the executed ones
    seconds: float


def numbered(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks of the pipeline, in order: 01_data, 02_... The front door has no number."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def select(only: str, folder: Path = NOTEBOOKS) -> list[Path]:
    """``"03"``, ``"03,04"``, ``"03_train_student"`` or ``"ImageSharpeningKD"``; empty: all numbered ones."""
    known = {p.stem: p for p in sorted(folder.glob("*.ipynb"))}
    chosen = []
    for name in filter(None, (n.strip().removesuffix(".ipynb") for n in only.split(","))):
        found = [p for stem, p in known.items() if stem == name or stem.split("_")[0] == name]
        if not found:
            raise UsageError(f"--only {name}: no such notebook; there are {', '.join(known) or f'none in {folder}'}")
        chosen += found
    if not chosen and not (chosen := numbered(folder)):
        raise UsageError(f"no numbered notebooks in {folder}")
    return chosen


def form_of(notebook: Path) -> dict[str, tuple[Any, list[Any]]]:
    """A notebook's parameters, {name: (default, the choices its form offers, or [])}. RunError where it has none."""
    import papermill

    found = papermill.inspect_notebook(notebook)
    if not found:
        raise RunError(
            f"{notebook.name} has no cell tagged `parameters` that sets any: papermill would run it as it stands. "
            "Restore the tag (JupyterLab: property inspector, cell tags) or the file (git checkout)"
        )
    form = {}
    for name, p in found.items():
        offered = re.match(r"@param\s*(\[.*?\])(?!.*allow-input)", p["help"].strip())
        form[name] = (ast.literal_eval(p["default"]), json.loads(offered[1]) if offered else [])
    return form


def typed(name: str, text: str, default: Any, choices: list[Any]) -> Any:
    """`text` from the command line as the type of the notebook's default. Raises UsageError."""
    kind = type(default)
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as e:
        raise UsageError(f"-p {name}={text}: {name} is of type {kind.__name__}, such as {name}={default!r}") from e
    if choices and value not in choices:
        raise UsageError(f"-p {name}={text}: choose one of {', '.join(map(repr, choices))}")
    return value


def parameters_of(notebooks: list[Path], given: list[str]) -> list[dict[str, Any]]:
    """What of ``name=value`` each notebook takes, typed. Raises UsageError where none of them knows the name."""
    forms = [form_of(n) for n in notebooks]
    out: list[dict[str, Any]] = [{} for _ in forms]
    for item in given:
        name, eq, text = item.partition("=")
        if not eq:
            raise UsageError(f"-p {item}: write name=value, for example -p steps=500")
        if name in RESERVED:
            raise UsageError(f"-p {name}: use {RESERVED[name]}")
        if not any(name in form for form in forms):
            names = sorted({n for form in forms for n in form} - RESERVED.keys())
            raise UsageError(f"-p {name}: {unknown_key(name, names)} Any other setting: --set")
        for form, mine in zip(forms, out):
            if name in form:
                mine[name] = typed(name, text, *form[name])
    return out


def _absolute(item: str) -> str:
    """``key=value``; a path seen from the caller's folder is made absolute, as notebooks run elsewhere: one that is
    there, as what is not may be a name, such as a teacher's."""
    key, _, value = item.partition("=")
    return f"{key}={absolute(value, Path.cwd())}" if key in PATHS else item


def _refuse_twice(parameters: Sequence[str], sets: Sequence[str]) -> None:
    """UsageError for what has an option of its own, is given both ways, or names a photo that is not there."""
    form = {name: value for name, _, value in (item.partition("=") for item in parameters)}
    fields = {FORM.get(name, name): name for name in form}
    for key in (item.partition("=")[0].strip() for item in sets):
        if key in RESERVED:
            raise UsageError(f"--set {key}: use {RESERVED[key]}")
        if key in fields:
            raise UsageError(f"-p {fields[key]} and --set {key} are the same setting: give one of them")
    if form.get("photo") and not Path(form["photo"]).expanduser().exists():
        raise UsageError(f"-p photo={form['photo']}: there is no such file or folder: check the path")


def run(
    preset: str,
    workdir: str | Path,
    only: str = "",
    parameters: list[str] | tuple[str, ...] = (),
    sets: list[str] | tuple[str, ...] = (),
    folder: Path = NOTEBOOKS,
    out: TextIO | None = None,
) -> Ran:
    """Run notebooks; `parameters` are ``name=value`` of their forms, `sets` are ``key=value`` of the configuration.

    Raises UsageError and ConfigError before anything runs, RunError for a failing cell.
    """
    out = out or sys.stdout
    began = time.monotonic()
    workdir = Path(workdir).expanduser().resolve()
    notebooks = select(only, folder)
    each = parameters_of(notebooks, [_absolute(item) for item in parameters])
    _refuse_twice(parameters, sets)
    # as a setting, `drive` is a folder, perhaps yet to be made; as a parameter of the form it is a tick
    folder_of = {item: f"drive={Path(item[6:]).expanduser().resolve()}" for item in sets if re.match("drive=.", item)}
    overrides = shlex.join(folder_of.get(item) or _absolute(item) for item in sets)
    for mine in each:  # the same check as the notebook's own, before the first of them starts
        make(preset, overrides, **{FORM[k]: v for k, v in mine.items() if k in FORM and v})
    try:
        (workdir / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--workdir {workdir} cannot be written ({e.strerror}): choose another folder") from e
    done = []
    with _kernel(out):
        for n, (notebook, mine) in enumerate(zip(notebooks, each), 1):
            form = mine | {"preset": preset, "workdir": str(workdir), "overrides": overrides}
            done.append(_execute(notebook, workdir / "runs" / notebook.name, form, f"[{n}/{len(notebooks)}]", out))
    return Ran(done, time.monotonic() - began)


def _execute(notebook: Path, result: Path, form: dict[str, Any], count: str, out: TextIO) -> Path:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    print(f"\n{count} {notebook.stem}", file=out, flush=True)
    began = time.monotonic()
    echo = Echo(out)
    try:
        streams = {"progress_bar": False, "stdout_file": echo.stream(), "stderr_file": echo.stream()}
        papermill.execute_notebook(notebook, result, form, kernel_name="python3", cwd=ROOT, **streams)
    except PapermillExecutionError as e:
        raise RunError(_failure(notebook, result, e)) from e
    except DeadKernelError as e:
        raise RunError(
            f"{notebook.name}: its Python died, most often for lack of memory ({e}); lower label.batch or train.batch. "
            f"As far as it came: {result}"
        ) from e
    finally:
        echo.end()
    print(f"  {time.monotonic() - began:.0f} s", file=out, flush=True)
    return result


def _failure(notebook: Path, result: Path, e: Any) -> str:
    """Which cell of which notebook failed, its first lines and the error."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    number = next((n for n, c in enumerate(cells, 1) if "".join(c["source"]) == e.source), e.cell_index)
    lines = [line for line in e.source.splitlines() if line.strip()]
    shown = "\n".join(f"    {line}" for line in lines[:4] + ["..."] * (len(lines) > 4))
    error = re.sub(r"\x1b\[[0-9;]*m", "", f"{e.ename}: {e.evalue}")
    return (
        f"{notebook.name} failed in cell {number} of {len(cells)}:\n{shown}\n  {error}\n"
        f"With its traceback: {result}\nWhat was done is kept; the same command goes on from there."
    )


class Echo:
    """What cells print, indented. On a terminal progress bars move; in a log file one is a line now and then.

    A cell's stdout and stderr arrive in no certain order: each has its own `stream`, and what one has not finished
    the other does not write on.
    """

    def __init__(self, out: TextIO):
        self.out, self.live = out, out.isatty()
        self.fresh = True  # at the beginning of a line
        self.last: Any = None  # the stream that wrote last
        self.next_bar = 0.0  # no state of a bar goes to a log file before this time,
        self.full = ""  # but for its end, once

    def stream(self) -> Any:
        view = SimpleNamespace(flush=self.out.flush)
        view.write = lambda text: self._write(text, view)
        return view

    def _write(self, text: str, view: Any) -> None:
        if view is not self.last:
            self.end()
            self.last = view
        for sign, part in re.findall(r"([\r\n]?)([^\r\n]*)", text):
            if sign == "\n" or (sign and not self.live):
                self.end()
            elif sign:
                self.out.write("\r")
                self.fresh = True
            if sign == "\r" and not self.live:
                name, full, _ = part.partition("100%|")
                if name == self.full if full else time.monotonic() < self.next_bar:
                    continue
                self.next_bar = time.monotonic() + LOG_EVERY
                self.full = name if full else ""
            if part.strip() or (part and self.live):
                self.out.write("  " * self.fresh + part)
                self.fresh = False

    def end(self) -> None:
        self.out.write("\n" * (not self.fresh))
        self.fresh = True


@contextmanager
def _kernel(out: TextIO) -> Iterator[None]:
    """A kernel `python3` that is this very interpreter, whatever kernels are installed here.

    Its progress bars are plain text instead of widgets, which only a browser shows.
    """
    start = (
        "import sys, tqdm.std; sys.modules['tqdm.auto'] = tqdm.std; "
        "from ipykernel import kernelapp; kernelapp.launch_new_instance()"
    )
    spec = {
        "argv": [sys.executable, "-c", start, "-f", "{connection_file}", "--log-level=CRITICAL"],
        "display_name": "Python 3",
        "language": "python",
    }
    with tempfile.TemporaryDirectory(prefix="kd-kernel-") as folder:
        place = Path(folder, "kernels", "python3", "kernel.json")
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(spec))
        path = os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        mine = {"JUPYTER_PATH": path, "TQDM_MININTERVAL": "0.5", "TQDM_NROWS": "20"}
        mine["TQDM_NCOLS"] = str(min(90, shutil.get_terminal_size().columns - 3))
        before = {k: os.environ.get(k) for k in mine}
        os.environ.update(mine)
        try:
            yield
        finally:
            for k, v in before.items():
                os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)


def summary(ran: Ran, workdir: str | Path) -> str:
    """The scores, if the evaluation was among the notebooks, and where everything is."""
    from kd_utils.evaluation import report

    workdir = Path(workdir).expanduser().resolve()
    lines = [""]
    scores = workdir / "eval" / "metrics.json"
    if scores.is_file() and any(p.stem.startswith("04") or not p.stem[0].isdigit() for p in ran.notebooks):
        result = json.loads(scores.read_text())
        lines += [report.headline(result), "", report.table(result), ""]
        lines.append(f"report    {workdir / 'eval' / 'report.html'}")
    if (workdir / "student_model.pth").is_file():
        lines.append(f"student   {workdir / 'student_model.pth'}")
    lines.append(f"notebooks {ran.notebooks[0].parent} ({len(ran.notebooks)} executed in {ran.seconds:.0f} s)")
    return "\n".join(lines)
