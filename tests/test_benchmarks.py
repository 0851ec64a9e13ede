"""The tools behind the shipped students, whole, at a tiny size."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from benchmarks import cards, pictures, results, ship, tables, trials
from kd_utils import own_files
from kd_utils.common import files
from kd_utils.config import ConfigError, to_dict
from kd_utils.evaluation.scores import Scores
from kd_utils.models import student
from kd_utils.own_files import ROOT

RECIPE = """
preset = "colab"
[data]
photos = "samples"
valid_count = 1
limit = 2
crop = 32
crops_per_photo = 4
valid_crops_per_photo = 2
test_side = 64
[degrade]
profile = "light"
[student]
size = "8x2"
expand = 0
[loss]
perceptual = 0.0
[train]
optimizer = "soap"
steps = 12
batch = 2
warmup = 2
valid_every = 6
save_every = 4
baseline = false
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(3)
    return student.save(student.build("8x3"), tmp_path_factory.mktemp("teacher") / "teacher.pth")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("ship")
    recipe = folder / "student_x4_tiny.toml"
    recipe.write_text(RECIPE)
    ship.main([str(recipe), "--workdir", str(folder / "one"), "--set", f"teacher={teacher}"])
    return recipe


def test_a_recipe_becomes_a_student_with_all_that_made_it_beside_it(shipped, teacher):
    from spandrel import ModelLoader

    found = ModelLoader(device="cpu").load_from_file(shipped.with_suffix(".pth"))
    assert (found.architecture.name, found.scale) == ("RealESRGAN Compact", 4)
    text = shipped.with_suffix(".json").read_text()
    facts = json.loads(text)
    assert facts["settings"]["train.optimizer"] == "soap" and facts["settings"]["seed"] == 0
    assert facts["labels"]["teacher_sha256"] == files.sha256(teacher)
    astronaut = Path(skimage.__file__).parent / "data" / "astronaut.png"
    assert facts["photos"]["train"]["astronaut.png"] == files.sha256(astronaut)
    assert facts["history"]["step"][-1] == 12 and len(facts["history"]["loss"]) == 12
    assert str(shipped.parent) not in text and "torch" in facts["versions"]
    assert Image.open(shipped.with_suffix(".curve.png")).width > 500


def test_a_recipe_may_end_with_a_blend_of_two_students(shipped, teacher, tmp_path, monkeypatch):
    other = student.save(student.build("8x2"), tmp_path / "weights" / "other.pth")
    monkeypatch.setattr(own_files, "ASSETS", tmp_path)
    recipe = tmp_path / "student_x4_blend.toml"
    recipe.write_text(RECIPE + '\n[blend]\nwith = "other"\nshare = 0.25\n')
    assert ship.read(recipe, "w", []) == ship.read(shipped, "w", []), "a blend is no setting"

    # the training is there already
    ship.main([str(recipe), "--workdir", str(shipped.parent / "one"), "--set", f"teacher={teacher}"])
    made = student.load(recipe.with_suffix(".pth")).state_dict()
    trained, mixed_in = (student.load(path).state_dict() for path in (shipped.with_suffix(".pth"), other))
    for key, value in made.items():
        assert torch.allclose(value, 0.75 * trained[key] + 0.25 * mixed_in[key], atol=1e-6)
    facts = json.loads(recipe.with_suffix(".json").read_text())
    assert facts["blend"] == {"with": "other", "sha256": files.sha256(other), "share": 0.25}
    assert "25% of other" in recipe.with_suffix(".md").read_text()

    for words in ('with = "other"', 'with = "other"\nshare = 2'):
        recipe.write_text(RECIPE + f"\n[blend]\n{words}\n")
        with pytest.raises(ConfigError, match="between 0 and 1"):
            ship.blend_of(recipe)
    with pytest.raises(ConfigError, match="same size"):
        ship.blended(student.build("8x2"), student.build("8x3"), 0.5)


