"""The words of an evaluation: from what `metrics.json` holds to a table, a headline, findings and limits.

Pure functions of strings and numbers. `result` is the object of ``eval/metrics.json``.
"""

from __future__ import annotations

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


def row_label(row: str, result: dict[str, Any]) -> str:
    if row == "bicubic" and result["protocol"]["scale"] == 1:
        return "input, untouched"
    return "same student, no teacher" if row == "student_no_teacher" else row


def columns_of(result: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
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
    columns = [(title + short[group], cells) for group, title, cells in columns_of(result)]
    labels = [row_label(row, result) for row in ROWS]
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
    settings in which they differ. Scores compare only where teacher, scale, degradation, photos and their sizes are the
    same: said if not.
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
    tests = {
        (r["teacher"]["sha256"], r["protocol"]["scale"], r["protocol"]["degradation"])
        + tuple((photo["name"], *photo["size"]) for photo in r["per_photo"])
        for r in results.values()
    }
    if len(tests) > 1:
        lines.append("NOT COMPARABLE: these differ in teacher, scale, degradation, test photos or the photos' sizes.")
    return "\n".join([*lines, "t. to the teacher, o. to the original"])


def headline(result: dict[str, Any]) -> str:
    """The evaluation in one sentence."""
    models = result["models"]
    base = row_label("bicubic", result) if result["protocol"]["scale"] > 1 else "the untouched input"
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
    name = row_label("bicubic", result) if scale > 1 else "the untouched input"
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
