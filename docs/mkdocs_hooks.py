"""Hooks of mkdocs: pictures of assets/ and executed notebooks join the site, other links lead to the repository, and
equations become MathML, which browsers show without a script from elsewhere.
"""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

DOCS = Path(__file__).parent
ASSETS = DOCS.parent / "assets"
TITLES = {"ImageSharpeningKD": "The whole story"}


def on_config(config):
    """Add the notebooks in docs/notebooks/ to the navigation, the whole story first, and pages that nav leaves out."""
    notebooks = sorted((DOCS / "notebooks").glob("*.ipynb"), key=lambda p: (p.stem not in TITLES, p.stem))
    pages = [{TITLES.get(p.stem, p.stem.replace("_", " ")): f"notebooks/{p.name}"} for p in notebooks]
    if pages:
        config.nav.insert(1, {"Notebooks": pages})

    known = re.findall(r"[\w-]+\.md", str(config.nav))
    others = [p.name for p in sorted(DOCS.glob("*.md")) if p.name not in known]
    if others:
        config.nav.append({"More": others})
    return config


def on_files(files, config):
    """Copy the pictures of assets/ into the site."""
    for path in sorted(ASSETS.iterdir()):
        if path.suffix in (".jpg", ".png", ".svg"):
            files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Pictures are read from the site; ``](../CONTRIBUTING.md)`` is a file of the repository."""
    markdown = re.sub(r"(!\[[^\]]*\]\()\.\./assets/", r"\1assets/", markdown)
    return re.sub(r"(\]\()\.\./", rf"\1{config.repo_url}/blob/main/", markdown)


def on_page_content(content, page, config, files):
    """LaTeX as arithmatex marks it, within lines and as blocks, into MathML."""
    for pattern, display in ((r'<span class="arithmatex">\\\((.*?)\\\)</span>', "inline"),
                             (r'<div class="arithmatex">\\\[(.*?)\\\]</div>', "block")):  # fmt: skip
        content = re.sub(pattern, lambda m, d=display: convert(html.unescape(m[1]), display=d), content, flags=re.S)
    return content
