"""The server of `demo`: the page and the students' ONNX files, and nothing else."""

from __future__ import annotations

import http.client
import json

import pytest

from kd_utils import demo
from kd_utils.__main__ import main
from kd_utils.common.errors import CheckpointError
from kd_utils.models import student
from kd_utils.models.onnx_graph import graph
from kd_utils.own_files import ASSETS, shipped


def get(server, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_server_gives_out_the_page_and_nothing_else(demo_server):
    answer, body = get(demo_server, "/")
    assert answer.status == 200 and body == (ASSETS / "demo" / "index.html").read_bytes()
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert get(demo_server, "/app.js?engine=wasm")[0].headers["Content-Type"].startswith("text/javascript")
    for path in (
        "/../pyproject.toml",
        "/%2e%2e/weights/student_x4_photo_m.pth",
        "/ort/../package.json",
        "/models/x.onnx",
        "/ort/",
    ):
        answer, body = get(demo_server, path)
        assert answer.status == 404 and body.startswith(b"There is no "), path


def test_the_server_makes_the_students_onnx_files(demo_server):
    offered = json.loads(get(demo_server, "/models.json")[1])
    names = [model["name"] for model in offered]
    assert names[0] == "student_x4_photo_m" and {"student_x4_anime_s", "student_x1_photo_s"} <= set(names)
    assert names[-3:] == ["x4", "x2", "x1"]
    assert offered[0]["label"] == "photo m (medium), 4 times larger"
    assert demo.label("student_x1_photo_s") == "photo s (small), same size"
    body = get(demo_server, "/models/student_x4_photo_s.onnx")[1]
    assert body == graph(student.load(shipped("student_x4_photo_s.pth"))).SerializeToString()


def test_errors_come_before_the_server(tmp_path, demo_server, capsys):
    (tmp_path / "no.pth").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="no.pth"):
        demo.serve(port=0, models=[str(tmp_path / "no.pth")])
    assert main(["demo", "--port", str(demo_server.server_port)]) == 2
    assert "choose another --port" in capsys.readouterr().err
    assert main(["demo", "--setup"]) == 0 and "onnxruntime-web-1.27.0" in capsys.readouterr().out
