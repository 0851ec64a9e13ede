"""Step 4 on a tiny work folder: scores that can be computed by hand, nulls, resumption, refusals, and the report."""

from __future__ import annotations

import datetime
import html
import json
import os
import re
import shutil
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_utils import config, evaluate, own_files, prepare
from kd_utils.__main__ import main as cli
from kd_utils.common import files, tensors
from kd_utils.data import crops
from kd_utils.evaluation import metrics, report, scores, tables
from kd_utils.models import shipped, student
from kd_utils.models.vgg import load_vgg

TINY = (
    "degrade.profile=light "
    "data.crop=64 data.crops_per_photo=2 data.valid_crops_per_photo=2 data.valid_count=1 data.test_count=2 "
    "data.test_side=96 eval.panels=1 eval.time_side=16 eval.time_repeats=1"
)
COLUMNS = {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "psnr_y_teacher", "ssim_y_teacher", "sharpness"}
COSTS = {"params", "gmac_256", "ms_per_megapixel"}


def _net(feat: int, convs: int, scale: int, seed: int) -> student.Student:
    torch.manual_seed(seed)
    return student.Student(feat, convs, scale)


def _with(cfg, **changes):
    """A changed copy; `config.override` changes in place."""
    return config.override(deepcopy(cfg), {key.replace("__", "."): value for key, value in changes.items()})


def _workdir(folder, scale=4, prefix=""):
    """A work folder as steps 1 and 3 leave it, with random networks."""
    from skimage import data as samples

    photos = folder / "photos"
    photos.mkdir(parents=True)
    for i, (name, y) in enumerate([("astronaut", 0), ("astronaut", 200), ("coffee", 0), ("coffee", 200), ("cat", 0)]):
        Image.fromarray(getattr(samples, name)()[y : y + 112, 100:260]).save(photos / f"{prefix}{i}_{name}.png")
    teach = student.save(_net(8, 2, 4, seed=1), folder / "tiny_teacher.pth")
    cfg = config.make(
        "quick",
        f"{TINY} data.photos={photos} teacher={teach} train.init=",
        workdir=str(folder / "work"),
        scale=scale,
        device="cpu",
    )
    prepare.prepare(cfg)
    meta = {
        "labels.crops": crops.read_index(cfg).key, "labels.teacher_sha256": files.sha256(teach),
        "student.size": "s", "train.steps": 1200, "train.batch": 4, "loss.teacher": 1.0, "loss.perceptual": 0.02,
        "loss.vgg": "random",
    }  # fmt: skip
    student.save(_net(24, 8, scale, seed=2), cfg.path("student_model.pth"), {"provenance": meta})
    student.save(_net(24, 8, scale, seed=3), cfg.path("train", "no_teacher", "student_model.pth"), {"provenance": meta})
    history = {"step": [1, 2, 3], "loss": [0.3, 0.2, 0.1], "lr": [1e-3] * 3, "valid": []}
    files.write_json(cfg.path("train", "student", "history.json"), history)
    return cfg


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    cfg = _workdir(tmp_path_factory.mktemp("evaluate"))
    return cfg, evaluate.evaluate(cfg)


@pytest.fixture
def copy(ready, tmp_path):
    """Its own copy of the evaluated work folder."""
    shutil.copytree(ready[0].path(), tmp_path / "work")
    return _with(ready[0], workdir=str(tmp_path / "work"))


def _without_timings(result):
    result = json.loads(json.dumps(result))
    for model in result["models"].values():
        model.pop("ms_per_megapixel")
    return result


