"""The command line, ``python -m kd_utils``: run, prepare, label, train, evaluate, compare, sharpen, export,
doctor, badges.

What can be foreseen to go wrong ends as one line ``error: ...`` and exit code 1, or 2 for a wrong argument or setting;
``--debug`` shows the traceback as well.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import re
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from kd_utils import __version__
from kd_utils.common.errors import ConfigError, KDError
from kd_utils.config import PRESETS, REPO_SLUG, ROOT, Config, make

STEPS = {
    "prepare": "step 1: photos into crops",
    "label": "step 2: the teacher's labels",
    "train": "step 3: the student (and the same one without a teacher)",
    "evaluate": "step 4: scores and the report",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be of the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    args = _parser(next((a for a in argv if not a.startswith("-")), "")).parse_args(argv)
    try:
        return args.do(args) or 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is done", file=sys.stderr)
        return 130
    except KDError as e:
        if args.debug:
            raise
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code


def _parser(command: str) -> argparse.ArgumentParser:
    """All commands. Only the arguments of `command` are complete where they need a heavy import."""
    parser = argparse.ArgumentParser("python -m kd_utils", description="Distil Real-ESRGAN into a small student.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str, do: Any, of: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[of] if of else [])
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        sub.set_defaults(do=do)
        return sub

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: quick)")
    common.add_argument("--workdir", help="where everything is written (default: workdir)")
    common.add_argument("--teacher", help="a registry name (anime_6B, general_x4v3, ...) or a checkpoint's path")
    common.add_argument("--config", metavar="FILE", help="a recipe: TOML with any settings, `preset` among them")
    common.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="sets",
                        help="any setting, such as train.steps=500")  # fmt: skip

    sub = add("run", "all steps, by running the numbered notebooks", _run, common)
    sub.add_argument("--only", default="", help="some notebooks: 03, or 03,04, or ImageSharpeningKD")
    sub.add_argument("-p", nargs="+", action="extend", default=[], metavar="NAME=VALUE", dest="parameters",
                     help="a parameter of the notebooks' forms, such as steps=500")  # fmt: skip
    for name, text in STEPS.items():
        add(name, text, _step, common).set_defaults(step=name)
    for name, text in (("sharpen", "sharpen photos"), ("export", "write a student as ONNX")):
        sub = add(name, text, None)
        if name == command:
            from importlib import import_module

            module = import_module(f"kd_utils.{name}")
            module.add_arguments(sub)
            sub.set_defaults(do=module.main)
    sub = add(
        "compare", "the scores of several evaluated work folders, and the settings in which they differ", _compare
    )
    sub.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    add("doctor", "what is installed, found and cached here", _doctor)
    sub = add("badges", "rewrite Colab badges and clone lines from config.REPO_SLUG", _badges)
    sub.add_argument("--check", action="store_true", help="only say which are wrong, exit code 1")
    return parser


def _settings(args: argparse.Namespace) -> tuple[str, str, list[str]]:
    """(preset, workdir, key=value ...): a recipe first, the command line over it."""
    recipe = read_recipe(Path(args.config)) if args.config else {}
    if "before" in recipe:
        raise ConfigError(
            f"--config {args.config} begins with the student of {recipe['before']!r}: `python -m benchmarks.ship "
            f"{args.config}` makes both; or take that line out and name a student by --set train.init=FILE"
        )
    preset = args.preset or recipe.pop("preset", "quick")
    workdir = args.workdir or recipe.pop("workdir", "workdir")
    recipe = {k: v for k, v in recipe.items() if k not in ("preset", "workdir")}
    if args.teacher:
        recipe["teacher"] = args.teacher
    return preset, workdir, [f"{k}={v}" for k, v in recipe.items()] + args.sets


def read_recipe(path: Path) -> dict[str, Any]:
    """A TOML file's settings as dotted keys. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"--config {path} cannot be read ({e.strerror}): check the path") from e
    except ValueError as e:
        raise ConfigError(f"--config {path} is not TOML ({e})") from e
    return {
        (f"{key}.{name}" if isinstance(value, dict) else key): inner
        for key, value in tables.items()
        for name, inner in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _config(args: argparse.Namespace) -> Config:
    from kd_utils.common import devices

    preset, workdir, sets = _settings(args)
    cfg = make(preset, sets, workdir=workdir)
    devices.resolve_device(cfg.device)
    return cfg


def _run(args: argparse.Namespace) -> None:
    from kd_utils import run_notebooks

    preset, workdir, sets = _settings(args)
    ran = run_notebooks.run(preset, workdir, args.only, args.parameters, sets)
    print(run_notebooks.summary(ran, workdir))


def _step(args: argparse.Namespace) -> None:
    from importlib import import_module

    from kd_utils.common import devices

    cfg = _config(args)
    module = {"label": "models.teacher"}.get(args.step, args.step)
    done = getattr(import_module(f"kd_utils.{module}"), args.step)(cfg)
    if devices.ranks().rank:
        return
    if args.step == "evaluate":
        print(f"{done.headline}\n\n{done.table}")
    for name, value in vars(done).items():
        if isinstance(value, (Path, int, dict)):
            print(f"{name.replace('_', ' '):12} {value}")


def _compare(args: argparse.Namespace) -> None:
    from kd_utils.common import files
    from kd_utils.evaluation import report

    results = {}
    for name in args.workdirs:
        path = Path(name).expanduser() / "eval" / "metrics.json"
        if not path.is_file():
            raise ConfigError(f"{path} is missing: run step 4 in that work folder first (python -m kd_utils evaluate)")
        results[name] = files.read_json(path)
    print(report.compare(results))


def _doctor(args: argparse.Namespace) -> int:
    """Everything one asks first when something does not work; exit code 1 where something needed is missing."""
    from kd_utils import colab

    lacking = colab.missing((ROOT / "requirements.txt").read_text())
    needed = [r for r in lacking if not r.startswith(colab.OPTIONAL)]
    rows = [("Python", f"{platform.python_version()} at {sys.executable}"), ("project", f"{__version__} at {ROOT}")]
    rows.append(("missing", ", ".join(needed) + ": pip install -r requirements.txt" if needed else "nothing"))
    for name in "torch torchvision numpy opencv-python spandrel papermill ipywidgets onnxruntime".split():
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    try:
        rows += _machine()
    except ImportError as e:
        rows.append(("device", f"not known ({e})"))
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:{width}}  {value}" for name, value in rows))
    return 1 if needed else 0


