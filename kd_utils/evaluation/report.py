"""The words of an evaluation and its page: from what was measured to a headline, findings, limits and one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kd_utils.evaluation import figures, protocol, tables, viewer
from kd_utils.evaluation.protocol import engine_in_words
from kd_utils.evaluation.scores import SHIPPED, START, Evaluation, known
from kd_utils.evaluation.tables import plain_label, row_label

DRIFT_SEEN = 3.0  # levels of 255: a mean colour that is off by more can be seen side by side
HARDLY_LEARNED = 0.2  # dB: a student that is nearer to its teacher by less has not learned from it yet
AS_CRISP = 0.05  # a sharpness that is off from 1 by less is called as crisp as the teacher


@dataclass
class PanelColumn:
    """One picture of a panel, with its magnified places below it."""

    title: str
    picture: str  # a data URI


@dataclass
class PhotoSection:
    """What the page shows of one test photo."""

    name: str
    panel: list[PanelColumn]
    caption: str
    slider: Markup


def headline(e: Evaluation) -> str:
    """The evaluation in one sentence. A student that is hardly nearer to its teacher than without it is told so."""
    plain = plain_label(e.protocol.scale)
    student = e.scores["student"].psnr_y_teacher
    base = e.scores["bicubic"].psnr_y_teacher
    alone = e.scores["baseline"].psnr_y_teacher
    cost = _relative_cost(e)
    if student is None or base is None:
        return f"The student reproduces its teacher {cost}."

    if student <= base:
        away = f"{base - student:.1f} dB farther from its teacher than {plain}"
        return f"The student needs longer training: at {student:.1f} dB it is {away}, {cost}."
    if student - base < HARDLY_LEARNED:
        near = f"only {student - base:.1f} dB closer to its teacher than {plain}"
        return f"The student has hardly learned yet: at {student:.1f} dB it is {near}, {cost}."
    if alone is not None and student - alone < HARDLY_LEARNED:
        near = f"{alone - student:.1f} dB farther from it than the baseline"
        if student >= alone:
            near = f"only {student - alone:.1f} dB closer to it than the baseline"
        return f"The student has hardly learned from its teacher yet: at {student:.1f} dB it is {near}, {cost}."
    return f"The student reproduces its teacher to {student:.1f} dB, {cost}{_relative_speed(e)}."


def gains(e: Evaluation) -> str:
    """What stands below the headline: how much nearer to the teacher the student is than the others, and how sharp.

    Empty where the headline says that it has hardly learned, or where nothing is known.
    """
    student, alone = e.scores["student"].psnr_y_teacher, e.scores["baseline"].psnr_y_teacher
    base = e.scores["bicubic"].psnr_y_teacher
    if student is None or base is None or student - base < HARDLY_LEARNED:
        return ""
    if alone is not None and student - alone < HARDLY_LEARNED:
        return ""

    closer = f"{student - base:.1f} dB closer than {plain_label(e.protocol.scale)}"
    if alone is not None:
        closer += f" and {student - alone:.1f} dB closer than the baseline"
    said = [f"That is {closer}."]

    began = e.scores[START].psnr_y_teacher if START in e.scores else None
    if began is not None and student >= began:
        said.append(f"This training brought it {student - began:.1f} dB closer to its teacher.")
    elif began is not None:
        said.append(f"But this training took it {began - student:.1f} dB farther from its teacher.")
    if e.scores["student"].sharpness is not None:
        said.append(f"Its pictures are {_as_sharp(known(e.scores['student'].sharpness))}.")
    return " ".join(said)


def in_words(e: Evaluation) -> str:
    """The headline and what stands below it."""
    return f"{headline(e)} {gains(e)}".rstrip()


def _as_sharp(sharpness: float) -> str:
    """A sharpness, as a share of the teacher's, in words."""
    if sharpness > 1 + AS_CRISP:
        return f"{sharpness - 1:.0%} sharper than the teacher's, by noise or texture that the teacher takes out"
    if sharpness < 1 - AS_CRISP:
        return f"{1 - sharpness:.0%} softer than the teacher's"
    return "as sharp as the teacher's"


def _relative_cost(e: Evaluation) -> str:
    ratio = known(e.costs["teacher"].gmac_256) / known(e.costs["student"].gmac_256)
    if ratio >= 1.5:
        return f"at 1/{ratio:.0f} of its cost"
    if ratio >= 1:
        return f"at {1 / ratio:.0%} of its cost"
    return f"at {1 / ratio:.1f} times its cost"


def _relative_speed(e: Evaluation) -> str:
    student, teacher = e.costs["student"].ms_per_megapixel, e.costs["teacher"].ms_per_megapixel
    if not student or not teacher or teacher < 1.5 * student:
        return ""
    return f" and {teacher / student:.0f} times as fast"


def cards(e: Evaluation) -> list[tuple[str, str]]:
    """The few numbers at the top of the page, and what each is."""
    student, base = e.scores["student"], e.scores["bicubic"]
    cost, teacher = e.costs["student"], e.costs["teacher"]
    out = []
    if student.psnr_y_teacher is not None and base.psnr_y_teacher is not None:
        gain = student.psnr_y_teacher - base.psnr_y_teacher
        out.append((f"{gain:+.1f} dB", f"nearer to the teacher than {plain_label(e.protocol.scale)} (PSNR-Y)"))
    if student.sharpness is not None:
        out.append((f"{student.sharpness:.2f}", "of the teacher's sharpness (1 is as crisp)"))

    less = known(teacher.gmac_256) / known(cost.gmac_256)
    fast = known(teacher.ms_per_megapixel) / known(cost.ms_per_megapixel)
    thousands = [f"{known(params) / 1000:,.0f} k" for params in (cost.params, teacher.params)]
    out.append((f"{less:.1f}×", f"less arithmetic: {cost.gmac_256:.1f} instead of {teacher.gmac_256:.1f} GMAC"))
    out.append((f"{fast:.1f}×", f"faster: {cost.ms_per_megapixel:,.0f} ms a megapixel, measured"))
    out.append((thousands[0], f"parameters; the teacher has {thousands[1]}"))
    return out


