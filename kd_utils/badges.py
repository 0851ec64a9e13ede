"""What the notebooks and README say of this repository and its students: badges, clone lines, lists of models."""

from __future__ import annotations

import argparse
import json
import re

from kd_utils.own_files import REPO_SLUG, ROOT

# Where our own slug stands: Colab badges, the notebooks' clone cell, README's clone line and workflow badge.
SLUG_AT = re.compile(
    r"(colab\.research\.google\.com/github/|\bslug = \\?\"|git clone https://github\.com/)"
    r"([\w.-]+/[\w-]+(?:\.(?!git\b)[\w-]+)*)|"
    r"(github\.com/)([\w.-]+/[\w.-]+)(?=/actions/workflows/)"
)


# The choices of the form of notebook 05.
MODELS_AT = re.compile(r'(model: str = \\"yours\\"  # @param )\[.*?\]')


def with_slug(text: str, slug: str = REPO_SLUG) -> str:
    """`text` with every place of our repository's slug set to `slug`."""
    return SLUG_AT.sub(lambda m: (m[1] or m[3]) + slug, text)


def with_models(notebook: str) -> str:
    """The text of a notebook whose form offers the students that ship: those whose files are there."""
    from kd_utils.models.shipped import shipped_names

    offered = json.dumps(json.dumps(["yours", *shipped_names()]))[1:-1]  # JSON within a string of JSON
    return MODELS_AT.sub(lambda m: m[1] + offered, notebook)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="only say which are wrong, exit code 1")


def main(args: argparse.Namespace) -> int:
    """Rewrite what differs, or only name it; exit code 1 where `--check` finds any."""
    changed = []
    for path in [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        new = with_models(with_slug(text))
        if new != text:
            changed.append(path.relative_to(ROOT).as_posix())
            if not args.check:
                path.write_text(new, encoding="utf-8")

    if not changed:
        print(f"all badges say {REPO_SLUG}, and all lists of models are those of the files")
        return 0
    print(f"{'differ from' if args.check else 'rewritten to'} {REPO_SLUG}: {', '.join(changed)}")
    return 1 if args.check else 0
