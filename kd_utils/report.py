"""The words and the page of an evaluation: from what `metrics.json` holds to text and self-contained HTML.

Pure functions of strings and numbers. `result` is the object of ``eval/metrics.json``; pictures come as data URIs or
HTML (show.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

ROWS = ("bicubic", "student", "student_no_teacher", "teacher")
SCORES = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "psnr_y_teacher", "ssim_y_teacher")
COSTS = ("params", "gmac_256", "ms_per_megapixel")
DRIFT_SEEN = 3.0  # levels of 255: a mean colour that is off by more can be seen side by side

DEGRADATIONS = {
    "bicubic": "bicubic downscaling only",
    "light": "light: isotropic blur, downscaling, mild noise, JPEG",
    "two_order": "two-order, as Real-ESRGAN's: blur, resize, noise and JPEG, twice, with sinc filters",
    "mixed": "mixed: half light (blur, downscaling, mild noise, JPEG), half two-order as Real-ESRGAN's",
}


def _label(row: str, result: dict[str, Any]) -> str:
    if row == "bicubic" and result["protocol"]["scale"] == 1:
        return "input, untouched"
    return "same student, no teacher" if row == "student_no_teacher" else row


def _columns(result: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Group, title and the text of each row's cell; "–" for null."""
    models = result["models"]
    own = models["teacher"]["ms_per_megapixel"]

    def cells(key: str, form: str, factor: float = 1) -> list[str]:
        return ["–" if models[r][key] is None else format(models[r][key] * factor, form) for r in ROWS]

    columns = [("to the original", t, cells(k, f)) for t, k, f in (
        ("PSNR-Y", "psnr_y", ".2f"), ("SSIM-Y", "ssim_y", ".4f"),
        ("PSNR-RGB", "psnr_rgb", ".2f"), ("SSIM-RGB", "ssim_rgb", ".4f"),
    )]  # fmt: skip
    if result["protocol"]["vgg"]:
        columns.append(("to the original", "VGG19", cells("vgg", ".3f")))
    columns += [("to the teacher", "PSNR-Y", cells("psnr_y_teacher", ".2f"))]
    columns += [("to the teacher", "SSIM-Y", cells("ssim_y_teacher", ".4f"))]
    columns += [("cost", "params", cells("params", ",.0f")), ("cost", "GMAC", cells("gmac_256", ".1f"))]
    columns += [("cost", "ms / MP", cells("ms_per_megapixel", ",.0f"))]
    took = [models[r]["ms_per_megapixel"] for r in ROWS]
    fast = ["–" if not t or r == "bicubic" else f"{own / t:.1f}×" for r, t in zip(ROWS, took)]
    return [*columns, ("cost", "speed", fast)]


def table(result: dict[str, Any]) -> str:
    """The scores as aligned text: o. to the original, t. to the teacher."""
    short = {"to the original": " o.", "to the teacher": " t.", "cost": ""}
    columns = [(title + short[group], cells) for group, title, cells in _columns(result)]
    labels = [_label(row, result) for row in ROWS]
    wide = max(map(len, labels))
    lines = [" " * wide + "".join(f"  {head:>{max(8, len(head))}}" for head, _ in columns)]
    for n, label in enumerate(labels):
        lines.append(f"{label:<{wide}}" + "".join(f"  {cells[n]:>{max(8, len(head))}}" for head, cells in columns))
    p = result["protocol"]
    lines.append(
        f"o. to the original, t. to the teacher; mean of {len(p['photos'])} test photos, x{p['scale']}, degradation "
        f"{p['degradation']}, teacher {result['teacher']['name']}, border of {p['border']} left out, Y of BT.601 or RGB"
    )
    return "\n".join(lines)


def compare(results: dict[str, dict[str, Any]]) -> str:
    """Several evaluations as aligned text, {name: what its metrics.json holds}: scores of each student, and the
    settings in which they differ. Scores compare only where teacher, photos and degradation are the same: said if not.
    """
    heads = {"psnr_y_teacher": "PSNR-Y t.", "ssim_y_teacher": "SSIM-Y t.", "psnr_y": "PSNR-Y o.", "ssim_y": "SSIM-Y o."}
    heads |= {"vgg": "VGG19 o."} if any(r["protocol"]["vgg"] for r in results.values()) else {}
    heads["gmac_256"] = "GMAC"
    made = {name: r.get("trained", {}).get("student", {}).get("settings", {}) for name, r in results.items()}
    every = sorted({key for settings in made.values() for key in settings if not key.startswith("labels.")})
    known = [settings for settings in made.values() if settings]  # older evaluations tell none
    differ = [key for key in every if len({str(settings.get(key)) for settings in known}) > 1]
    rows = [["", *heads.values(), *differ]]
    for name, r in results.items():
        scores = [r["models"]["student"].get(key) for key in heads]
        shown = ["–" if v is None else f"{v:.2f}" if v > 2 else f"{v:.4f}" for v in scores]
        rows.append([name, *shown, *(str(made[name].get(key, "–")) for key in differ)])
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{row[0]:<{wide[0]}}" + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], wide[1:])) for row in rows]
    tests = {(r["teacher"]["sha256"], r["protocol"]["degradation"], *r["protocol"]["photos"]) for r in results.values()}
    if len(tests) > 1:
        lines.append("NOT COMPARABLE: these are of different teachers, test photos or degradations.")
    return "\n".join([*lines, "t. to the teacher, o. to the original"])


