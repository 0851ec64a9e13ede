"""The runner of notebooks: strict about names, types and tags, clear about what failed, and no kernel installed."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys

import nbformat
import pytest

from kd_utils import run_notebooks
from kd_utils.common.errors import RunError, UsageError
from kd_utils.config import ConfigError
from kd_utils.notebook_forms import parameters_of
from kd_utils.run_notebooks import select


def notebook(path, *cells, tag="parameters"):
    made = [nbformat.v4.new_code_cell(c) for c in cells]
    made[0].metadata["tags"] = [tag]
    metadata = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=metadata), path)
    return path


FORM = """preset: str = "quick"  # @param ["quick", "colab"]
workdir: str = "w"
overrides: str = ""
"""
ONE = [
    FORM
    + """word: str = "a"
big: bool = False
part: float = 1.0  # @param {type:"slider", min:0, max:1, step:0.5}
size: str = ""  # @param ["", "s"]""",
    "import json, os, sys\nfrom pathlib import Path\nprint('begun')",
    """Path(workdir).mkdir(exist_ok=True)
with open(Path(workdir) / "one.jsonl", "a") as f:
    print(json.dumps([word, big, overrides, os.getcwd(), sys.executable]), file=f)""",
]
TWO = [
    FORM + "steps: int = 3",
    "from pathlib import Path\n\nflag = Path(workdir, 'flag')",
    """# one
x = 1
y = 2
z = 3
if not flag.exists():
    raise OSError(f"no flag after {steps} steps")
print("fine")""",
]


