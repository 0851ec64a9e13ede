"""The slider that compares any two of several pictures of one scene: for notebooks, the report and the page of `look`.

A slider is plain HTML that holds its pictures as data URIs: it needs no network, no widget manager and no library.
Without JavaScript it still wipes between its first two pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kd_utils.evaluation import figures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np


TEMPLATES = PackageLoader("kd_utils.evaluation", "templates")
SMALLEST_VIEW = 560  # CSS pixels: a slider of smaller pictures is wider than they are


@dataclass
class Picture:
    """One choice of a slider. Pictures of one `group` stand under its title in the list of choices."""

    name: str
    image: np.ndarray  # uint8 (H, W, 3) RGB
    group: str = ""
    kind: str = "jpeg"  # how it is stored: "jpeg", or "png" or "webp", which keep every pixel


@cache
def environment() -> Environment:
    """Jinja2's environment of this package's templates: everything that is filled in is escaped."""
    made = Environment(
        loader=TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["runs"] = _runs
    return made


def _runs(columns: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Neighbours of the same `group` together, in their order."""
    return [(group, list(members)) for group, members in groupby(columns, key=lambda column: column.group)]


def source(name: str) -> Markup:
    """The text of a template that is style or script, unescaped."""
    return Markup(TEMPLATES.get_source(environment(), name)[0])


def macro(name: str) -> Callable[..., Markup]:
    """The macro of the template that has its name."""
    return getattr(environment().get_template(f"{name}.html.j2").module, name)


def slider_fragment(
    pictures: Sequence[Picture], left: str = "", right: str = "", spots: Sequence[figures.Box] = (), title: str = ""
) -> Markup:
    """A slider as HTML without its style and script, which a page of many sliders holds once.

    `left` and `right` name the pictures that are shown first (default: the first two); `spots` are places, in pixels
    of the largest picture, to jump to by buttons behind `title`. Smaller pictures are shown as large, by squares.
    """
    names = [p.name for p in pictures]
    chosen = [names.index(left) if left else 0, names.index(right) if right else 1]
    height, width = max(p.image.shape[:2] for p in pictures)

    choices = []
    for number, p in enumerate(pictures):
        rows, columns = p.image.shape[:2]
        size = {"width": columns, "height": rows, "small": columns < width}
        choices.append({"number": number, "name": p.name, "group": p.group, "uri": _uri(p)} | size)

    view_width = width * -(-SMALLEST_VIEW // width)  # a small picture is shown several times as large
    centres = [((x0 + x1) // 2, (y0 + y1) // 2) for x0, y0, x1, y1 in spots]
    values = {"width": width, "height": height, "view_width": view_width, "pictures": choices, "chosen": chosen}
    return macro("slider")(values | {"spots": centres, "spots_title": title})


def _uri(picture: Picture) -> str:
    return figures.data_uri(picture.image, picture.kind)


def slider(pictures: dict[str, np.ndarray], left: str = "", right: str = "") -> str:
    """HTML that wipes between any two of the named pictures of one scene, by mouse, touch or keys, at any zoom.

    Images are uint8 (H, W, 3) RGB of one scene. Complete in itself, and without ids: any number fit into one page.
    """
    fragment = slider_fragment([Picture(name, image) for name, image in pictures.items()], left, right)
    return f"<style>{source('slider.css')}</style>{fragment}<script>{source('slider.js')}</script>"