def headline(result: dict[str, Any]) -> str:
    """The evaluation in one sentence."""
    models = result["models"]
    base = _label("bicubic", result) if result["protocol"]["scale"] > 1 else "the untouched input"
    student, plain = (models[r]["psnr_y_teacher"] for r in ("student", "bicubic"))
    ratio = models["teacher"]["gmac_256"] / models["student"]["gmac_256"]
    cost = f"at 1/{ratio:.0f} of its cost" if ratio >= 1.5 else f"at {1 / ratio:.0%} of its cost"
    if student is None or plain is None:
        return f"The student reproduces its teacher {cost}."
    if student > plain:
        closer = f"{student - plain:.1f} dB closer than {base}"
        return f"The student reproduces its teacher to {student:.1f} dB, {closer}, {cost}."
    return (
        f"The student is at {student:.1f} dB to its teacher, {plain - student:.1f} dB farther than {base}, {cost}: "
        "it needs longer training."
    )


def findings(result: dict[str, Any]) -> list[str]:
    """What the table says, in plain words, the losses too."""
    models, scale = result["models"], result["protocol"]["scale"]
    student, alone, taught, base = (models[r] for r in ("student", "student_no_teacher", "teacher", "bicubic"))
    name = _label("bicubic", result) if scale > 1 else "the untouched input"
    out = []
    values = {f"the {k}": m["psnr_y"] for k, m in (("student", student), ("teacher", taught))}
    values |= {name: base["psnr_y"], "the same student without a teacher": alone["psnr_y"]}
    known = sorted(((v, k) for k, v in values.items() if v is not None), reverse=True)
    order = ", ".join(f"{k} {v:.2f} dB" for v, k in known)
    out.append(f"Measured against the original (PSNR-Y), best first: {order}.")
    if taught["psnr_y"] is not None and base["psnr_y"] is not None and taught["psnr_y"] < base["psnr_y"] + 0.3:
        out.append(
            f"That the teacher is not clearly above {name} there is in its nature: it draws plausible detail, which "
            "looks sharper but is not the original's, pixel for pixel. Judge it by the pictures, and the student by "
            "its teacher."
        )
    if alone["psnr_y_teacher"] is not None and student["psnr_y_teacher"] is not None:
        gain = student["psnr_y_teacher"] - alone["psnr_y_teacher"]
        where = "closer to" if gain > 0 else "farther from"
        out.append(
            f"Learning from the teacher took the student {abs(gain):.1f} dB {where} it than the same training on the "
            "originals alone."
        )
    timing = result["protocol"]["timing"]
    fast = taught["ms_per_megapixel"] / student["ms_per_megapixel"]
    out.append(
        f"A megapixel of output takes the student {student['ms_per_megapixel']:,.0f} ms and the teacher "
        f"{taught['ms_per_megapixel']:,.0f} ms, {fast:.1f} times as long ({_engine(timing)})."
    )
    drift = max(student["drift_rgb"])
    verdict = "too little to see" if drift <= DRIFT_SEEN else "that can be seen: the colours drift"
    out.append(
        f"The mean colour of 32×32 blocks is off the original's by {drift:.2f} of 255 levels in the worst channel "
        f"(teacher {max(taught['drift_rgb']):.2f}, {name} {max(base['drift_rgb']):.2f}): {verdict}."
    )
    return out


def _engine(timing: dict[str, Any]) -> str:
    return f"{timing['engine']}, {timing['threads']} thread{'s' if timing['threads'] > 1 else ''}"


def limitations(result: dict[str, Any]) -> list[str]:
    p = result["protocol"]
    out = [
        f"{len(p['photos'])} test photos: differences of a few hundredths of a decibel mean nothing.",
        "The photos were degraded by a program. Real cameras, scans and screenshots may be worse in other ways.",
        "A student inherits its teacher's taste: detail that the teacher invents, the student learns to invent.",
        "PSNR and SSIM reward caution. Neither says which picture a person prefers; look at the pictures.",
    ]
    if p["timing"]["engine"].endswith("cpu"):
        out.append("Timed on a CPU that may have had other work; the rows took turns, so their ratio holds better.")
    return out