def check_library_entry(weights):
    """What OpenModelDB's own check of an entry asks for (its model-props.ts), and that it is of these weights."""
    entry = json.loads(weights.with_suffix(".card.json").read_text())
    for key in ("name", "author", "license", "description", "architecture"):
        assert isinstance(entry[key], str) and entry[key] == entry[key].strip() != "", key
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
    assert entry["tags"] and all(re.fullmatch(r"[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*", tag) for tag in entry["tags"])
    numbers = ("trainingIterations", "trainingBatchSize", "trainingHRSize", "datasetSize", "inputChannels", "scale")
    assert all(type(entry[key]) is int and entry[key] >= 1 for key in numbers) and entry["trainingOTF"] is False

    net = student.load(weights)
    assert (entry["scale"], entry["size"]) == (net.scale, [f"{net.feat}nf", f"{net.convs}nc"])
    assert (entry["architecture"] == "compact") == (net.scale == 4)
    (resource,) = entry["resources"]
    assert (resource["platform"], resource["type"]) == ("pytorch", "pth")
    assert (resource["size"], resource["sha256"]) == (weights.stat().st_size, files.sha256(weights))
    assert resource["urls"][0].endswith(f"/assets/weights/{weights.name}")

    for image in entry["images"]:
        low, high = (Image.open(weights.parent / image[key].split("/assets/weights/")[1]) for key in ("LR", "SR"))
        assert image["type"] == "paired" and high.size == tuple(side * net.scale for side in low.size)
    assert len(entry["images"]) == 2
    return entry


def test_ship_writes_a_card_for_people_and_for_a_model_library(shipped):
    weights = shipped.with_suffix(".pth")
    entry = check_library_entry(weights)
    assert (entry["name"], entry["size"], entry["trainingIterations"]) == ("KD tiny", ["8nf", "2nc"], 12)
    text = weights.with_suffix(".md").read_text()
    for part in (
        "8 features, 2 inner convolutions",
        "| loss | L1 to the teacher |",
        "12 steps of 2 (24 crops seen); SOAP",
    ):
        assert part in text

    # a card made anew has the words that came later, and the day of its weights
    path = cards.card_file(weights)
    path.write_text(json.dumps(entry | {"date": "2020-01-02"}))
    words = 'name = "Tiny Words"\ntags = ["photo"]\ntext = "For\\n\\ntests."\n'
    worded = shipped.with_name("worded.toml")
    worded.write_text(shipped.read_text() + "[card]\n" + words)
    cards.write_cards(weights, worded)
    entry = check_library_entry(weights)
    assert (entry["name"], entry["tags"], entry["date"]) == ("Tiny Words", ["photo"], "2020-01-02")
    assert "data/models/4x-Tiny-Words.json" in weights.with_suffix(".md").read_text()
    assert ship.read(worded, "w", []) == ship.read(shipped, "w", []), "words are no settings"

    worded.write_text(shipped.read_text() + '[card]\nnmae = "x"\n')
    with pytest.raises(ConfigError, match=r"\[card\] has no nmae: choose among name, summary"):
        cards.write_cards(weights, worded)


