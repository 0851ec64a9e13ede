"""What an artefact was made of, and the refusal of what was made otherwise.

Each artefact (crops, labels, a training, a student) records its provenance: the settings that it depends on, and the
hashes of what it was made from. A step compares that with what it would record itself. Where a file lies does not
matter, what it holds does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kd_utils.common import files
from kd_utils.common.errors import StoreError
from kd_utils.config import INITS, VGGS, Config, to_dict
from kd_utils.imaging.reading import reader_version
from kd_utils.models import student
from kd_utils.models.teacher import TeacherRef
from kd_utils.overrides import flatten

Provenance = dict[str, Any]  # dotted keys of settings, and hashes: it goes to disk as it is

# Settings of training that do not change what is trained: how often it is watched and saved, and how it is computed.
NOT_TRAINED = ("compile", "valid_every", "save_every", "keep", "baseline")
# Settings that name a file, and the words that may stand there instead.
FILE_SETTINGS = {"train.init": INITS, "loss.vgg": VGGS}

# A training records the shape of its network, as s, m and l can come to mean another one. Older ones recorded the
# letter, which meant these.
SIZES_BEFORE = {"s": "24x8", "m": "32x14", "l": "32x31"}

# Where `train.steps` was raised: [steps asked for, steps reached] of each part before the last.
CHAIN = "train.chain"


def crops_provenance(cfg: Config, photos: dict[str, dict[str, str]] | None = None) -> Provenance:
    """Of step 1. `photos` is {split: {name: sha256}}; None leaves the photos out, for comparing settings alone."""
    fields = to_dict(cfg, "seed", "scale", "data.", "degrade.")
    del fields["data.photos"], fields["data.test_photos"]
    if photos is not None:
        fields["photos"] = photos
    return fields


def labels_provenance(cfg: Config, teacher: TeacherRef, crops: str, engine: str = "torch") -> Provenance:
    """Of step 2: the teacher's bytes, how it is applied, and `crops`, the key of what it was applied to.

    `engine` is what computes it. PyTorch is not recorded, as it was the only one once.
    """
    fields = {"teacher": teacher.name, "teacher_sha256": teacher.sha256, "crops": crops}
    fields |= to_dict(cfg, "scale", "label.input_scale")
    # "auto" is not recorded, because it may change with the device on which lost labels are made again
    if cfg.label.dtype != "auto":
        fields |= to_dict(cfg, "label.dtype")
    if engine != "torch":
        fields["label.engine"] = engine
    return fields


def training_provenance(cfg: Config, labels: Provenance, chain: Sequence[list[int]] = ()) -> Provenance:
    """Of step 3, on labels of the provenance `labels`; `chain` is what of it was done with fewer `train.steps`."""
    fields = to_dict(cfg, "seed", "scale", "student.", "loss.", "train.")
    for name in NOT_TRAINED:
        del fields[f"train.{name}"]
    if not cfg.loss.uses_vgg:
        del fields["loss.vgg"]
    feat, convs = student.shape(cfg.student.size)
    fields["student.size"] = f"{feat}x{convs}"

    # a file counts by its name and its hash
    for key, words in FILE_SETTINGS.items():
        given = fields.get(key)
        if given and given not in words:
            fields[key] = Path(given).name
            fields[f"{key}_sha256"] = files.sha256(Path(given).expanduser())

    for key, value in labels.items():
        fields[f"labels.{key}"] = value
    if chain:
        fields[CHAIN] = [list(part) for part in chain]
    return fields


def training_differences(have: Provenance, want: Provenance) -> list[str]:
    """The keys in which the training `have`, perhaps of an older version, differs from `want`.

    A training whose steps were raised counts as one of its last number of steps.
    """
    have, want = with_defaults(have, want), dict(want)
    have.pop(CHAIN, None)
    want.pop(CHAIN, None)
    return differing(have, want)


def parts(training: Provenance) -> str:
    """The steps of a training in words: "1,000 steps", or "600 steps, then on to 1,000"."""
    reached = [part[1] for part in training.get(CHAIN, [])]
    first, *more = [*reached, training.get("train.steps", 0)]
    return f"{first:,} steps" + "".join(f", then on to {step:,}" for step in more)


def with_defaults(have: Provenance, want: Provenance) -> Provenance:
    """The provenance `have` of an older version, completed so that it compares with `want`.

    A setting that did not exist yet is taken at its default, which is what the older version did.
    """
    have = with_shape(have)
    for key, words in FILE_SETTINGS.items():
        # once a file was recorded by the path that was given, without its hash: only its name can be compared
        if have.get(key) and have[key] not in words and f"{key}_sha256" not in have:
            have |= {k: want[k] for k in (key, f"{key}_sha256") if k in want}
    if "loss.vgg" not in want:  # where no loss uses it, it no longer counts
        have = {k: v for k, v in have.items() if not k.startswith("loss.vgg")}
    defaults = {k: v for k, v in flatten(Config()).items() if k in want}
    return defaults | have


def with_shape(have: Provenance) -> Provenance:
    """A record of a training with the shape of its network, also where an older version recorded the letter."""
    have = dict(have)
    if have.get("student.size") in SIZES_BEFORE:
        have["student.size"] = SIZES_BEFORE[have["student.size"]]
    return have


def versions() -> dict[str, str]:
    """Recorded beside what we make. They are not compared, as Colab's versions move while a training is under way."""
    found = {n: metadata.version(n) for n in ("torch", "torchvision", "numpy", "opencv-python", "pillow")}
    return found | {"reader": reader_version()}


def require_same(what: Path | list[Path], have: Provenance, want: Provenance, remedy: str = "") -> None:
    """Refuse an artefact that was made under other settings: StoreError names what differs and the remedy.

    `what` are the files or folders of the artefact; without a `remedy` the message says to delete them.
    """
    if not differing(have, want):
        return

    paths = what if isinstance(what, list) else [what]
    shown = said_difference(have, want)
    remedy = remedy or f"Choose another --workdir, or delete {', '.join(map(str, paths))} to make it anew."
    raise StoreError(f"{paths[0]} was made under another configuration: {shown}. {remedy}")


def differing(have: Provenance, want: Provenance) -> list[str]:
    """The keys that differ, sorted; those of nested dicts as paths."""
    have, want = _flat(have), _flat(want)
    return [key for key in sorted(have.keys() | want.keys()) if have.get(key) != want.get(key)]


def said_difference(have: Provenance, want: Provenance) -> str:
    """What differs, in words: the first four keys with both values."""
    differ = differing(have, want)
    have, want = _flat(have), _flat(want)
    said = "; ".join(f"{key} was {_short(have.get(key))}, now {_short(want.get(key))}" for key in differ[:4])
    if len(differ) > 4:
        said += f" (and {len(differ) - 4} more)"
    return said


def _flat(fields: Provenance, within: str = "") -> Provenance:
    """Nested dicts as one, so that of a thousand photos the one that differs is named."""
    out: Provenance = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{within}{key} ")
        else:
            out[f"{within}{key}"] = value
    return out


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
