"""The house rules that a machine can check: floors, sizes, and documents that name what is there."""

import ast
import re
from pathlib import Path

import pytest

from kd_utils.config import ROOT

FLOORS = [
    {
        "config",
        "presets",
        "overrides",
        "device",
        "sources",
        "transfer",
        "images",
        "store",
        "tensors",
        "encode",
        "colour",
        "timing",
        "deep",
    },
    {
        "kernels",
        "degrade",
        "student",
        "losses",
        "objective",
        "metrics",
        "tiles",
        "checkpoint",
        "show",
        "report",
        "page",
        "optim",
        "feed",
        "photos",
        "plan",
        "prune",
    },
    {"teacher", "data", "export"},
    {"begin", "train", "validate", "costs", "evaluate", "sharpen"},
    {"colab"},
    {"run", "__main__"},
]
MODULES = sorted((ROOT / "kd_utils").glob("*.py"))


def floor(module: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if module in names)


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level == 1 or (node.module or "").startswith("kd_utils")):
            module = (node.module or "").removeprefix("kd_utils").lstrip(".")
            names |= {module} if module else {a.name for a in node.names}
    return names & set.union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_a_module_imports_from_its_floor_or_below(path):
    if path.stem == "__init__":
        return
    for name in imports(path):
        assert floor(name) <= floor(path.stem), f"{path.name} imports {name}, which is above it"


def test_no_two_modules_import_each_other():
    graph = {p.stem: imports(p) for p in MODULES}
    for name in graph:
        seen, todo = set(), list(graph[name])
        while todo:
            at = todo.pop()
            assert at != name, f"{name} imports itself through {seen}"
            if at not in seen:
                seen.add(at)
                todo += graph[at]


def test_nothing_unpickles_unsafely():
    for path in [*MODULES, *(ROOT / "benchmarks").glob("*.py")]:
        for call in re.findall(r"torch\.load\([^\n]*(?:\n[^\n]*)?", path.read_text()):
            assert "weights_only=True" in call, f"{path}: {call}"


def test_no_path_of_a_developers_machine():
    files = [p for d in ("kd_utils", "tests", "notebooks", "docs", "benchmarks") for p in (ROOT / d).rglob("*.*")]
    for path in [*files, ROOT / "README.md", ROOT / "Makefile"]:
        if path.suffix in {".py", ".md", ".ipynb", ".toml"}:
            found = re.search(r"(?<![\w.])/(?:work" r"|root|home/\w+|tmp/w)/", path.read_text())
            assert not found, f"{path} holds {found[0]}"


def test_documents_link_to_files_that_exist():
    for doc in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "assets").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", doc.read_text()):
            assert (doc.parent / link).exists(), f"{doc.name} links to {link}"
