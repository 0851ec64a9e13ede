"""What there is to say of a student that ships: its weights, its .json and the words of its recipe, as one `Card`."""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kd_utils.common import files, sources
from kd_utils.common.errors import ConfigError
from kd_utils.models import student

# The terms of the loss, by their setting's name. A term that is not here is called by that name.
TERMS = {
    "teacher": "L1 to the teacher",
    "gt": "L1 to the original",
    "fft": "L1 of spectra to the teacher",
    "gradient": "L1 of neighbouring differences to the teacher",
    "screen": "no 4x4 grid",
    "perceptual": "VGG19 to the teacher",
    "perceptual_gt": "VGG19 to the original",
    "adversarial": "adversarial",
}
# what is no weight of a term
NO_TERMS = {"gt_end", "charbonnier", "usm", "crisp_start", "adversarial_lr", "adversarial_crop"}
NO_TERMS |= {"crop", "fraction", "margin"}


@dataclass(frozen=True)
class Words:
    """What a card says that no file knows: the table [card] of a recipe. All of it may be left out."""

    name: str = ""  # in a library, without scale and architecture
    summary: str = ""
    tags: list[str] = field(default_factory=lambda: ["general-upscaler", "photo", "restoration"])
    dataset: str = ""  # whose photos
    teacher: str = ""  # more of the teacher
    training: str = ""  # more of the training, such as the machine and the minutes
    arguments: str = ""  # more arguments of benchmarks.ship
    text: str = ""  # paragraphs at the end: what it is good for, and where it is weak