@pytest.fixture
def two(tmp_path):
    """Two small notebooks: 01_one takes `word` and writes it down; 02_two takes `steps` and wants a file `flag`."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook(folder / "01_one.ipynb", *ONE)
    notebook(folder / "02_two.ipynb", *TWO)
    return folder


def run(folder, tmp_path, only="", **kw):
    out = io.StringIO()
    try:
        return run_notebooks.run(select(only, folder), "quick", tmp_path / "work dir", out=out, **kw), out.getvalue()
    finally:
        print(out.getvalue())


def test_a_failing_cell_is_named_kept_and_the_next_run_goes_on(two, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "none"))
    sets = ["data.photos=samples", "data.test_photos=a b'c\"$(x)\\"]
    with pytest.raises(RunError) as failed:
        run(two, tmp_path, parameters=["word=a=b c", "big=TRUE", "steps=7"], sets=sets)
    message = str(failed.value)
    assert "02_two.ipynb failed in cell 3 of 3" in message and "OSError: no flag after 7 steps" in message
    assert "x = 1" in message and "fine" not in message, "the first lines only"
    runs = tmp_path / "work dir" / "runs"
    assert str(runs / "02_two.ipynb") in message
    kept = json.loads((runs / "02_two.ipynb").read_text())
    assert any(o.get("ename") == "OSError" for c in kept["cells"] for o in c.get("outputs", []))
    word, big, overrides, cwd, python = json.loads((tmp_path / "work dir" / "one.jsonl").read_text())
    assert (word, big, cwd) == ("a=b c", True, str(run_notebooks.ROOT))
    assert shlex.split(overrides) == sets, "quotes survive papermill and the notebook"
    assert python == sys.executable, "the kernel is this interpreter, although none is installed"

    (tmp_path / "work dir" / "flag").touch()
    done, out = run(two, tmp_path, only="02")
    assert [p.name for p in done.notebooks] == ["02_two.ipynb"] and "  fine\n" in out


def test_names_types_and_choices_are_checked_before_anything_runs(two, tmp_path, capsys):
    notebooks = select("", two)
    assert parameters_of(notebooks, ["steps=5", "word=x"]) == [{"word": "x"}, {"steps": 5}]
    for given, message in {
        "part=2": "part lies between 0 and 1",
        "size=ss": "choose one of '', 's': did you mean 's'",
        "stesp=5": "did you mean 'steps'",
        "steps=many": "steps is of type int, such as steps=3",
        "steps=5.5": "of type int",
        "big=maybe": "of type bool",
        "size=xl": "choose one of '', 's'",
        "steps": "write name=value",
        "preset=full": "use --preset",
        "overrides=a": "use --set",
    }.items():
        with pytest.raises(UsageError, match=message):
            run(two, tmp_path, parameters=[given])
    for given, sets, message in (
        ([], ["workdir=elsewhere"], "--set workdir: use --workdir"),
        (["steps=5"], ["train.steps=6"], "-p steps and --set train.steps are the same setting"),
    ):
        with pytest.raises(UsageError, match=message):
            run(two, tmp_path, parameters=given, sets=sets)
    with pytest.raises(UsageError, match="-p photo=none.jpg: there is no such file"):
        run_notebooks.run(select(""), "quick", tmp_path / "work dir", parameters=["photo=none.jpg"])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match=r"--workdir .* cannot be written \(Not a directory\): choose another folder"):
        run(two, tmp_path / "file")
    with pytest.raises(UsageError, match="-p steps: unknown key 'steps'"):
        run(two, tmp_path, only="01", parameters=["steps=5"])
    with pytest.raises(ConfigError, match="train.steps"):
        run(two, tmp_path, sets=["train.stepz=5"])
    with pytest.raises(ConfigError, match="full"):
        run_notebooks.run(notebooks, "fast", tmp_path / "w")
    with pytest.raises(UsageError, match="no such notebook; there are 01_one, 02_two"):
        run(two, tmp_path, only="03")
    assert not (tmp_path / "work dir").exists(), "nothing ran"


def test_a_notebook_that_lost_its_tag_is_refused(two, tmp_path):
    notebook(two / "02_two.ipynb", *TWO, tag="parametres")
    with pytest.raises(RunError, match="02_two.ipynb has no cell tagged `parameters`"):
        run(two, tmp_path)
    assert not (tmp_path / "work dir").exists()


def test_relative_paths_are_those_of_the_caller(two, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sets = ["data.photos=photos", "loss.vgg=random", "teacher=student_x4_photo_m"]
    sets.append("drive=backup")  # which is not there yet
    run_notebooks.run(select("01", two), "quick", "w", sets=sets, out=io.StringIO())
    overrides = json.loads((tmp_path / "here" / "w" / "one.jsonl").read_text())[2]
    assert shlex.split(overrides) == [
        f"data.photos={tmp_path / 'here' / 'photos'}", *sets[1:3], f"drive={tmp_path / 'here' / 'backup'}"
    ]  # fmt: skip


def test_no_drive_is_no_folder(two, tmp_path):
    run(two, tmp_path, only="01", sets=["drive="])
    assert json.loads((tmp_path / "work dir" / "one.jsonl").read_text())[2] == "drive="


def test_drive_is_a_tick_of_the_form(two, tmp_path):
    cells = [FORM + "drive: bool = False", "from pathlib import Path", "Path(workdir, 'said').write_text(str([drive]))"]
    notebook(two / "01_one.ipynb", *cells)
    run(two, tmp_path, only="01", parameters=["drive=true"])
    assert (tmp_path / "work dir" / "said").read_text() == "[True]"


def test_the_folder_of_a_killed_kernel_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"kd-kernel-{dead.pid}-x").mkdir()
    (tmp_path / f"kd-kernel-{os.getpid()}-x").mkdir()  # of a run that is under way
    with run_notebooks._kernel():
        assert len(list(tmp_path.iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == [f"kd-kernel-{os.getpid()}-x"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"LEFT OUT: a full disk needs root, to mount a small one ({done.stderr.strip()})")
    try:
        (small / "filling").write_bytes(bytes(60 << 10))
        one = notebook(tmp_path / "01_one.ipynb", *ONE, *["#" * 9000] * 3)
        with pytest.raises(RunError, match="runs/01_one.ipynb cannot be written .No space left on device.: free some"):
            run_notebooks.run([one], "quick", small, out=io.StringIO())
    finally:
        subprocess.run(["umount", "-l", small], check=True)
