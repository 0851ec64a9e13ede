"""The documents: their examples run, the settings and commands that they name exist, and the log is in order."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

import kd_utils.config
from kd_utils.config import Config, make
from kd_utils.overrides import flatten
from kd_utils.own_files import REPO_SLUG, ROOT

DOCS = ROOT / "docs"
GUIDES = [DOCS / f"{name}.md" for name in ("method", "recipes", "performance", "extending", "architecture")]
TINY = (
    "teacher={teacher} data.crop=64 data.crops_per_photo=4 data.valid_crops_per_photo=2 data.test_side=64 "
    "student.size=s loss.perceptual=0 train.init= train.steps=4 train.batch=2 train.warmup=1"
)


def examples() -> list[tuple[str, str]]:
    """(heading, code) of each Python block of extending.md, in order."""
    text = (DOCS / "extending.md").read_text()
    found = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        for code in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
            found.append((section.splitlines()[0], code))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with eight small photos."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for n in range(8):
        pixels = np.kron(rng.integers(0, 256, (24, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)  # (96, 96, 3)
        Image.fromarray(pixels).save(folder / "photos" / f"{n}.png")
    return folder


@pytest.fixture
def restored():
    """The examples replace functions of the package: every module gets its own back."""
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "kd_utils"]
    before = [dict(vars(m)) for m in modules]
    yield
    for module, names in zip(modules, before, strict=True):
        vars(module).update(names)


@pytest.mark.parametrize(("heading", "code"), examples(), ids=lambda x: x if len(x) < 40 else "")
def test_example_of_extending_runs(heading, code, folder, monkeypatch, restored, capsys):
    def tiny(preset, overrides="", **top):
        teacher = ROOT / "assets" / "weights" / "student_x4_photo_s.pth"
        small = TINY.format(teacher=teacher)
        if preset == "quick":
            small += " data.limit=2"
        return make(preset, f"{small} {overrides}", **top)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(kd_utils.config, "make", tiny)
    exec(compile(code, heading, "exec"), {"__name__": "__main__"})
    lines = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) < 20, f"{heading}: {len(lines)} lines without imports and blanks"


@pytest.mark.parametrize("path", [ROOT / "README.md", *GUIDES], ids=lambda p: p.name)
def test_settings_named_in_documents_exist(path):
    keys = flatten(Config())
    groups = "|".join(sorted({key.split(".")[0] for key in keys if "." in key}))
    text = re.sub(r"^```python\n.*?^```", "", path.read_text(), flags=re.M | re.S)  # there they are attributes
    named = re.findall(rf"(?<![\w./])((?:{groups})\.[a-z_]+)\b(?!\()", text)
    unknown = {key for key in named if key not in keys and not key.endswith((".py", ".toml", ".md", ".onnx"))}
    assert not unknown, f"{path.name} names settings that do not exist: {sorted(unknown)}"


@pytest.mark.parametrize("path", [ROOT / "README.md", *GUIDES], ids=lambda p: p.name)
def test_code_files_named_in_documents_exist(path):
    for name in re.findall(r"`((?:kd_utils|benchmarks|tests|notebooks|assets|docs)/[\w./-]+)`", path.read_text()):
        assert (ROOT / name).exists(), f"{path.name} names {name}, which is not there"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CITATION.cff", "mkdocs.yml"])
def test_links_to_the_repository_name_ours(name):
    text = (ROOT / name).read_text()
    repository = REPO_SLUG.split("/")[1]
    for slug in re.findall(rf"github\.com/([\w.-]+/{repository})\b", text):
        assert slug == REPO_SLUG, f"{name} links to {slug}: write {REPO_SLUG}, as kd_utils/own_files.py says"


def test_tree_of_architecture_is_the_packages():
    text = (DOCS / "architecture.md").read_text()
    tree = re.search(r"^```\n(kd_utils/\n.*?)^```", text, re.M | re.S)[1]
    shown, folder = [], ""
    for line in tree.splitlines():
        name = line.split()[0]
        if line[0] != " ":
            folder = name
        else:
            shown.append(folder + name)

    files = [p.relative_to(ROOT).as_posix() for p in (ROOT / "kd_utils").rglob("*.py") if p.stem != "__init__"]
    assert not set(files) - set(shown), "give these a line in the tree of docs/architecture.md"
    assert not set(shown) - set(files), "the tree of docs/architecture.md shows files that are gone"


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS.glob("*.md")], ids=lambda p: p.name)
def test_links_lead_to_headings_that_exist(path):
    for file, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", path.read_text()):
        target = path.parent / file if file else path
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
        assert anchor in map(slug, headings), f"{path.name} links to {file}#{anchor}"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()))


def test_log_is_newest_first_and_its_index_leads_to_every_entry():
    text = (DOCS / "LOG.md").read_text()
    entries = re.findall(r"^## (\d{4}-\d\d-\d\d): (.+)$", text, re.M)
    dates = [date for date, _ in entries]
    assert dates == sorted(dates, reverse=True)

    index = re.findall(r"^\| (\d{4}-\d\d-\d\d) \| \[[^\]]+\]\(#([\w-]+)\) \| .+ \|$", text, re.M)
    assert [date for date, _ in index] == dates
    for (date, title), (_, anchor) in zip(entries, index, strict=True):
        assert slug(f"{date}: {title}") == anchor