def protocol(result: dict[str, Any], trained: dict[str, Any]) -> list[tuple[str, str]]:
    p, t = result["protocol"], result["teacher"]
    train, valid = (p["photos_trained_on"].get(part, 0) for part in ("train", "valid"))
    rows = [
        ("Teacher", f"{t['name']} (sha256 {t['sha256'][:12]}…)" + (", a stand-in: see above" if t["stand_in"] else "")),
        ("Test photos", f"{len(p['photos'])}: {_some(p['photos'])}"),
        ("Never seen in training", "the test photos"),
        ("Trained on", f"{train} photos, and {valid} for validation; no photo is in two parts"),
        ("Degradation", DEGRADATIONS.get(p["degradation"], p["degradation"])),
        ("Scale", f"×{p['scale']}" + (" (sharpening at the photo's own size)" if p["scale"] == 1 else "")),
        ("Border", f"{p['border']} pixels left out on each side of every score"),
        ("Channel", "Y: BT.601 luma of the 8-bit RGB, unrounded. RGB: PSNR over all three, SSIM their mean"),
        ("SSIM", "Gaussian 11×11, σ 1.5, population covariance, data range 255, whole windows only"),
        ("Mean", "of the photos' scores, each photo counting the same"),
        ("GMAC", "10⁹ multiply-adds of the convolutions for a 1024×1024 output"),
    ]
    if p["vgg"]:
        rows.append(("VGG19", f"feature distance, lower is nearer: {p['vgg']}"))
    timing, side = p["timing"], p["timing"]["input_side"]
    how = f"input {side}×{side}, rows in turn, median of {timing['turns']}; MP: megapixels of output"
    rows.append(("Timing", f"{_engine(timing)}; {how}"))
    if trained:
        terms = {"teacher": "L1 to the teacher", "gt": "L1 to the original", "fft": "spectrum"}
        terms |= {"perceptual": "VGG19 to the teacher", "perceptual_gt": "VGG19 to the original"}
        loss = " + ".join(f"{w:g} × {name}" for key, name in terms.items() if (w := trained.get(f"loss.{key}")))
        if trained.get("loss.perceptual") or trained.get("loss.perceptual_gt"):
            loss += f" ({str(trained['loss.vgg']).rsplit('/', 1)[-1]} weights)"
        size, steps, batch = (trained.get(k) for k in ("student.size", "train.steps", "train.batch"))
        rows.append(("Training", f"student {size}, {steps:,} steps of {batch} crops; loss: {loss}"))
    return rows


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


STYLE = """
:root{color-scheme:light dark;--ink:#16181d;--soft:#5d6673;--line:#e3e6eb;--ground:#fbfbfc;--card:#fff;
--mark:#0f6cbd;--warn:#fff4dc;--rim:#e0b04a}
@media(prefers-color-scheme:dark){:root{--ink:#e9ebee;--soft:#9aa4b2;--line:#2c323a;--ground:#111418;--card:#191d23;
--mark:#62b0f5;--warn:#2d2614;--rim:#8a6a1f}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:17px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:56px 24px 96px}
.kicker{color:var(--soft);font-size:14px;letter-spacing:.04em;text-transform:uppercase;margin:0 0 12px}
h1{font-size:clamp(26px,3.6vw,40px);line-height:1.22;letter-spacing:-.015em;margin:0 0 28px;text-wrap:balance}
h2{font-size:22px;letter-spacing:-.01em;margin:56px 0 14px}
h3{font-size:16px;margin:36px 0 10px;color:var(--soft);font-weight:600}
p,li{max-width:48em}
ul{padding-left:1.2em}
li{margin:.35em 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:0 0 28px}
.cards div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 20px}
.cards b{display:block;font-size:30px;line-height:1.2;letter-spacing:-.02em;color:var(--mark)}
.cards span{color:var(--soft);font-size:14px;line-height:1.4;display:block}
.note{background:var(--warn);border-left:4px solid var(--rim);border-radius:6px;padding:12px 18px;max-width:none}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:12px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}
th,td{padding:9px 10px;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:13px}
thead tr:first-child th{padding-bottom:0;text-align:center}
tbody th{text-align:left;font-weight:500}
tr.own{background:color-mix(in srgb,var(--mark) 9%,transparent)}
tr.own th{font-weight:700}
.group{border-left:1px solid var(--line)}
figure{margin:0 0 18px}
figure img{display:block;width:100%;height:auto;background:#fff;border:1px solid var(--line);border-radius:10px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:16px}
.pair .kd-slider{width:100%!important}
dl{display:grid;grid-template-columns:max-content 1fr;gap:8px 24px;font-size:15px;margin:0}
dt{color:var(--soft)}
dd{margin:0}
@media(max-width:640px){dl{grid-template-columns:1fr;gap:2px}dd{margin-bottom:10px}}
"""


