"""The page of an evaluation: one self-contained HTML file of the report's words and of pictures.

`result` is the object of ``eval/metrics.json``; pictures come as data URIs or HTML (show.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from kd_utils.evaluation import report

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


def html(
    result: dict[str, Any], trained: dict[str, Any], pictures: Sequence[tuple[str, str, Sequence[str]]], curve: str
) -> str:
    """The report: one HTML file that needs nothing else.

    `trained` is the training's provenance (dotted keys; may be empty); `pictures` are (photo, data URI of its panel,
    HTML of its sliders); `curve` is a data URI or empty.
    """
    groups = report.columns_of(result)
    head, sub, last = "", "", ""
    for group, title, _ in groups:
        if group != last:
            head += f'<th class="group" colspan="{sum(g == group for g, *_ in groups)}">{group}</th>'
        sub += f"<th{' class=group' if group != last else ''}>{escape(title)}</th>"
        last = group
    starts = [i == 0 or groups[i - 1][0] != g[0] for i, g in enumerate(groups)]
    body = ""
    for n, row in enumerate(report.ROWS):
        cells = "".join(f"<td{' class=group' if s else ''}>{c[2][n]}</td>" for s, c in zip(starts, groups))
        own = " class=own" if row == "student" else ""
        body += f"<tr{own}><th>{escape(report.row_label(row, result))}</th>{cells}</tr>"
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
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in report.protocol(result, trained))
    title = escape(report.headline(result))
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
<ul>{"".join(f"<li>{escape(f)}</li>" for f in report.findings(result))}</ul>
<h2>Pictures</h2>
<p>The first test photos in the protocol's order, not a selection. Drag a picture's line, or use the arrow keys.</p>
{shown}
{curves}
<h2>How this was measured</h2>
<dl>{rows}</dl>
{notes}
<h2>Limits</h2>
<ul>{"".join(f"<li>{escape(f)}</li>" for f in report.limitations(result))}</ul>
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