def test_the_same_recipe_gives_the_same_losses_and_weights(shipped, teacher, tmp_path):
    ship.main(
        [str(shipped), "--workdir", str(tmp_path), "--to", str(tmp_path / "again"), "--set", f"teacher={teacher}"]
    )
    one, two = (json.loads(p.with_suffix(".json").read_text()) for p in (shipped, tmp_path / "again"))
    assert one["history"] == two["history"]
    a, b = (student.load(p.with_suffix(".pth")).state_dict() for p in (shipped, tmp_path / "again"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_recipe_begins_with_another_made_anew_or_earlier(shipped, teacher, tmp_path, monkeypatch):
    longer = shipped.with_name("student_x4_longer.toml")
    longer.write_text(f'before = "{shipped.name}"\n' + RECIPE.replace("steps = 12", "steps = 6"))
    for name, more in (("anew", []), ("earlier", ["--before", str(shipped.with_suffix(".pth"))])):
        place = ["--workdir", str(tmp_path / f"work-{name}"), "--to", str(tmp_path / name)]
        ship.main([str(longer), *place, "--set", f"teacher={teacher}", *more])
    first, one, two = (
        json.loads(p.with_suffix(".json").read_text()) for p in (shipped, tmp_path / "anew", tmp_path / "earlier")
    )
    assert one["history"] == two["history"] and one["before"] == two["before"]
    assert one["before"]["sha256"] == files.sha256(shipped.with_suffix(".pth"))
    assert one["before"]["settings"] == first["settings"] and one["settings"]["train.steps"] == 6
    assert one["history"]["loss"][:12] == first["history"]["loss"] and one["history"]["step"] == list(range(1, 19))
    assert [v["step"] for v in one["history"]["valid"]] == [6, 12, 18]
    a, b, start = (
        student.load(p.with_suffix(".pth")).state_dict() for p in (tmp_path / "anew", tmp_path / "earlier", shipped)
    )
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], start[k]) for k in a)
    with pytest.raises(ConfigError, match="begins with no other"):
        ship.main([str(shipped), "--workdir", str(tmp_path / "c"), "--before", "x.pth"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=f"one student at a time; make {shipped} first, then give it with --before"):
        ship.main([str(longer), "--workdir", str(tmp_path / "d"), "--set", f"teacher={teacher}"])


def test_trials_share_crops_unless_they_change_them_and_are_not_done_twice(tmp_path, teacher, capsys):
    common = [line for line in RECIPE.splitlines() if line]
    lines, table = [], ""
    for line in common[1:]:
        table = f"{line[1:-1]}." if line.startswith("[") else table
        lines += [] if line.startswith("[") else [f'"{table}{line.split(" = ")[0]}" = {line.split(" = ")[1]}']
    file = tmp_path / "trials.toml"
    file.write_text(
        "\n".join(['preset = "colab"', "[common]", *lines, "[trials]", "base = {}"])
        + '\nadam = { "train.optimizer" = "adam" }\nfewer = { "data.limit" = 1 }\n'
        + 'chain = { "teacher" = "student_x4_photo_s" }\n'
    )
    call = [str(file), "--workdir", str(tmp_path / "w"), "--set", f"teacher={teacher}"]
    trials.main(call)
    folder = tmp_path / "w" / "trials"
    assert (folder / "adam" / "crops").is_symlink() and not (folder / "fewer" / "crops").is_symlink()
    assert (folder / "chain" / "crops").is_symlink() and not (folder / "chain" / "labels").is_symlink()
    rows = (folder / "trials.md").read_text().splitlines()[2:]
    assert [r.split(" | ")[0] for r in rows] == ["| base", "| adam", "| fewer", "| chain"]
    assert len({r.split(" | ")[5] for r in rows}) == 4, "each trial is another training"
    made = (folder / "base" / "trial.json").stat().st_mtime_ns
    trials.main(call)
    assert (folder / "base" / "trial.json").stat().st_mtime_ns == made
    with pytest.raises(files.StoreError, match="train.lr was .* now 0.5. Delete .* to do this trial anew"):
        trials.main([*call, "train.lr=0.5"])
    with pytest.raises(ConfigError, match="train.clip=-1.0"):
        trials.main([*call, "train.clip=-1"])


def test_intervals_hold_the_mean_and_narrow_with_photos():
    rng = np.random.default_rng(1)
    few, many = (rng.normal(30, 2, n).tolist() for n in (6, 60))
    for values in (few, many):
        mean, low, high = tables.interval(values)
        assert low < mean < high and mean == pytest.approx(np.mean(values))
    spread = [tables.interval(v)[2] - tables.interval(v)[1] for v in (few, many)]
    assert spread[1] < spread[0] / 2
    # the normal interval of a mean, 1.96 standard errors to each side
    assert spread[1] == pytest.approx(2 * 1.96 * np.std(many) / 60**0.5, rel=0.1)
    assert tables.interval([3.0] * 5) == (3.0, 3.0, 3.0)


def test_results_of_every_model_with_what_is_left_out_said(tmp_path, teacher, capsys):
    data = Path(skimage.__file__).parent / "data"
    for folder, names in (("valid", ("chelsea.png", "rocket.jpg")), ("set5", ("coffee.png",))):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.open(data / name).convert("RGB").save(tmp_path / folder / f"{Path(name).stem}.png")
    call = ["--valid", str(tmp_path / "valid"), "--set5", str(tmp_path / "set5"), "--teacher", str(teacher)]
    peer = tmp_path / "peer.pth"
    peer.write_bytes(teacher.read_bytes())
    call += ["--peer", str(peer), "--side", "64", "--time-side", "8", "--turns", "1", "--dry", "--panels"]
    results.main([*call, "--workdir", str(tmp_path / "w")])
    out = capsys.readouterr().out
    assert "VGG19 distance is LEFT OUT" in out and "| VGG19 |" not in out
    for heading in (
        "teacher · valid · blurred (2 photos)",
        "teacher · valid · two_order (2 photos)",
        "teacher · Set5 · light (1 photos)",
        "Same size (scale 1) · valid · blur 1.5",
    ):
        assert f"# {heading}" in out
    # the peer is the teacher here: it equals its own labels
    peer = next(line for line in out.splitlines() if line.startswith("| peer |") and "[" in line)
    assert "sharpness over the teacher's" in out and peer.endswith("| 1.00 [1.00, 1.00] |")
    assert "100.00 [100.00, 100.00]" in peer and "1.0000 [1.0000, 1.0000]" in peer
    assert len(list((tmp_path / "w" / "panels").glob("x4-*.png"))) == 3 * len(results.PROFILES)
    first = sorted((tmp_path / "w" / "scores").glob("*.json"))
    made = [p.stat().st_mtime_ns for p in first]
    results.main([c for c in call if c != "--panels"] + ["--workdir", str(tmp_path / "w")])
    assert [p.stat().st_mtime_ns for p in first] == made, "known scores are kept"


def test_the_readme_gets_its_table_between_the_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    scores = [Scores(psnr_y=30.0, ssim_y=0.9), Scores(psnr_y=32.0, ssim_y=0.92)]
    found = {"x4plus": {("valid", "light"): {"bicubic": scores}}}
    tables.readme(path, found, ["psnr_y", "ssim_y"])
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| to x4plus | PSNR-Y | SSIM-Y |" in text and "| bicubic | 31.00 | 0.9100 |\n" in text
    path.write_text("no markers")
    with pytest.raises(SystemExit, match="the table was not written"):
        tables.readme(path, found, ["psnr_y"])


def test_every_shipped_student_has_its_recipe_card_and_facts():
    weights = sorted((ROOT / "assets" / "weights").glob("*.pth"))
    assert len(weights) >= 2
    for path in weights:
        net = student.load(path)
        assert path.stat().st_size < 10e6
        facts = json.loads(path.with_suffix(".json").read_text())
        assert facts["student"]["params"] == student.count_parameters(net) and f"{student.count_parameters(net):,}" in (
            path.with_suffix(".md").read_text()
        )
        check_library_entry(path)
        recipe = to_dict(ship.read(path.with_suffix(".toml"), "w", []))
        made = facts["settings"]
        for settings in (recipe, made):  # a training records the shape that a size stands for
            settings["student.size"] = student.shape(settings["student.size"])
        for key in recipe.keys() & made.keys() - {"train.init", "loss.vgg"}:
            assert recipe[key] == made[key], f"{path.stem}: {key}"
        assert len(facts["history"]["loss"]) > 50 and len(facts["photos"]["train"]) > 20


def test_the_pictures_of_the_readme(tmp_path):
    readme = (ROOT / "README.md").read_text()
    for name in ("hero.jpg", "wipe.webp"):
        path = ROOT / "assets" / name
        assert f"](assets/{name})" in readme and path.stat().st_size < pictures.LIMIT
    before, after = np.zeros((40, 200, 3), np.uint8), np.full((40, 200, 3), 200, np.uint8)
    shown = np.asarray(pictures.split(before, after, 0.25))
    assert shown.shape == (60, 300, 3) and shown[5, 60].max() == 0 and shown[5, 90].min() == 200
    with pytest.raises(AssertionError, match="more than"):
        noise = np.random.default_rng(0).integers(256, size=(1200, 1200, 3), dtype=np.uint8)
        pictures.save(tmp_path / "large.jpg", [Image.fromarray(noise)], quality=100, subsampling=0)
