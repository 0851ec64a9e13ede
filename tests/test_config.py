import dataclasses

import pytest

from kd_utils import config, overrides, provenance
from kd_utils.common.sources import ROUNDED
from kd_utils.config import ConfigError, make


def test_every_preset_is_valid_and_quick_needs_pip_alone():
    for preset in config.PRESETS:
        make(preset)
    quick = make("quick")
    assert (quick.data.photos, quick.loss.vgg, quick.teacher) == ("samples", "random", "anime_6B")
    assert quick.teacher in ROUNDED, "its weights come by pip"


def test_overrides_are_typed():
    cfg = make("quick", "train.steps=5 loss.gt=0.2 train.betas=0.5,0.9 train.baseline=no 'data.photos=my photos'")
    assert (cfg.train.steps, cfg.loss.gt, cfg.train.betas) == (5, 0.2, [0.5, 0.9])
    assert cfg.train.baseline is False and cfg.data.photos == "my photos"
    assert make("quick", {"train.steps": 7}).train.steps == 7
    assert make("quick", ["train.steps=1e3"]).train.steps == 1000
    assert make("quick", ["seed=9007199254740993"]).seed == 9007199254740993  # no float holds it


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stesp=5", "'train.steps'"),
        ("stesp=5", "'train.steps'"),
        ("steps=5", "'train.steps'"),
        ("Teacher=x", "'teacher'"),
        ("preset=full", "use --preset"),
        ("train.steps=many", "not of type int"),
        ("train.steps=1.5", "not of type int"),
        ("train.lr=nan", "finite number"),
        ("train.baseline=maybe", "not of type bool"),
        ("train.steps", "not key=value"),
        ("scale=3", "choose one of 4, 2, 1"),
        ("train.batch=0", "greater than 0"),
        ("data.crop=100", "multiple of 8"),
        ("loss.margin=99", "leaves nothing"),
        ("loss.teacher=0", "nothing to learn from"),
        ("loss.teacher=0 loss.gt_end=1 loss.perceptual=0", "loss.gt=0 to loss.gt_end=1 leaves a step nothing"),
        ("loss.teacher=0 loss.gt=1 loss.gt_end=0 loss.perceptual=0 loss.fft=0", "leaves a step nothing"),
        ("teacher=anime6B", "did you mean 'anime_6B'"),
        ("teacher=weights/none.pth", "neither a file nor one of anime_6B"),
        ("label.input_scale=0.5", "for scale=1 only"),
        ("eval.time_repeats=0", "greater than 0"),
        ("eval.time_side=-5", "greater than 0"),
        ("data.test_side=10", "at least 64"),
        ("data.photos=", "data.photos is empty"),
        ("train.seed=9223372036854775808", "below 2"),
        ("data.limit=-1", "must not be below 0"),
        ("seed=-1", "must not be below 0"),
        ("train.init=none.pth", "train.init='none.pth' is not there"),
        ("loss.charbonnier=-0.1", "loss.charbonnier=-0.1 must not be below 0"),
        ("train.init=teacher scale=1", "train.init=teacher is for scale=4 only, not for scale=1"),
        ("loss.vgg=none.pth loss.perceptual=1", "loss.vgg='none.pth' is not there"),
        ("train.clip=-1", "train.clip=-1.0 must not be below 0"),
        ("loss.fft=-1", "loss.fft=-1.0 must not be below 0"),
        ("loss.perceptual=1 loss.crop=999", "loss.crop"),
        ("'unclosed", "cannot be read"),
        ("device=meta", "device='meta' cannot be used here: try device=auto or device=cpu"),
        ("data.photos=~nosuchuser/photos", "data.photos='~nosuchuser/photos': there is no such user's home folder"),
        ("loss.vgg='a\0b'", "loss.vgg='a.*b' holds a NUL character"),
        (f"workdir={'w' * 300}", "cannot be used as a path .File name too long.: choose another"),
        (f"teacher={'t' * 300}", "cannot be used as a path"),
        ("train.steps=1e300", "train.steps=1000.* must be below 2^63".replace("^", r"\^")),
        (f"train.steps={'9' * 5000}", "train.steps='999.*[.]{3} is not of type int"),
        ("train.lr=1e38", "train.lr=1e.38 must be at most 1e.30"),
        ("data.crops_per_photo=1e12", "data.crops_per_photo=1000000000000 must be at most 100,000"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        make("quick", override)


def test_values_from_python_are_checked_like_text():
    for values, message in (
        ({"train.steps": 10**5000}, "thousands of digits must be below 2"),
        ({"train.betas": 3}, "train.betas=3 is not a list of numbers"),
        ({"workdir": ["w"]}, "not of type str"),
        ({"train.baseline": None}, "not of type bool"),
    ):
        with pytest.raises(ConfigError, match=message):
            make("quick", values)


def test_old_names_of_settings_are_understood():
    renamed = {"train.optim": "train.optimizer"}
    cfg = overrides.override(config.Config(), "train.optim=soap", renamed)
    assert cfg.train.optimizer == "soap"
    assert make("quick", "train.optim=adam", renamed).train.optimizer == "adam"


def test_every_number_has_a_range():
    """A setting without a range takes any number: those are named here, each with its reason."""
    free = {"data.min_std", "data.min_mean", "loss.gt_end", "train.seed"}  # below 0 they mean: none, constant, `seed`
    for section in (config.Config(), *vars(config.Config()).values()):
        for field in dataclasses.fields(section) if dataclasses.is_dataclass(section) else ():
            name = type(section).__name__.removesuffix("Config").lower()
            key = f"{name}.{field.name}".lstrip(".")
            assert field.type not in ("int", "float") or field.metadata.get("ranges") or key in free, key


def test_older_provenance_is_read_as_what_was_done_unsaid():
    want = {"train.steps": 5, "train.seed": -1, "train.init": "s.pth", "train.init_sha256": "ab"}
    assert provenance.with_defaults({"train.steps": 5, "train.init": "/old/place/s.pth"}, want) == want
    for init in ("", "teacher"):  # these are no paths
        assert provenance.with_defaults({"train.steps": 5, "train.init": init}, want)["train.init"] == init
    assert provenance.with_defaults({"train.steps": 5, "loss.vgg": "/old/vgg.pth"}, {"train.steps": 5}) == {
        "train.steps": 5
    }
    want = {"train.steps": 5, "loss.vgg": "vgg.pth", "loss.vgg_sha256": "cd"}
    assert provenance.with_defaults({"train.steps": 5, "loss.vgg": "/old/vgg.pth"}, want) == want
    assert provenance.with_defaults({"train.steps": 5, "loss.vgg": "random"}, want)["loss.vgg"] == "random"


def test_unknown_preset_names_the_choices():
    with pytest.raises(ConfigError, match="quick, adapt, colab, full"):
        make("fast")
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        make("quikc")
    with pytest.raises(ConfigError, match=r"unknown preset \[1\]"):
        make([1])


def test_presets_do_not_share_state():
    a, b = make("quick"), make("quick")
    a.train.betas.append(1.0)
    assert b.train.betas == [0.9, 0.99]