def test_metrics_json_has_the_agreed_shape(ready):
    cfg, done = ready
    text = done.metrics.read_text()
    assert not re.search(r"NaN|Infinity", text)
    result = json.loads(text)
    assert result["teacher"] == {"name": "tiny_teacher", "sha256": files.sha256(cfg.teacher), "stand_in": False}
    assert {"scale": 4, "border": 4, "degradation": "light"}.items() <= result["protocol"].items()
    assert len(result["protocol"]["photos"]) == 2
    models = result["models"]
    assert set(models) == {"bicubic", "student", "baseline", "teacher"}
    for row, model in models.items():
        assert COLUMNS | COSTS <= set(model)
        nulls = {key for key in COLUMNS | COSTS if model[key] is None}
        assert nulls == {"bicubic": {"params", "gmac_256"}, "teacher": {"psnr_y_teacher", "ssim_y_teacher"}}.get(
            row, set()
        )
    assert models["student"]["params"] == student.count_parameters(_net(24, 8, 4, 0))
    assert models["teacher"]["gmac_256"] == pytest.approx(student.gmac(_net(8, 2, 4, 0)))
    assert models["student"]["gmac_256"] == models["baseline"]["gmac_256"]


def test_scores_are_those_of_the_whole_pictures(ready):
    cfg, done = ready
    result = json.loads(done.metrics.read_text())
    nets = {"student": student.load(cfg.path("student_model.pth")), "teacher": student.load(cfg.teacher)}
    per_photo = []
    for pair in crops.load_photo_pairs(cfg):
        with torch.inference_mode():
            x = tensors.to_tensor(pair.lr[None])
            out = {row: tensors.to_uint8(net(x))[0] for row, net in nets.items()}
        per_photo.append(
            {
                "psnr_y": metrics.psnr(out["student"], pair.hr, 4, True),
                "ssim_rgb": metrics.ssim(out["student"], pair.hr, 4, False),
                "psnr_y_teacher": metrics.psnr(out["student"], out["teacher"], 4, True),
            }
        )
    for key in per_photo[0]:
        wanted = np.mean([p[key] for p in per_photo])
        # Tiles round differently from the whole in the last bit; here and there that moves a pixel by one level.
        assert result["models"]["student"][key] == pytest.approx(wanted, abs=2e-3)


def test_again_gives_the_same_bytes_and_keeps_the_teachers_work(copy):
    def state():
        return {p.name: p.read_bytes() for p in sorted(copy.path("eval").rglob("*")) if p.suffix in (".png", ".html")}

    before = _without_timings(files.read_json(copy.path("eval", "metrics.json")))
    pictures = state()
    cached = copy.path("eval", "teacher-00000.safetensors")
    stamp = cached.stat().st_mtime_ns
    copy.path("eval", "teacher-00001.safetensors").write_bytes(b"half a file")
    evaluate.evaluate(copy)
    assert cached.stat().st_mtime_ns == stamp, "the teacher's output was made again"
    assert _without_timings(files.read_json(copy.path("eval", "metrics.json"))) == before
    after = state()
    assert [n for n in pictures if after[n] != pictures[n]] in ([], ["report.html"])

    def timeless(page):  # the report shows the timings; nothing else may differ
        text = re.sub(r'<img[^>]*>|data-value="[^"]*"', "", page.decode())
        text = re.sub(r" and \d+ times as fast", "", text)  # said only where it is
        return re.sub(r"[\d.,]+(?= ms\b|×|</td>| times)", "", text)

    assert timeless(after["report.html"]) == timeless(pictures["report.html"])


def test_without_the_baseline_its_row_is_null(copy):
    copy.path("train", "no_teacher", "student_model.pth").unlink()
    done = evaluate.evaluate(copy)
    result = files.read_json(done.metrics)
    assert set(result["models"]["baseline"]) >= COLUMNS | COSTS
    assert set(result["models"]["baseline"].values()) == {None}
    assert any("train.baseline=false" in note for note in result["notes"])
    assert "baseline" in done.table


def test_a_baseline_that_is_another_student_has_no_row(copy):
    path = copy.path("train", "no_teacher", "student_model.pth")
    net = student.load(path)
    student.save(net, path, {"provenance": net.meta["provenance"] | {"train.steps": 7}})
    result = files.read_json(evaluate.evaluate(copy).metrics)
    assert set(result["models"]["baseline"].values()) == {None}
    assert any("train.steps is 7, not 1200" in note and "Train with" in note for note in result["notes"])


