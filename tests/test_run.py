"""The runner and the command line: strict about names, types and tags; clear about what failed; no kernel installed."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys

import nbformat
import pytest
import torch
from helpers.pipeline import environment

from kd_utils import __version__, run_notebooks
from kd_utils.__main__ import STEPS, TOOLS, main
from kd_utils.common import progress
from kd_utils.common.echo import Echo, plain
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


def test_the_real_notebooks_refuse_a_misspelt_parameter(capsys):
    assert main(["run", "-p", "stesp=5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "'steps'" in error and error.count("\n") == 1


def test_one_line_for_what_can_be_foreseen(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text('preset = "colab"\n[train]\nstepz = 5\n')
    (tmp_path / "second.toml").write_text('before = "first.toml"\npreset = "colab"\n')
    for command, code, message in (
        (["label"], 1, "run step 1 first"),
        (["train", "--set", "train.lr=fast"], 2, "train.lr='fast' is not a finite number"),
        (["prepare", "--preset", "fats"], 2, "choose one of quick, adapt, colab, full"),
        (["prepare", "--set", "data.photos=nowhere"], 1, "data.photos='nowhere' does not exist"),
        (["prepare", "--set", "device=cuda:77"], 2, "try device=auto or device=cpu"),
        (["prepare", "--config", "recipe.toml"], 2, "did you mean 'train.steps'"),
        (
            ["train", "--config", "second.toml"],
            2,
            "begins with the student of 'first.toml': `python -m benchmarks.ship",
        ),
        (["prepare", "--config", "none.toml"], 2, "none.toml cannot be read"),
    ):
        assert main(command) == code, command
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and "Traceback" not in error, command
    with pytest.raises(Exception, match="run step 1 first"):
        main(["label", "--debug"])
    with pytest.raises(SystemExit) as usage:
        main(["labell"])
    assert usage.value.code == 2


def test_near_names_and_one_meaning_an_exit_code(capsys, tmp_path):
    for command, hint in (
        ("labell", "did you mean 'label'?"),
        ("train --presett quick", "did you mean '--preset'?"),
        ("train --preset quikc", "did you mean 'quick'?"),
        ("run --only 3", "did you mean '03_train_student'?"),
        ("run -p stesp=5", "did you mean 'steps'?"),
        ("run --only 05 -p strength=3", "strength lies between 0 and 1"),
        ("sharpen --engine onx a b", "did you mean 'onnx'?"),
        ("sharpen --scale 3 a b", "choose from"),
        ("sharpen --strength 2 a b", "choose from 0"),
        ("sharpen --device tpu a b", "device=auto"),
    ):
        try:
            code = main(command.split())
        except SystemExit as e:
            code = e.code
        error = capsys.readouterr().err
        assert code == 2 and error.startswith("error: ") and hint in error, (command, code, error)


def test_every_command_shows_examples(capsys):
    for command in (*STEPS, *TOOLS, "run", "compare"):
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0 and f"examples:\n  python -m kd_utils {command}" in capsys.readouterr().out
    assert main([]) == 2 and "sharpen photo.jpg sharp.jpg" in capsys.readouterr().err, "no command: the help"
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"kd-utils {__version__}\n"


def test_a_recipe_of_the_wrong_shape_is_a_wrong_call(tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    for text, message in (
        ("preset = [1]", "unknown preset [1]"),
        ("workdir = [1]", "workdir=[1] is not of type str"),
        ("train = 5", "unknown key 'train'"),
        ("[train.steps]\nx = 1", "train.steps="),
        (f"a = {'[' * 5000}", "is not TOML"),
        (f"seed = {'9' * 5000}", "is not TOML"),
    ):
        recipe.write_text(text)
        assert main(["prepare", "--config", str(recipe)]) == 2, text
        assert message in capsys.readouterr().err


def test_a_recipe_is_settings_under_the_command_line(tmp_path):
    from kd_utils.__main__ import _config, build_parser

    recipe = tmp_path / "student.toml"
    recipe.write_text('preset = "colab"\nteacher = "general_x4v3"\n[train]\nsteps = 7\nbetas = [0.8, 0.9]\nlr = 1e-4\n')
    given = ["train", "--config", str(recipe), "--set", "train.lr=5e-4", "seed=3", "--set", "scale=2", "--workdir", "w"]
    cfg = _config(build_parser("train").parse_args(given))
    assert (cfg.preset, cfg.teacher, cfg.train.steps, cfg.train.betas) == ("colab", "general_x4v3", 7, [0.8, 0.9])
    assert (cfg.train.lr, cfg.seed, cfg.scale, cfg.workdir, cfg.data.photos) == (5e-4, 3, 2, "w", "DIV2K")
    assert _config(build_parser("train").parse_args([*given, "--teacher", "x4plus"])).teacher == "x4plus"


def test_prepare_from_the_command_line(tmp_path, capsys):
    workdir = tmp_path / "w"
    command = ["prepare", "--workdir", str(workdir), "--set", "data.limit=1", "data.crop=64", "data.crops_per_photo=2",
               "data.valid_crops_per_photo=1", "data.test_side=64"]  # fmt: skip
    assert main(command) == 0
    assert str(workdir / "crops") in capsys.readouterr().out and (workdir / "crops" / "index.json").is_file()


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


def test_bars_and_prints_in_a_log_file():
    out = io.StringIO()
    echo = Echo(out)
    prints, bars = echo.stream(), echo.stream()
    bars.write("\rsteps:   0%|    | 0/9")
    bars.write("\rsteps:  10%|    | 1/9")
    bars.write("\rsteps: 100%|####| 9/9")
    bars.write("\rsteps: 100%|####| 9/9")
    prints.write("done\nsecond")
    bars.write("\n")
    prints.write(" line\n\n")
    echo.end_line()
    assert out.getvalue() == "  steps:   0%|    | 0/9\n  steps: 100%|####| 9/9\n  done\n  second\n   line\n"


def test_a_bar_in_a_log_file_is_a_plain_line():
    states = {
        "train student (s):  45%|████▌     | 9/20 [00:10<00:12,  1.20step/s, loss=0.1, images/s=9.6, memory=1.2 GB]":
            "train student (s): 9 of 20, 00:12 left, 1.20step/s, loss 0.1, images/s 9.6, memory 1.2 GB",
        "crops: 100%|##########| 5/5 [01:02<00:00, 12.4s/photo]": "crops: 5 of 5, took 01:02, 12.4s/photo",
        "crops:   0%|          | 0/5 [00:00<?, ?photo/s]": "crops: 0 of 5, ? left",
        "a.pth:  50%|#####     | 9.0M/18.0M [00:01<00:01, 9.00MB/s]": "a.pth: 9.0M of 18.0M, 00:01 left, 9.00MB/s",
        "x4: 12image [00:10]": "x4: 12image [00:10]",
    }  # fmt: skip
    for bar, line in states.items():
        assert plain(bar) == line


def test_real_bars_are_read(capsys):
    from tqdm import tqdm

    bar = tqdm(total=20, desc="train student (s)", unit="step", ncols=200, file=sys.stdout, mininterval=0)
    bar.update(5)
    bar.set_postfix({"loss": "0.1"} | progress.beside(bar, torch.device("cpu"), 8))
    bar.close()
    last = capsys.readouterr().out.split("\r")[-1].strip("\n")
    assert re.fullmatch(
        r"train student \(s\): 5 of 20, .* left, .*step/s, loss 0.1, .*memory [\d.]+ GB", plain(last)
    ), last


def test_bars_move_on_a_terminal():
    out = io.StringIO()
    out.isatty = lambda: True
    echo = Echo(out)
    bars, prints = echo.stream(), echo.stream()
    bars.write("\rsteps:  10%")
    bars.write("\rsteps:  20%")
    prints.write("done\n")
    assert out.getvalue() == "\r  steps:  10%\r  steps:  20%\n  done\n"


def test_badges_follow_the_slug(tmp_path):
    from kd_utils.badges import with_slug

    text = (
        "[![Open](x.svg)](https://colab.research.google.com/github/someone/Else-Where/blob/main/notebooks/01.ipynb) "
        'slug = \\"someone/Else-Where\\" git clone https://github.com/someone/Else-Where.git '
        "https://github.com/someone/Else-Where/actions/workflows/test.yml https://github.com/xinntao/Real-ESRGAN"
    )
    new = with_slug(text, "me/mine")
    assert new == text.replace("someone/Else-Where", "me/mine")
    assert with_slug(new, "someone/Else-Where") == text


def test_near_names_and_one_exit_code_for_a_wrong_call(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, message in (
        (["sharpen", "x.png", "o.png", "--model", "animem"], "did you mean 'anime-m'"),
        (["look", "x.png", "--model", "bicubik", "m", "--out", "a.html"], "did you mean 'bicubic'"),
        (["export", "m", "out", "--to", "ncn"], "did you mean 'ncnn'"),
        (["run", "-p", "model=animem"], "did you mean 'anime-m'"),
        (["train", "--set", "train.init=shiped"], "did you mean 'shipped'"),
        (["train", "--set", "degrade.profile=ligth"], "did you mean 'light'"),
        (["fetch", "anime6B"], "did you mean 'anime_6B'"),
        (["prepare", "--preset", "adpat"], "did you mean 'adapt'"),
    ):
        assert main(command) == 2, command
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", ["kd_utils.doctor", "kd_utils.config", "kd_utils.workdir", "torch"])
def test_ctrl_c_while_modules_are_loaded_is_one_line(module):
    """SIGINT arrives just as `module` is looked for: at the top, or for a step."""
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['kd_utils', 'prepare']\n"
        "runpy.run_module('kd_utils', run_name='__main__')\n"
    )
    got = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert got.returncode == 130 and got.stdout == ""
    assert got.stderr.strip().startswith("stopped") and got.stderr.strip().count("\n") == 0


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
