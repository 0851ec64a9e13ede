"""The rules of the house that a machine can check: who may import whom, and documents that name what is there."""

import ast
import re
from pathlib import Path

import pytest

import kd_utils
from kd_utils.own_files import ROOT

PACKAGE = ROOT / "kd_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folders and files at the top of kd_utils, from the ground up: each imports from its own line or from one above it.
DIRECTION = [
    {"common"},
    {"imaging"},
    {"own_files", "config", "presets", "overrides", "workdir"},
    {"models"},
    {"provenance"},
    {"evaluation"},
    {"data"},
    {"training"},
    {"prepare", "label", "train", "evaluate", "sharpen", "look", "export", "demo", "doctor", "badges"},
    {"colab", "forecast", "lessons", "lessons_sharpen", "uploads", "notebook_forms"},
    {"run_notebooks"},
    {"__main__"},
]


def dotted(path: Path) -> str:
    """``kd_utils/models/student.py`` as ``models.student``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """The modules of kd_utils that a file imports anywhere, also within functions, as ``models.student``."""
    known = {dotted(p) for p in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kd_utils":
            module = node.module.removeprefix("kd_utils").lstrip(".")
            found |= {f"{module}.{alias.name}".lstrip(".") for alias in node.names} | {module}
    return found & known


def level(module: str) -> int:
    top = module.split(".")[0]
    return next(n for n, names in enumerate(DIRECTION) if top in names)


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem != "__init__"], ids=dotted)
def test_imports_only_downwards(path):
    for name in imports(path):
        assert level(name) <= level(dotted(path)), f"{dotted(path)} imports {name}, which stands above it"


def test_no_import_circles():
    graph = {dotted(p): imports(p) for p in MODULES}
    for start in graph:
        seen, todo = set(), list(graph[start])
        while todo:
            at = todo.pop()
            assert at != start, f"{start} imports itself through {seen}"
            if at not in seen:
                seen.add(at)
                todo += graph[at]


def test_imports_are_absolute():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.ImportFrom) or not node.level, f"{path}, line {node.lineno}"


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


def test_the_packages_docstring_is_a_map_of_it():
    told = set(re.findall(r"^    (\w+)(?:\.py|/) ", kd_utils.__doc__, re.M))
    top = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert told == top - {"__init__"}