def test_each_student_of_a_work_folder_is_evaluated_and_all_are_compared(copy, capsys):
    """The last one trained had its steps raised from 1200; that of 1200 steps lies in a folder of its own."""
    top = copy.path("student_model.pth")
    net = student.load(top)
    raised = net.meta["provenance"] | {"train.steps": 1500, "train.chain": [[1200, 1200]]}
    for name, made in (("student-steps=1200", net.meta["provenance"]), ("student", raised)):
        student.save(net, copy.path("train", name, "student_model.pth"), {"provenance": made})
    shutil.copy(copy.path("train", "student", "student_model.pth"), top)

    done = evaluate.evaluate(copy)
    result = files.read_json(done.metrics)
    assert result["trained"]["student"]["settings"]["train.steps"] == 1500
    notes = " ".join(result["notes"])
    assert "This is the student of train/student. The work folder has others" in notes and "student-steps=1200" in notes
    assert "trained in parts (1,200 steps, then on to 1,500)" in notes and "train.steps was raised at 1,200" in page_of(
        done
    )
    assert set(result["models"]["baseline"].values()) == {None}  # it has 1200 steps
    assert cli(["compare", str(copy.path())]) == 0
    assert f"--workdir {copy.path()} --set eval.student=student-steps=1200" in capsys.readouterr().out

    copy.eval.student = "student-steps=1200"
    result = files.read_json(evaluate.evaluate(copy).metrics)
    assert result["models"]["baseline"]["psnr_y"] and "eval.student=student-steps=1200" in result["made_by"]["command"]
    assert cli(["compare", str(copy.path())]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines if line.startswith(str(copy.path()))]
    assert [line[1] for line in table] == ["student", "student-steps=1200"]
    assert "1500" in table[0] and "1200" in table[1] and "not evaluated" not in " ".join(lines)


def page_of(done):
    return done.report.read_text()


def test_a_student_equal_to_its_teacher_is_null_not_infinity(copy):
    net = student.load(copy.teacher)
    student.save(net, copy.path("student_model.pth"))
    done = evaluate.evaluate(copy)
    model = files.read_json(done.metrics)["models"]["student"]
    assert model["psnr_y_teacher"] is None and model["ssim_y_teacher"] == 1
    assert "reproduces its teacher" in done.headline
    notes = files.read_json(done.metrics)["notes"]
    assert any("may have seen the test photos" in note for note in notes), "a file of unknown origin is admitted"