@dataclass(frozen=True)
class Card:
    """The facts that both forms of a card are made of."""

    file: Path
    net: student.Student
    facts: dict[str, Any]  # NAME.json
    words: Words
    before: str  # the recipe of the student it began with, or empty
    date: str  # of the weights, yyyy-mm-dd

    @property
    def name(self) -> str:
        if self.words.name:
            return self.words.name
        family = self.file.stem.removeprefix("student_").removeprefix(f"x{self.net.scale}_")
        return f"KD {family.replace('_', ' ')}"

    @property
    def library_id(self) -> str:
        return f"{self.net.scale}x-{self.name.replace(' ', '-')}"

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The settings of the trainings that this student went through, in their order."""
        chain, facts = [], self.facts
        while facts:
            chain.insert(0, facts["settings"])
            facts = facts.get("before")
        return chain

    # ---- the rows of a card, each as a piece of text

    @property
    def summary(self) -> str:
        return self.words.summary or f"A x{self.net.scale} student."

    @property
    def network(self) -> str:
        net, counted = self.net, self.facts["student"]
        text = f"{net.feat} features, {net.convs} inner convolutions; {counted['params']:,} parameters, "
        text += f"{counted['gmac_1024']:.1f} GMAC for a 1024x1024 output; "
        if net.scale == 4:
            return text + "plain Real-ESRGAN Compact, fp32: opens in spandrel"
        text += f"PixelUnshuffle({net.down}) before it, fp32; "
        return text + f"keys are `{net.trunk}.*`, so that no Compact reader takes it for one"

    @property
    def teacher(self) -> str:
        labels, more = self.facts["labels"], self.words.teacher
        if not more and sources.is_official(labels["teacher"], labels["teacher_sha256"]) is False:
            more = "rounded to half precision"
        about = ", ".join(filter(None, [more, f"sha256 {labels['teacher_sha256'][:12]}..."]))
        text = f"{labels['teacher']} ({about})"
        if labels["label.input_scale"] != 1:
            text += f", fed the picture at {labels['label.input_scale']:g} of its size"
        return text

    @property
    def dataset(self) -> str:
        photos = self.facts["photos"]
        whose = f" ({self.words.dataset})" if self.words.dataset else ""
        return f"{len(photos['train'])} photos{whose}, {len(photos['valid'])} others for validation"

    @property
    def crops(self) -> str:
        last = self.parts[-1]
        counts = in_order([f"{part['data.crops_per_photo']}" for part in self.parts])
        profiles = in_order([f"`{part['degrade.profile']}`" for part in self.parts])
        side = last["data.crop"]
        return f"{counts} of each photo, {side}x{side}, profile {profiles}, seed {last['seed']}"

    @property
    def loss(self) -> str:
        return in_order([describe_loss(part) for part in self.parts])

    @property
    def training(self) -> str:
        parts = self.parts
        init = parts[0]["train.init"]
        starts = {"": "random weights", "teacher": "the teacher, cut down"}
        steps = ", then ".join(_steps(part) for part in parts)
        crops = sum(part["train.steps"] * part["train.batch"] for part in parts)

        last = parts[-1]
        rates = in_order([f"{part['train.lr']:g}" for part in parts])
        text = f"began with {starts.get(init, init)}; {steps} ({crops:,} crops seen); "
        text += f"{last['train.optimizer'].upper()}, lr {rates} to {last['train.lr_end']:g} "
        text += f"(a cosine after {last['train.warmup']} steps of warm-up), "
        text += f"EMA {last['train.ema']:g}, {last['train.dtype']}"
        if self.words.training:
            text += f"; {self.words.training}"
        if self.facts.get("blend"):
            text += f"; then {self._mean(self.facts['blend'])}"
        return text

    def _mean(self, blend: dict[str, Any]) -> str:
        """The student that this one is blended with, and how that was made."""
        text = f"the mean of the weights with {blend['share']:.0%} of {blend['with']}"
        path = self.file.parent / f"{blend['with']}.json"
        if path.is_file():
            other = files.read_json(path, dict)
            text += f" (its last part: {_steps(other['settings'])}"
            if other.get("blend"):
                text += f", then the mean with {other['blend']['share']:.0%} of {other['blend']['with']}"
            text += ")"
        return text

    @property
    def validation(self) -> str:
        last = self.facts["history"]["valid"][-1]
        crops = len(self.facts["photos"]["valid"]) * self.parts[-1]["data.valid_crops_per_photo"]
        text = f"{last['psnr_y']:.2f} dB PSNR-Y to the original"
        if last.get("psnr_y_teacher") is not None:
            text = f"{last['psnr_y_teacher']:.2f} dB PSNR-Y to the teacher, {last['psnr_y']:.2f} to the original"
        return f"{text}, on {crops} crops of {len(self.facts['photos']['valid'])} photos"


def _steps(part: dict[str, Any]) -> str:
    text = f"{part['train.steps']:,} steps of {part['train.batch']}"
    if share := part.get("train.clean_inputs"):
        text += f", {share:.0%} of the inputs clean"
    if usm := part.get("loss.usm"):
        text += f", labels made sharper where the student is softer (loss.usm={usm:g})"
    return text


def card_file(weights: Path) -> Path:
    return weights.with_suffix(".card.json")


def read_card(weights: Path, recipe: Path) -> Card:
    """The card of NAME.pth, which has its NAME.json beside it. Raises ConfigError for an unknown key in [card]."""
    tables = tomllib.loads(recipe.read_text(encoding="utf-8"))
    words = tables.get("card", {})
    if unknown := words.keys() - {f.name for f in fields(Words)}:
        raise ConfigError(
            f"{recipe}: [card] has no {', '.join(sorted(unknown))}: choose among "
            f"{', '.join(f.name for f in fields(Words))}"
        )

    facts = files.read_json(weights.with_suffix(".json"), dict)
    return Card(weights, student.load(weights), facts, Words(**words), tables.get("before", ""), _date(weights))


def _date(weights: Path) -> str:
    """The day of an earlier card of the same weights, so that a card made anew says the same; else today."""
    if card_file(weights).is_file():
        earlier = files.read_json(card_file(weights), dict)
        if earlier["resources"][0]["sha256"] == files.sha256(weights):
            return earlier["date"]
    return datetime.date.today().isoformat()


def describe_loss(settings: dict[str, Any]) -> str:
    terms = []
    for key, weight in settings.items():
        name = key.removeprefix("loss.")
        is_weight = key.startswith("loss.") and name not in NO_TERMS and isinstance(weight, (int, float))
        if is_weight and weight:
            what = TERMS.get(name, f"`{key}`")
            terms.append(what if weight == 1 else f"{weight:g} {what}")
    text = " + ".join(terms)
    if usm := settings.get("loss.usm"):
        text += f", labels made sharper where the student is softer ({usm:g})"
    return text


def in_order(parts: list[str]) -> str:
    """What each training of a chain had, said once where it did not change."""
    changes = [part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
    return ", then ".join(changes)
