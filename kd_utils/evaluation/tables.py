"""The tables of an evaluation: scores and costs of each row, scores of each photo, and several evaluations compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from kd_utils import provenance
from kd_utils.common.names import display_name
from kd_utils.evaluation.scores import SHIPPED, START, Evaluation, PhotoScores, Scores

ORIGINAL, TEACHER, COST = "to the original", "to the teacher", "cost"
SHORT = {ORIGINAL: " o.", TEACHER: " t.", COST: ""}  # the groups in a table of text
NONE = "–"


@dataclass(frozen=True)
class Measure:
    """How one score or cost is shown."""

    key: str  # its field of Scores or Cost
    group: str
    title: str
    form: str  # of a number, as in format()
    best: str = "highest"  # "highest", "lowest", "near 1", or "" where none is marked


_MEASURES = (
    Measure("psnr_y", ORIGINAL, "PSNR-Y", ".2f"),
    Measure("ssim_y", ORIGINAL, "SSIM-Y", ".4f"),
    Measure("psnr_rgb", ORIGINAL, "PSNR-RGB", ".2f"),
    Measure("ssim_rgb", ORIGINAL, "SSIM-RGB", ".4f"),
    Measure("vgg", ORIGINAL, "VGG19", ".3f", "lowest"),
    Measure("psnr_y_teacher", TEACHER, "PSNR-Y", ".2f"),
    Measure("ssim_y_teacher", TEACHER, "SSIM-Y", ".4f"),
    Measure("vgg_teacher", TEACHER, "VGG19", ".3f", "lowest"),
    Measure("lpips_teacher", TEACHER, "LPIPS", ".3f", "lowest"),
    Measure("dists_teacher", TEACHER, "DISTS", ".3f", "lowest"),
    Measure("sharpness", TEACHER, "sharpness", ".2f", "near 1"),
    Measure("params", COST, "params", ",.0f", ""),
    Measure("gmac_256", COST, "GMAC", ".1f", ""),
    Measure("ms_per_megapixel", COST, "ms / MP", ",.0f", ""),
)
MEASURES = {measure.key: measure for measure in _MEASURES}
OPTIONAL = {"vgg", "vgg_teacher", "lpips_teacher", "dists_teacher", "sharpness"}  # columns that may be left out
PHOTO_KEYS = ("psnr_y_teacher", "vgg_teacher", "sharpness", "psnr_y")  # of the table by photo
COMPARED = ("psnr_y_teacher", "ssim_y_teacher", "vgg_teacher", "sharpness", "psnr_y", "ssim_y", "vgg", "gmac_256")


@dataclass
class Cell:
    """A number of a table, as text and as it sorts."""

    text: str
    value: float | None
    is_best: bool = False


@dataclass
class Column:
    """A column of a table: its cells stand in the order of the table's rows."""

    group: str
    title: str
    cells: list[Cell]

    @property
    def is_empty(self) -> bool:
        return [cell.value for cell in self.cells].count(None) == len(self.cells)


# The best of several cells that have numbers, by a measure's `best`.
RANKS = {
    "highest": partial(max, key=lambda cell: cell.value),
    "lowest": partial(min, key=lambda cell: cell.value),
    "near 1": partial(min, key=lambda cell: abs(cell.value - 1)),
}


def row_label(row: str, scale: int) -> str:
    if row == "bicubic" and scale == 1:
        return "input, untouched"
    if row == START:
        return "where it began"
    if row == SHIPPED:
        return "the one that ships"
    return row


def plain_label(scale: int) -> str:
    """What stands for doing nothing, within a sentence."""
    if scale == 1:
        return "the untouched input"
    return "bicubic"


def score_columns(e: Evaluation) -> list[Column]:
    """The table of scores and costs, a cell for each row; a column that no row has a number for is left out."""
    columns = []
    for measure in MEASURES.values():
        values = [_value(e, row, measure) for row in e.rows]
        if measure.key in OPTIONAL and values.count(None) == len(values):
            continue
        columns.append(Column(measure.group, measure.title, _cells(measure, values, e.rows)))

    columns.append(_speed_column(e))
    return columns


def _value(e: Evaluation, row: str, measure: Measure) -> float | None:
    if measure.group == COST:
        return getattr(e.costs[row], measure.key)
    return getattr(e.scores[row], measure.key)


def _speed_column(e: Evaluation) -> Column:
    """How many times as fast as the teacher."""
    teacher = e.costs["teacher"].ms_per_megapixel
    cells = []
    for row in e.rows:
        took = e.costs[row].ms_per_megapixel
        if row == "bicubic" or not took or not teacher:
            cells.append(Cell(NONE, None))
        else:
            cells.append(Cell(f"{teacher / took:.1f}×", teacher / took))
    return Column(COST, "speed", cells)