def test_how_the_student_was_made_is_told_and_several_compare(copy, tmp_path, capsys):
    first = files.read_json(evaluate.evaluate(copy).metrics)
    assert first["trained"]["student"]["settings"]["train.steps"] == 1200
    assert not any("other settings" in note for note in first["notes"]), "what is as the preset has it was not given"
    copy.train.steps = 7
    notes = files.read_json(evaluate.evaluate(copy).metrics)["notes"]
    assert any("train.steps was 1200, now 7)" in note for note in notes)
    copy.train.steps = 400
    evaluate.evaluate(copy)
    second = tmp_path / "second"
    shutil.copytree(copy.path(), second)
    path = second / "student_model.pth"
    net = student.load(path)
    student.save(net, path, {"provenance": net.meta["provenance"] | {"train.steps": 77}})
    evaluate.evaluate(_with(copy, workdir=str(second)))
    assert cli(["compare", str(second), "--json"]) == 0
    for_programs = json.loads(capsys.readouterr().out)
    assert set(for_programs[str(second)]["models"]) >= {"bicubic", "student", "teacher"}
    assert cli(["compare", str(copy.path()), str(second)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith((str(tmp_path), str(copy.path())))]
    assert [line.split()[-1] for line in table] == ["1200", "77"] and "NOT COMPARABLE" not in lines[-2]
    other = files.read_json(second / "eval" / "metrics.json")
    for change in (
        {"protocol": other["protocol"] | {"degradation": "bicubic"}},
        {"protocol": other["protocol"] | {"scale": 2}},
        {"per_photo": [p | {"size": [64, 64]} for p in other["per_photo"]]},  # data.test_side
    ):
        files.write_json(second / "eval" / "metrics.json", other | change)
        cli(["compare", str(copy.path()), str(second)])
        assert "NOT COMPARABLE" in capsys.readouterr().out
    assert cli(["compare", str(tmp_path / "none")]) == 2 and "run step 4" in capsys.readouterr().err


def test_refusals(copy, tmp_path):
    def refused(cfg, kind, says):
        with pytest.raises(kind, match=says):
            evaluate.evaluate(cfg)

    other = student.save(_net(8, 2, 4, seed=9), tmp_path / "other.pth")
    refused(_with(copy, teacher=str(other)), files.StoreError, "teacher_sha256.*trained on")
    student.save(_net(24, 8, 2, seed=0), copy.path("student_model.pth"))
    refused(copy, evaluate.EvaluateError, "x2 student: set scale=2")
    copy.path("student_model.pth").unlink()
    refused(copy, evaluate.EvaluateError, "run step 3 first")
    refused(_with(copy, workdir=str(tmp_path / "none")), files.StoreError, "run step 1 first")


def test_vgg_distance_is_reported_where_its_weights_are(copy, tmp_path):
    vgg = load_vgg("random")
    torch.save(vgg.features.state_dict(), tmp_path / "vgg.pth")
    done = evaluate.evaluate(_with(copy, loss__vgg=str(tmp_path / "vgg.pth")))
    result = files.read_json(done.metrics)
    assert all(model["vgg"] > 0 for model in result["models"].values())
    assert "vgg.pth" in result["protocol"]["vgg"] and "VGG19 o." in done.table


def test_same_size_sharpening(tmp_path):
    cfg = _workdir(tmp_path, scale=1)
    done = evaluate.evaluate(cfg)
    models = files.read_json(done.metrics)["models"]
    assert models["teacher"]["psnr_y_teacher"] is None and models["bicubic"]["psnr_y_teacher"] > 0
    assert models["teacher"]["gmac_256"] == pytest.approx(16 * student.gmac(_net(8, 2, 4, 0)))
    assert "untouched" in done.table and "untouched" in done.headline


class _Page(HTMLParser):
    VOID = {"meta", "img", "input", "br", "link"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"


def test_report_is_self_contained(ready):
    _, done = ready
    text = done.report.read_text()
    page = _Page(text)
    assert page.open == []
    assert not {tag for tag, _ in page.seen} & {"link", "iframe"}
    assert not any("src" in attrs for tag, attrs in page.seen if tag == "script")
    pictures = [attrs["src"] for tag, attrs in page.seen if tag == "img"]
    assert len(pictures) == 6 + 6 + 4 + 2, "a panel, a slider of six pictures and four differences, two curves"
    chosen = re.findall(r'<option value="\d"( selected)?>([^<]*)', text)
    assert [name for selected, name in chosen if selected] == ["bicubic", "student"]
    assert [name for _, name in chosen].count("baseline") == 2, "any picture can be chosen on both sides"
    assert all(src.startswith("data:image/") for src in pictures)
    assert "http" not in re.sub(r"data:[^\"]*", "", text)
    for sentence in done.headline.split(". "):
        assert sentence.replace(" dB", "\u00a0dB") in html.unescape(text)
    assert "1,200 steps of 4 crops" in text
    assert "stand-in" not in text
    assert len(list((done.report.parent / "panels").glob("*.png"))) == 1
    assert list(done.shown[0].images) == ["input", "bicubic", "student", "baseline", "teacher", "original"]


def test_report_says_plainly_what_is_so(ready):
    result = scores.read(ready[1].metrics)
    result.teacher = scores.TeacherName("student_x4_photo_m", "0" * 64, stand_in=True)
    student, bicubic, baseline = (result.scores[row] for row in ("student", "bicubic", "baseline"))
    student.psnr_y_teacher, bicubic.psnr_y_teacher, baseline.psnr_y_teacher = 33.14, 30.2, 32.0
    result.costs["student"].gmac_256, result.costs["teacher"].gmac_256 = 3.4, 79.0
    text = report.page(result, [report.PhotoSection("<a>", [report.PanelColumn("<b>", "data:,")], "", "")], [])
    assert "stand-in" in text and "not Real-ESRGAN" in text.replace("\n", " ")
    assert "<a>" not in text and "<b><b>" not in text
    result.costs["student"].ms_per_megapixel, result.costs["teacher"].ms_per_megapixel = 10, 120
    wanted = "The student reproduces its teacher to 33.1 dB, at 1/23 of its cost and 12 times as fast."
    assert report.headline(result) == wanted
    gained = "That is 2.9 dB closer than bicubic and 1.1 dB closer than the baseline."
    noise = "27% sharper than the teacher's, by noise or texture that the teacher takes out"
    for sharpness, said in ((0.97, "as sharp as the teacher's"), (1.27, noise), (0.8, "20% softer than the teacher's")):
        student.sharpness = sharpness
        assert report.gains(result) == f"{gained} Its pictures are {said}."
    student.psnr_y_teacher = 29.2
    assert "at 29.2 dB it is 1.0 dB farther from its teacher than bicubic" in report.headline(result)
    student.psnr_y_teacher = 30.3
    assert "hardly learned yet" in report.headline(result) and not report.gains(result)
    student.psnr_y_teacher, baseline.psnr_y_teacher = 33.1, 33.05
    assert "hardly learned from its teacher yet" in report.headline(result) and not report.gains(result)
    student.drift_rgb = [0.1, 7.5, 0.2]
    assert any("7.50 of 255" in f and "drift" in f for f in report.findings(result))


def test_drive_gets_the_report_under_a_new_name_each_time(copy, tmp_path):
    cfg = _with(copy, drive=str(tmp_path / "drive"))
    done = evaluate.evaluate(cfg)
    (kept,) = (tmp_path / "drive" / "eval").glob("report-*.html")
    assert kept.read_bytes() == done.report.read_bytes()
    first = kept.read_bytes()
    evaluate.evaluate(_with(cfg, eval__panels=2))
    assert kept.read_bytes() == first
    names = sorted(p.name for p in (tmp_path / "drive" / "eval").glob("report-*.html"))
    today = datetime.date.today()
    assert names == [f"report-work-{today}-2.html", f"report-work-{today}.html"], "the run's name and the day"


def test_the_report_compares_with_where_the_student_began(copy, tmp_path):
    start = student.save(_net(24, 8, 4, seed=5), tmp_path / "start.pth")
    net = student.load(copy.path("student_model.pth"))
    made = net.meta["provenance"] | {"train.init": "start.pth", "train.init_sha256": files.sha256(start)}
    student.save(net, copy.path("student_model.pth"), {"provenance": made})
    cfg = _with(copy, train__init=str(start))
    done = evaluate.evaluate(cfg)
    result = scores.read(done.metrics)
    assert result.rows == ["bicubic", "start", "student", "baseline", "teacher"]
    assert "where it began" in done.table and "where it began" in done.table_html
    assert done.shown[0].images.keys() >= {"start", "student"}
    x = tensors.to_tensor(crops.load_photo_pairs(cfg)[0].lr[None])
    with torch.inference_mode():
        wanted = tensors.to_uint8(student.load(start)(x))[0]
    assert np.array_equal(done.shown[0].images["start"], wanted)
    assert scores.Evaluation.from_dict(result.to_dict()).to_dict() == result.to_dict()
    for row, psnr in {"student": 33.0, "start": 31.5, "bicubic": 30.0, "baseline": None}.items():
        result.scores[row].psnr_y_teacher = psnr
    assert "3.0 dB closer than bicubic. This training brought it 1.5 dB closer to its teacher." in report.gains(result)
    result.scores["start"].psnr_y_teacher = 33.5
    assert "But this training took it 0.5 dB farther from its teacher." in report.gains(result)

    start.write_bytes(b"")  # another file under that name is not where it began
    assert scores.read(evaluate.evaluate(_with(cfg, train__init="")).metrics).rows == list(scores.ROWS)


def test_the_student_that_ships_has_a_row_where_the_same_teacher_taught_it(copy, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    shutil.copy(own_files.shipped("student_x4_photo_s.pth"), tmp_path / "weights")  # where the preset begins
    for module in (own_files, shipped):
        monkeypatch.setattr(module, "ASSETS", tmp_path)
    taught = files.sha256(Path(copy.teacher))
    ships = _net(24, 8, 4, seed=7)
    made = {"train.steps": 4000, "train.batch": 8}
    path = student.save(
        ships, tmp_path / "weights" / "student_x4_anime_s.pth", {"teacher_sha256": taught, "provenance": made}
    )
    done = evaluate.evaluate(copy)
    result = scores.read(done.metrics)
    assert result.rows == ["bicubic", "student", "baseline", "shipped", "teacher"]
    assert "the one that ships" in done.table and any("student_x4_anime_s" in n and "32,000" in n for n in result.notes)
    x = tensors.to_tensor(crops.load_photo_pairs(copy)[0].lr[None])
    with torch.inference_mode():
        assert np.array_equal(done.shown[0].images["shipped"], tensors.to_uint8(ships.eval()(x))[0])

    # another teacher taught it: no row
    student.save(ships, path, {"teacher_sha256": "another", "provenance": made})
    assert scores.read(evaluate.evaluate(copy).metrics).rows == list(scores.ROWS)


def test_metrics_of_an_older_version_are_read(ready, tmp_path):
    made = files.read_json(ready[1].metrics)
    new = scores.Evaluation.from_dict(made)
    assert new.to_dict() == made
    for rows in [made["models"], made["trained"], *(photo["models"] for photo in made["per_photo"])]:
        rows["student_no_teacher"] = rows.pop("baseline")
        for row in rows.values():
            for key in ("sharpness", "vgg_teacher", "lpips_teacher", "dists_teacher"):
                row.pop(key, None)
    del made["made_by"]
    old = scores.read(files.write_json(tmp_path / "metrics.json", made))
    assert old.scores["baseline"].psnr_y == new.scores["baseline"].psnr_y and old.scores["student"].sharpness is None
    assert "sharpness" not in tables.table(old) and "sharpness" in tables.table(new)
    assert report.page(old, [], []) and tables.compare({"old": old, "new": new})
    with pytest.raises(files.StoreError, match="run step 4 again"):
        scores.read(files.write_json(tmp_path / "metrics.json", {"models": {}}))


def test_what_made_it_is_told_without_paths(ready):
    cfg, done = ready
    text = done.report.read_text()
    assert "kd_utils evaluate --preset quick --set teacher=tiny_teacher.pth" in text and "data.photos=photos" in text
    assert "torch " in text and str(cfg.path().parent) not in text


def test_a_photo_may_be_called_anything(tmp_path):
    """A newline, bytes that are not UTF-8, 240 characters: names are escaped and shortened, never a reason to stop."""
    cfg = _workdir(tmp_path, prefix=os.fsdecode(b"new\nline \xff<b>") + "x" * 200)
    done = evaluate.evaluate(_with(cfg, eval__panels=2))
    text = done.report.read_text()
    assert "new\\nline \\udcff&lt;b&gt;" in text and "x" * 41 not in text and "…" in text
    assert len(list((done.report.parent / "panels").glob("*.png"))) == 2
    assert all(name.startswith("new\nline") for name in files.read_json(done.metrics)["protocol"]["photos"])