def page(
    result: dict[str, Any], trained: dict[str, Any], pictures: Sequence[tuple[str, str, Sequence[str]]], curve: str
) -> str:
    """The report: one HTML file that needs nothing else.

    `trained` is the training's provenance (dotted keys; may be empty); `pictures` are (photo, data URI of its panel,
    HTML of its sliders); `curve` is a data URI or empty.
    """
    groups = _columns(result)
    head, sub, last = "", "", ""
    for group, title, _ in groups:
        if group != last:
            head += f'<th class="group" colspan="{sum(g == group for g, *_ in groups)}">{group}</th>'
        sub += f"<th{' class=group' if group != last else ''}>{escape(title)}</th>"
        last = group
    starts = [i == 0 or groups[i - 1][0] != g[0] for i, g in enumerate(groups)]
    body = ""
    for n, row in enumerate(ROWS):
        cells = "".join(f"<td{' class=group' if s else ''}>{c[2][n]}</td>" for s, c in zip(starts, groups))
        body += f"<tr{' class=own' if row == 'student' else ''}><th>{escape(_label(row, result))}</th>{cells}</tr>"
    stand_in = (
        f"<p class=note><strong>The teacher here is a stand-in.</strong> {escape(result['teacher']['name'])} is not "
        "Real-ESRGAN but a larger student of this project that learned from one. It comes with the project, so that "
        "nothing has to be downloaded. Set <code>teacher=anime_6B</code> to learn from the real one.</p>"
    )
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in result["notes"])
    shown = "".join(
        f'<h3>{escape(name)}</h3><figure><img src="{panel}" alt="{escape(name)}: input, bicubic, student, teacher, '
        f'original, with two zooms"></figure><div class=pair>{"".join(sliders)}</div>'
        for name, panel, sliders in pictures
    )
    curves = f'<h2>Training</h2><figure><img src="{curve}" alt="loss and validation by step"></figure>' if curve else ""
    cards = "".join(f"<div><b>{value}</b><span>{escape(what)}</span></div>" for value, what in _cards(result))
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in protocol(result, trained))
    title = escape(headline(result))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body><main>
<p class="kicker">Image sharpening by knowledge distillation · evaluation</p>
<h1>{title.replace(" dB", "&nbsp;dB")}</h1>
<div class="cards">{cards}</div>
{stand_in if result["teacher"]["stand_in"] else ""}
<h2>Scores</h2>
<div class="wide"><table><thead><tr><th></th>{head}</tr><tr><th></th>{sub}</tr></thead>
<tbody>{body}</tbody></table></div>
<ul>{"".join(f"<li>{escape(f)}</li>" for f in findings(result))}</ul>
<h2>Pictures</h2>
<p>The first test photos in the protocol's order, not a selection. Drag a picture's line, or use the arrow keys.</p>
{shown}
{curves}
<h2>How this was measured</h2>
<dl>{rows}</dl>
{notes}
<h2>Limits</h2>
<ul>{"".join(f"<li>{escape(f)}</li>" for f in limitations(result))}</ul>
</main></body></html>
"""


def _cards(result: dict[str, Any]) -> list[tuple[str, str]]:
    student, taught, base = (result["models"][r] for r in ("student", "teacher", "bicubic"))
    out = []
    if student["psnr_y_teacher"] is not None and base["psnr_y_teacher"] is not None:
        gain = student["psnr_y_teacher"] - base["psnr_y_teacher"]
        than = "bicubic" if result["protocol"]["scale"] > 1 else "the untouched input"
        out.append((f"{gain:+.1f} dB", f"nearer to the teacher than {than} (PSNR-Y)"))
    less = taught["gmac_256"] / student["gmac_256"]
    fast = taught["ms_per_megapixel"] / student["ms_per_megapixel"]
    out.append((f"{less:.1f}×", f"less arithmetic: {student['gmac_256']:.1f} instead of {taught['gmac_256']:.1f} GMAC"))
    out.append((f"{fast:.1f}×", f"faster: {student['ms_per_megapixel']:,.0f} ms a megapixel, measured"))
    out.append((f"{student['params'] / 1000:,.0f} k", f"parameters; the teacher has {taught['params'] / 1000:,.0f} k"))
    return out