# ---- findings


def findings(e: Evaluation) -> list[str]:
    """What the table says, in plain words, the losses too."""
    found = [_order_to_the_original(e)]
    plain = plain_label(e.protocol.scale)
    teacher, base = e.scores["teacher"].psnr_y, e.scores["bicubic"].psnr_y
    if teacher is not None and base is not None and teacher < base + 0.3:
        found.append(
            f"That the teacher is not clearly above {plain} there is in its nature: it draws plausible detail, which "
            "looks sharper but is not the original's, pixel for pixel. Judge it by the pictures, and the student by "
            "its teacher."
        )

    student, alone = e.scores["student"], e.scores["baseline"]
    if alone.psnr_y_teacher is not None and student.psnr_y_teacher is not None:
        gain = student.psnr_y_teacher - alone.psnr_y_teacher
        where = "closer to" if gain > 0 else "farther from"
        found.append(
            f"The student is {abs(gain):.1f} dB {where} the teacher than the baseline, which was trained the same way "
            "on the originals alone."
        )
    if student.sharpness is not None:
        found.append(_crispness(e))
    return [*found, _speed(e), _colors(e)]


def _order_to_the_original(e: Evaluation) -> str:
    names = {"student": "the student", "teacher": "the teacher", "baseline": "the baseline"}
    names[START] = "the student where it began"
    names[SHIPPED] = "the one that ships"
    names["bicubic"] = plain_label(e.protocol.scale)
    known = []
    for row in e.rows:
        if e.scores[row].psnr_y is not None:
            known.append((e.scores[row].psnr_y, names[row]))

    order = ", ".join(f"{name} {value:.2f} dB" for value, name in sorted(known, reverse=True))
    return f"Measured against the original (PSNR-Y), best first: {order}."


def _crispness(e: Evaluation) -> str:
    student, base = known(e.scores["student"].sharpness), known(e.scores["bicubic"].sharpness)
    alone = e.scores["baseline"].sharpness
    beside = f"{plain_label(e.protocol.scale)} {base:.2f}"
    if alone is not None:
        beside = f"the baseline {alone:.2f}, {beside}"
    verdict = _as_sharp(student)
    return f"The student has {student:.2f} of the teacher's sharpness ({beside}): its pictures are {verdict}."


def _speed(e: Evaluation) -> str:
    student, teacher = known(e.costs["student"].ms_per_megapixel), known(e.costs["teacher"].ms_per_megapixel)
    return (
        f"A megapixel of output takes the student {student:,.0f} ms and the teacher {teacher:,.0f} ms, "
        f"{teacher / student:.1f} times as long ({engine_in_words(e.protocol.timing)})."
    )


def _colors(e: Evaluation) -> str:
    worst = {row: max(known(e.scores[row].drift_rgb)) for row in ("student", "teacher", "bicubic")}
    verdict = "too little to see" if worst["student"] <= DRIFT_SEEN else "that can be seen: the colours drift"
    return (
        f"The mean colour of 32×32 blocks is off the original's by {worst['student']:.2f} of 255 levels in the worst "
        f"channel (teacher {worst['teacher']:.2f}, {plain_label(e.protocol.scale)} {worst['bicubic']:.2f}): {verdict}."
    )


def limitations(e: Evaluation) -> list[str]:
    """What the numbers do not say."""
    out = [
        f"{len(e.protocol.photos)} test photos: differences of a few hundredths of a decibel mean nothing.",
        "The photos were degraded by a program. Real cameras, scans and screenshots may be worse in other ways.",
        "A student inherits its teacher's taste: detail that the teacher invents, the student learns to invent.",
        "PSNR and SSIM reward caution, and noise or halos count as sharpness. None of them says which picture a person "
        "prefers; look at the pictures.",
    ]
    if e.protocol.timing.engine.endswith("cpu"):
        out.append("Timed on a CPU that may have had other work; the rows took turns, so their ratio holds better.")
    return out


# ---- the page


def page(e: Evaluation, photos: Sequence[PhotoSection], curves: Sequence[str]) -> str:
    """The report: one HTML file that needs nothing else. `curves` are data URIs."""
    template = viewer.environment().get_template("report.html.j2")
    return template.render(
        e=e,
        title=headline(e),
        gains=gains(e),
        cards=cards(e),
        rows=[row_label(row, e.protocol.scale) for row in e.rows],
        columns=tables.score_columns(e),
        photo_rows=[tables.photo_label(photo) for photo in e.per_photo],
        photo_columns=tables.photo_columns(e),
        findings=findings(e),
        photos=photos,
        curves=curves,
        protocol=protocol.protocol(e),
        limitations=limitations(e),
        source=viewer.source,
        brightest=figures.BRIGHTEST,
    )


def table_html(e: Evaluation) -> str:
    """The table of scores for a notebook: HTML with its own style, the best value of each column bold."""
    rows = [row_label(row, e.protocol.scale) for row in e.rows]
    table = viewer.macro("table")(rows, tables.score_columns(e))
    return f'<style>{viewer.source("table.css")}</style><div class="kd-table">{table}</div>'
