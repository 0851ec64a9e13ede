"""Run the numbered notebooks headless, through papermill, strictly.

papermill alone lets a misspelt parameter pass, and a notebook that lost its `parameters` tag runs at full size with
exit code 0. Here every name and type is checked before anything runs. The executed notebooks are kept, failed ones
too. No notebook is skipped: a second run calls every step again, and the steps know what is done.
"""

from __future__ import annotations

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
from typing import Any, TextIO

from kd_utils.colab import FORM
from kd_utils.common import files
from kd_utils.common.echo import Echo
from kd_utils.common.errors import RunError, UsageError
from kd_utils.config import make
from kd_utils.notebook_forms import absolute_setting, parameters_of, refuse_twice
from kd_utils.overrides import did_you_mean
from kd_utils.own_files import ROOT

NOTEBOOKS = ROOT / "notebooks"


@dataclass
class Ran:
    notebooks: list[Path]  # the executed ones
    seconds: float


# ---- which notebooks


def numbered(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks of the pipeline, in order: 01_data, 02_... The front door has no number."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def select(only: str, folder: Path = NOTEBOOKS) -> list[Path]:
    """``"03"``, ``"03,04"``, ``"03_train_student"`` or ``"ImageSharpeningKD"``; empty: all numbered ones.

    Raises UsageError.
    """
    known = sorted(folder.glob("*.ipynb"))
    if not numbered(folder):
        raise UsageError(
            f"no numbered notebooks in {folder}: they come with a clone of the repository. The commands prepare, "
            "label, train and evaluate do the same without them"
        )

    chosen = []
    for name in only.replace(".ipynb", "").split(","):
        name = name.strip()
        found = [path for path in known if name and name in (path.stem, path.stem.split("_")[0])]
        if name and not found:
            stems = [path.stem for path in known]
            padded = [stem for stem in stems if stem.startswith(f"0{name}_")]
            hint = f": did you mean {padded[0]!r}?" if padded else did_you_mean(name, stems)
            raise UsageError(f"--only {name}: no such notebook; there are {', '.join(stems)}{hint}")
        chosen += found
    return chosen or numbered(folder)


# ---- running


def run(
    notebooks: list[Path],
    preset: str,
    workdir: str | Path,
    parameters: Sequence[str] = (),
    sets: Sequence[str] = (),
    out: TextIO | None = None,
) -> Ran:
    """Run notebooks; `parameters` are ``name=value`` of their forms, `sets` are ``key=value`` of the configuration.

    Raises UsageError and ConfigError before anything runs, RunError for a failing cell.
    """
    log: TextIO = out or sys.stdout
    began = time.monotonic()
    workdir = Path(workdir).expanduser().resolve()

    # As a parameter of the form, `drive` is a tick and no folder.
    given = [item if item.startswith("drive=") else absolute_setting(item) for item in parameters]
    forms = parameters_of(notebooks, given)
    refuse_twice(parameters, sets)
    overrides = shlex.join(absolute_setting(item) for item in sets)

    # Each notebook checks its settings as well, but the last one only when all others have run.
    for form in forms:
        make(preset, overrides, **{FORM[name]: value for name, value in form.items() if name in FORM and value})
    _make_folder(workdir / "runs")

    done = []
    with _kernel():
        for n, (notebook, form) in enumerate(zip(notebooks, forms), 1):
            print(f"\n[{n}/{len(notebooks)}] {notebook.stem}", file=log, flush=True)
            form |= {"preset": preset, "workdir": str(workdir), "overrides": overrides}
            done.append(_execute(notebook, workdir / "runs" / notebook.name, form, log))
    return Ran(done, time.monotonic() - began)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--workdir {folder.parent} cannot be written ({e.strerror}): choose another folder") from e


def _execute(notebook: Path, result: Path, form: dict[str, Any], out: TextIO) -> Path:
    """Run one notebook into `result`. Raises RunError."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    began = time.monotonic()
    echo = Echo(out)
    streams = {"progress_bar": False, "stdout_file": echo.stream(), "stderr_file": echo.stream()}
    try:
        papermill.execute_notebook(notebook, result, form, kernel_name="python3", cwd=ROOT, **streams)
    except PapermillExecutionError as e:
        raise RunError(_failure(notebook, result, e)) from e
    except DeadKernelError as e:
        raise RunError(
            f"{notebook.name}: its Python died, most often for lack of memory ({e}); lower label.batch or train.batch. "
            f"As far as it came: {result}"
        ) from e
    except OSError as e:
        raise RunError(
            f"{notebook.name}: {result} cannot be written ({e.strerror or e}): free some space, or choose another "
            "--workdir. What was done is kept"
        ) from e
    finally:
        echo.end_line()
    print(f"  {time.monotonic() - began:.0f} s", file=out, flush=True)
    return result


def _failure(notebook: Path, result: Path, e: Any) -> str:
    """Which cell of which notebook failed, its first lines and the error."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    number = e.cell_index
    for n, cell in enumerate(cells, 1):
        if "".join(cell["source"]) == e.source:
            number = n
            break

    lines = [line for line in e.source.splitlines() if line.strip()]
    if len(lines) > 4:
        lines[4:] = ["..."]
    shown = "\n".join(f"    {line}" for line in lines)
    error = re.sub(r"\x1b\[[0-9;]*m", "", f"{e.ename}: {e.evalue}")
    return (
        f"{notebook.name} failed in cell {number} of {len(cells)}:\n{shown}\n  {error}\n"
        f"With its traceback: {result}\nWhat was done is kept."
    )


@contextmanager
def _kernel() -> Iterator[None]:
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
    mine = {"TQDM_MININTERVAL": "0.5", "TQDM_NROWS": "20"}
    if sys.stdout.isatty():  # for a log file nothing is cut off: there a bar becomes a line of words
        mine["TQDM_NCOLS"] = str(min(110, shutil.get_terminal_size().columns - 3))
    mine["JUPYTER_PATH"] = os.environ.get("JUPYTER_PATH", "")
    before = {name: os.environ.get(name) for name in mine}

    _sweep_kernels()
    with tempfile.TemporaryDirectory(prefix=f"kd-kernel-{os.getpid()}-") as folder:
        place = Path(folder, "kernels", "python3", "kernel.json")
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(spec))

        mine["JUPYTER_PATH"] = os.pathsep.join(filter(None, (folder, mine["JUPYTER_PATH"])))
        os.environ.update(mine)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _sweep_kernels() -> None:
    """Remove the folders of kernels whose runs were killed."""
    for folder in Path(tempfile.gettempdir()).glob("kd-kernel-*-*"):
        pid = folder.name.split("-")[2]
        if os.name == "posix" and pid.isdigit() and not files.is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def summary(ran: Ran, workdir: str | Path) -> str:
    """The scores, if the evaluation was among the notebooks, and where everything is."""
    from kd_utils.evaluation import report, scores, tables

    workdir = Path(workdir).expanduser().resolve()
    lines = [""]
    metrics = workdir / "eval" / "metrics.json"
    evaluated = [path for path in ran.notebooks if path.stem.startswith("04") or not path.stem[0].isdigit()]
    if metrics.is_file() and evaluated:
        evaluation = scores.read(metrics)
        lines += [report.in_words(evaluation), "", tables.table(evaluation), ""]
        lines.append(f"report    {workdir / 'eval' / 'report.html'}")

    if (workdir / "student_model.pth").is_file():
        lines.append(f"student   {workdir / 'student_model.pth'}")
    lines.append(f"notebooks {ran.notebooks[0].parent} ({len(ran.notebooks)} executed in {ran.seconds:.0f} s)")
    return "\n".join(lines)
