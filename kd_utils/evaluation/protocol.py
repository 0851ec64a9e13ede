"""How the scores of a report were taken, and what made them, in words."""

from __future__ import annotations

from kd_utils.common import sources
from kd_utils.common.names import display_name
from kd_utils.evaluation.scores import Evaluation, Timing
from kd_utils.models import student

NAMED = 12  # photos that are named one by one

DEGRADATIONS = {
    "bicubic": "bicubic downscaling only",
    "light": "light: isotropic blur, downscaling, mild noise, JPEG",
    "blurred": "blurred: strong blur, downscaling, mild noise, JPEG",
    "two_order": "two-order, as Real-ESRGAN's: blur, resize, noise and JPEG, twice, with sinc filters",
    "mixed": "mixed: half light (blur, downscaling, mild noise, JPEG), half two-order as Real-ESRGAN's",
    "wide": "wide: a third light, a third blurred, a third two-order as Real-ESRGAN's",
}
LOSS_TERMS = {
    "teacher": "L1 to the teacher",
    "gt": "L1 to the original",
    "fft": "spectrum",
    "gradient": "differences of neighbouring pixels",
    "screen": "no 4x4 grid",
    "adversarial": "adversarial",
    "perceptual": "VGG19 to the teacher",
    "perceptual_gt": "VGG19 to the original",
}


def protocol(e: Evaluation) -> list[tuple[str, str]]:
    """How the scores were taken and what made them: names and texts."""
    p, teacher = e.protocol, e.teacher
    remark = ""
    if teacher.stand_in:
        remark = ", a stand-in: see above"
    elif sources.is_official(teacher.name, teacher.sha256) is False:
        remark = ", the weights of the package index, rounded to half precision"
    train, valid = p.photos_trained_on.get("train", 0), p.photos_trained_on.get("valid", 0)
    rows = [
        ("Teacher", f"{teacher.name} (sha256 {teacher.sha256[:12]}…){remark}"),
        ("Test photos", f"{len(p.photos)}: {_some(p.photos)}"),
        ("Never seen in training", "the test photos"),
        ("Trained on", f"{train} photos, and {valid} for validation; no photo is in two parts"),
        ("Degradation", DEGRADATIONS.get(p.degradation, p.degradation)),
        ("Scale", f"×{p.scale}" + (" (sharpening at the photo's own size)" if p.scale == 1 else "")),
        ("Border", f"{p.border} pixels left out on each side of every score"),
        ("Channel", "Y: BT.601 luma of the 8-bit RGB, unrounded. RGB: PSNR over all three, SSIM their mean"),
        ("SSIM", "Gaussian 11×11, σ 1.5, population covariance, data range 255, whole windows only"),
        ("Sharpness", "mean gradient magnitude of Y over the teacher's; noise and halos raise it as well"),
        ("Mean", "of the photos' scores, each photo counting the same"),
        ("GMAC", "10⁹ multiply-adds of the convolutions for a 1024×1024 output"),
    ]
    if p.vgg:
        rows.append(("VGG19", f"feature distance, lower is nearer: {p.vgg}"))

    timing = p.timing
    how = f"input {timing.input_side}×{timing.input_side}, rows in turn, median of {timing.turns}"
    rows.append(("Timing", f"{engine_in_words(timing)}; {how}; MP: megapixels of output"))
    if training := _training(e):
        rows.append(("Training", training))
    if e.made_by:
        versions = ", ".join(f"{name} {version}" for name, version in e.made_by.versions.items())
        rows += [("Command", e.made_by.command), ("Seed", str(e.made_by.seed)), ("Versions", versions)]
    return rows


def engine_in_words(timing: Timing) -> str:
    """What computed, and on how many threads."""
    plural = "" if timing.threads == 1 else "s"
    return f"{timing.engine}, {timing.threads} thread{plural}"


def _training(e: Evaluation) -> str:
    """The student's training in one line; empty where its file does not tell."""
    made = e.trained["student"].settings if "student" in e.trained else {}
    if not made:
        return ""

    terms = []
    for key, name in LOSS_TERMS.items():
        if weight := made.get(f"loss.{key}"):
            terms.append(f"{weight:g} × {name}")
    loss = " + ".join(terms)
    if made.get("loss.perceptual") or made.get("loss.perceptual_gt"):
        loss += f" ({str(made['loss.vgg']).rsplit('/', 1)[-1]} weights)"
    if usm := made.get("loss.usm"):
        loss += f"; labels made sharper where the student is softer (loss.usm={usm:g})"

    size, steps, batch = (made.get(key) for key in ("student.size", "train.steps", "train.batch"))
    size = student.size_of(str(size))
    parts = [part[1] for part in made.get("train.chain", [])]
    raised = f" (train.steps was raised at {', '.join(f'{step:,}' for step in parts)})" if parts else ""
    return f"student {size}, {steps:,} steps{raised} of {batch} crops; loss: {loss}"


def _some(names: list[str]) -> str:
    named = ", ".join(display_name(name) for name in names[:NAMED])
    if len(names) > NAMED:
        return f"{named} and {len(names) - NAMED} more"
    return named
