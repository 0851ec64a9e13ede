"""Fixtures that many tests share. What a machine lacks is skipped loudly, with the reason in pytest's summary."""

from __future__ import annotations

import http.server
import shutil
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import pipeline
from helpers.evaluated import changed, work_folder
from helpers.server import Handler, Site
from helpers.training import TINY, config
from torch import Tensor

from kd_utils import colab, demo, evaluate, label, prepare, train
from kd_utils.__main__ import main
from kd_utils.common import downloads
from kd_utils.common.errors import SourceError
from kd_utils.common.npm import ONNXRUNTIME_WEB, fetch_package
from kd_utils.config import make
from kd_utils.models import student, teacher

SHARED = Path(__file__).resolve().parents[2] / "shared"
pytest.register_assert_rewrite("helpers.pixels")  # its asserts, too, say which values differ


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not want
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what needs `ran`, a run of all notebooks."""
    for item in items:
        if "ran" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' folder of photos and real weights, which is no part of the project."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("LEFT OUT: ../shared (real Real-ESRGAN weights, photos) is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def official():
    """The official (realesrgan, basicsr), through our one bridge."""

    try:
        return teacher.official()
    except ImportError as e:
        pytest.skip(f"LEFT OUT: the official realesrgan and basicsr cannot be had on Python 3.13 ({e})")


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    return pipeline.ran(tmp_path_factory)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[int, str]:
    """Small random students of each scale, which do more than their residual and drift in colour."""
    folder = tmp_path_factory.mktemp("models")
    for scale in (4, 2, 1):
        torch.manual_seed(scale)
        net = student.Student(8, 2, scale)
        with torch.no_grad():
            last = getattr(net, net.trunk)[-1]
            last.weight.mul_(2.5)
            last.bias += torch.linspace(-0.03, 0.03, 48)  # up to 8 levels
        student.save(net, folder / f"x{scale}.pth")
    return {scale: str(folder / f"x{scale}.pth") for scale in (4, 2, 1)}


@pytest.fixture
def enlarge(tmp_path, models, capsys):
    """A function that sharpens the bytes of a file at strength 0, where the output is the input enlarged.

    Tests read the output by another library than ours, which is libvips.
    """

    def run(data: bytes, name: str, output: str = "") -> Path:
        source, target = tmp_path / "in" / name, tmp_path / "out" / (output or name)
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(data)
        code = main(["sharpen", str(source), str(target), "--model", models[4], "--strength", "0"])
        said = capsys.readouterr()
        assert code == 0 and target.is_file(), said.out + said.err
        return target

    return run


@pytest.fixture(scope="session")
def by_ncnn():
    """A function that computes a network by the ncnn package on the CPU: (1, 3, h, w) -> (3, h*s, w*s)."""
    package = pytest.importorskip("ncnn", reason="LEFT OUT: the ncnn package is not installed (pip install ncnn)")

    def compute(param: Path, x: Tensor) -> np.ndarray:
        net = package.Net()
        net.opt.num_threads = 1
        assert net.load_param(str(param)) == 0 and net.load_model(str(param.with_suffix(".bin"))) == 0
        pixels = np.ascontiguousarray(x[0].numpy())
        image = package.Mat(pixels).clone()
        extractor = net.create_extractor()
        extractor.input("data", image)
        status, out = extractor.extract("output")
        assert status == 0
        return np.array(out, copy=True)

    return compute


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = Site(url=f"http://127.0.0.1:{server.server_port}")
    server.site.server = server
    server.handle_error = lambda *args: None  # a client that hangs up is what some tests are about
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(downloads, "PAUSES", (0.01, 0.02, 0.04))
    monkeypatch.delenv("KD_MIRROR", raising=False)
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Crops and labels that every test here trains on, and the overrides that made them."""
    root = tmp_path_factory.mktemp("labelled")
    torch.manual_seed(5)
    sets = f"{TINY} teacher={student.save(student.build('s'), root / 'teacher.pth')}"
    cfg = make("quick", sets, workdir=str(root))
    prepare.prepare(cfg)
    label.label(cfg)
    return root, sets


@pytest.fixture(scope="session")
def trained(labelled, tmp_path_factory):
    cfg = config(labelled, tmp_path_factory.mktemp("trained"))
    seen = []
    return cfg, train.train(cfg, watch=seen.append), seen


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """A tiny work folder that step 4 has evaluated, and what the step returned."""
    cfg = work_folder(tmp_path_factory.mktemp("evaluate"))
    return cfg, evaluate.evaluate(cfg)


@pytest.fixture
def evaluated_copy(evaluated, tmp_path):
    """The settings of a copy of it, to be changed."""
    shutil.copytree(evaluated[0].path(), tmp_path / "work")
    return changed(evaluated[0], workdir=str(tmp_path / "work"))


@pytest.fixture(scope="module")
def demo_server(models):
    """A running server of `demo` on a free port, which offers our tiny students too."""
    try:
        fetch_package(ONNXRUNTIME_WEB)
    except SourceError as e:
        said = " ".join(str(e).split())
        pytest.skip(
            "LEFT OUT: all of `kd-utils demo`, its server and its page in a browser. onnxruntime-web is neither in the "
            f"cache nor to be had by npm: run `kd-utils demo --setup` where there is a network ({said})"
        )
    with demo.serve(port=0, models=[*models.values()]) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A stand-in for google.colab, which exists on Colab only; its drive has a MyDrive once it is mounted."""
    module = types.ModuleType("google.colab")
    module.mounted = []

    def mount(place):
        module.mounted.append(place)
        Path(place, "MyDrive").mkdir(parents=True)

    def flush_and_unmount():
        shutil.rmtree(Path(module.mounted[-1], "MyDrive"))
        module.flushed = True

    module.drive = types.SimpleNamespace(mount=mount, flush_and_unmount=flush_and_unmount)
    module.files = types.SimpleNamespace(upload=lambda: {"a.png": b"abc"})
    if "google" not in sys.modules:
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(sys.modules["google"], "colab", module, raising=False)
    monkeypatch.setattr(colab, "MOUNT", tmp_path / "drive")
    return module
