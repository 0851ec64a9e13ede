"""The command line: help, recipes, and one clear line and exit code for what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.pipeline import environment

from kd_utils import __version__
from kd_utils.__main__ import STEPS, TOOLS, main


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


def test_the_real_notebooks_refuse_a_misspelt_parameter(capsys):
    assert main(["run", "-p", "stesp=5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "'steps'" in error and error.count("\n") == 1


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