def _machine() -> list[tuple[str, str]]:
    import torch

    from kd_utils.common import devices, sources
    from kd_utils.models import teacher

    where = devices.resolve_device()
    amp = devices.autocast(where)
    memory = f", {torch.cuda.get_device_properties(where).total_memory >> 20:,} MiB" if where.type == "cuda" else ""
    chip = torch.cuda.get_device_name(where) + memory if where.type == "cuda" else f"{os.cpu_count()} cores"
    scaler = " with a gradient scaler" if amp.scaler else ""
    rows = [("device", f"{where} ({chip})"), ("trains in", f"{str(amp.dtype).removeprefix('torch.')}{scaler}")]
    if where.type == "cpu" and devices.has_fast_bf16():
        rows.append(("faster", "--set label.dtype=bf16 train.dtype=bf16: this CPU computes bf16 faster than fp32"))
    try:
        teacher.official()
        rows.append(("official", "realesrgan and basicsr import"))
    except ImportError as e:
        rows.append(("official", f"not here ({e}): only notebook 02's comparison is left out"))
    cache = Path(os.environ.get("KD_CACHE") or sources.CACHE).expanduser()
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    rows.append(("cache", f"{cache} ({shutil.disk_usage(parent).free >> 30:,} GiB free)"))
    for source in sources.SOURCES.values():
        path = cache / source.file
        have = path.stat().st_size if path.is_file() else 0
        state = "cached" if have == source.bytes else "not downloaded" if not have else f"WRONG SIZE, {have:,} bytes"
        rows.append((f"  {source.name}", f"{state:14} {source.bytes / 1e6:8,.1f} MB  {source.file}"))
    return rows


# Where our own slug stands: Colab badges, the notebooks' clone cell, README's clone line and workflow badge.
SLUG_AT = re.compile(
    r"(colab\.research\.google\.com/github/|\bslug = \\?\"|git clone https://github\.com/)"
    r"([\w.-]+/[\w-]+(?:\.(?!git\b)[\w-]+)*)|"
    r"(github\.com/)([\w.-]+/[\w.-]+)(?=/actions/workflows/)"
)


def with_slug(text: str, slug: str = REPO_SLUG) -> str:
    """`text` with every place of our repository's slug set to `slug`."""
    return SLUG_AT.sub(lambda m: (m[1] or m[3]) + slug, text)


def _badges(args: argparse.Namespace) -> int:
    changed = []
    for path in [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (new := with_slug(text)) != text:
            changed.append(path.relative_to(ROOT).as_posix())
            if not args.check:
                path.write_text(new, encoding="utf-8")
    if changed:
        print(f"{'differ from' if args.check else 'rewritten to'} {REPO_SLUG}: {', '.join(changed)}")
    else:
        print(f"all badges say {REPO_SLUG}")
    return 1 if changed and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