def photo_columns(e: Evaluation) -> list[Column]:
    """The table by photo, a cell for each photo; the best of the rows on a photo is marked."""
    columns = []
    for key in PHOTO_KEYS:
        measure = MEASURES[key]
        rows = e.rows
        if measure.group == TEACHER:
            rows.remove("teacher")  # it is not compared with itself

        cells_by_photo = []
        for photo in e.per_photo:
            values = [getattr(photo.models.get(row, Scores()), key) for row in rows]
            cells_by_photo.append(_cells(measure, values, rows))

        group = f"{measure.title} {measure.group}"
        for row, cells in zip(rows, zip(*cells_by_photo, strict=True), strict=True):
            column = Column(group, row_label(row, e.protocol.scale), list(cells))
            if not column.is_empty:
                columns.append(column)
    return columns


def _cells(measure: Measure, values: Sequence[float | None], rows: Sequence[str]) -> list[Cell]:
    """The numbers of several rows as cells. The teacher's own is not marked as the best to the teacher."""
    cells = [Cell(_text(value, measure.form), value) for value in values]
    rivals = []
    for row, cell in zip(rows, cells, strict=True):
        if cell.value is not None and not (row == "teacher" and measure.group == TEACHER):
            rivals.append(cell)

    if measure.best and len(rivals) > 1:
        RANKS[measure.best](rivals).is_best = True
    return cells


def _text(value: float | None, form: str) -> str:
    if value is None:
        return NONE
    return format(value, form)


def photo_label(photo: PhotoScores) -> str:
    return f"{display_name(photo.name)} {photo.size[0]}×{photo.size[1]}"


# ---- tables of text


def table(e: Evaluation) -> str:
    """The scores as aligned text: o. to the original, t. to the teacher."""
    p = e.protocol
    columns = score_columns(e)
    lines = [["", *(column.title + SHORT[column.group] for column in columns)]]
    for n, row in enumerate(e.rows):
        lines.append([row_label(row, p.scale), *(column.cells[n].text for column in columns)])

    legend = (
        f"o. to the original, t. to the teacher; mean of {len(p.photos)} test photos, x{p.scale}, degradation "
        f"{p.degradation}, teacher {e.teacher.name}, border of {p.border} left out, Y of BT.601 or RGB; "
        "baseline: the same student trained without a teacher"
    )
    return "\n".join([*_aligned(lines, narrowest=8), legend])


def compare(evaluations: dict[str, Evaluation]) -> str:
    """Several evaluations as aligned text: the scores of each student, and the settings in which they differ.

    Scores compare only where teacher, scale, degradation, photos and their sizes are the same: said if not.
    """
    settings = {}
    for name, e in evaluations.items():
        settings[name] = {}
        if "student" in e.trained:
            settings[name] = provenance.with_shape(e.trained["student"].settings)
    differing = _differing(list(settings.values()))

    # a column for each score that any of them has
    measures = []
    for key in COMPARED:
        measure = MEASURES[key]
        values = [_value(e, "student", measure) for e in evaluations.values()]
        if measure.key not in OPTIONAL or values.count(None) < len(values):
            measures.append(measure)

    lines = [["", *(m.title + SHORT[m.group] for m in measures), *differing]]
    for name, e in evaluations.items():
        line = [name]
        for measure in measures:
            line.append(_text(_value(e, "student", measure), measure.form))
        for key in differing:
            line.append(str(settings[name].get(key, NONE)))
        lines.append(line)

    text = _aligned(lines)
    if len(set(map(_test_of, evaluations.values()))) > 1:
        text.append("NOT COMPARABLE: these differ in teacher, scale, degradation, test photos or the photos' sizes.")
    return "\n".join([*text, "t. to the teacher, o. to the original"])


def _differing(settings: list[dict[str, object]]) -> list[str]:
    """The settings of training in which several students differ; older evaluations tell none."""
    known = list(filter(None, settings))
    keys = sorted(set().union(*known))
    differing = []
    for key in keys:
        values = {str(s.get(key)) for s in known}
        if len(values) > 1 and not key.startswith("labels."):
            differing.append(key)
    return differing


def _test_of(e: Evaluation) -> tuple:
    """What must be the same for two evaluations to compare."""
    photos = tuple((photo.name, *photo.size) for photo in e.per_photo)
    return e.teacher.sha256, e.protocol.scale, e.protocol.degradation, photos


def _aligned(lines: list[list[str]], narrowest: int = 0) -> list[str]:
    """Rows of text in columns, the first to the left and the others to the right."""
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *others in lines:
        line = first.ljust(wide[0])
        for cell, width in zip(others, wide[1:], strict=True):
            line += "  " + cell.rjust(max(narrowest, width))
        text.append(line)
    return text
