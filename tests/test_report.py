"""The report of step 4: one file that needs no other, says plainly what is so, and takes any name."""

from __future__ import annotations

import datetime
import html
import os
import re
from html.parser import HTMLParser

import numpy as np
import torch
from helpers.evaluated import changed, random_student, work_folder

from kd_utils import evaluate
from kd_utils.common import files, tensors
from kd_utils.data import crops
from kd_utils.evaluation import report, scores
from kd_utils.models import student


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


def test_report_is_self_contained(evaluated):
    _, done = evaluated
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


def test_report_says_plainly_what_is_so(evaluated):
    result = scores.read(evaluated[1].metrics)
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


def test_drive_gets_the_report_under_a_new_name_each_time(evaluated_copy, tmp_path):
    cfg = changed(evaluated_copy, drive=str(tmp_path / "drive"))
    done = evaluate.evaluate(cfg)
    (kept,) = (tmp_path / "drive" / "eval").glob("report-*.html")
    assert kept.read_bytes() == done.report.read_bytes()
    first = kept.read_bytes()
    evaluate.evaluate(changed(cfg, eval__panels=2))
    assert kept.read_bytes() == first
    names = sorted(p.name for p in (tmp_path / "drive" / "eval").glob("report-*.html"))
    today = datetime.date.today()
    assert names == [f"report-work-{today}-2.html", f"report-work-{today}.html"], "the run's name and the day"


def test_the_report_compares_with_where_the_student_began(evaluated_copy, tmp_path):
    start = student.save(random_student(24, 8, 4, seed=5), tmp_path / "start.pth")
    net = student.load(evaluated_copy.path("student_model.pth"))
    made = net.meta["provenance"] | {"train.init": "start.pth", "train.init_sha256": files.sha256(start)}
    student.save(net, evaluated_copy.path("student_model.pth"), {"provenance": made})
    cfg = changed(evaluated_copy, train__init=str(start))
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
    assert scores.read(evaluate.evaluate(changed(cfg, train__init="")).metrics).rows == list(scores.ROWS)


def test_what_made_it_is_told_without_paths(evaluated):
    cfg, done = evaluated
    text = done.report.read_text()
    assert "kd_utils evaluate --preset quick --set teacher=tiny_teacher.pth" in text and "data.photos=photos" in text
    assert "torch " in text and str(cfg.path().parent) not in text


def test_a_photo_may_be_called_anything(tmp_path):
    """A newline, bytes that are not UTF-8, 240 characters: names are escaped and shortened, never a reason to stop."""
    cfg = work_folder(tmp_path, prefix=os.fsdecode(b"new\nline \xff<b>") + "x" * 200)
    done = evaluate.evaluate(changed(cfg, eval__panels=2))
    text = done.report.read_text()
    assert "new\\nline \\udcff&lt;b&gt;" in text and "x" * 41 not in text and "…" in text
    assert len(list((done.report.parent / "panels").glob("*.png"))) == 2
    assert all(name.startswith("new\nline") for name in files.read_json(done.metrics)["protocol"]["photos"])
