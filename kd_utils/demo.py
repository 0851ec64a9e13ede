"""The student in the browser: a server on this machine for the page assets/demo, its runtime and the students.

The page computes; this server only gives out files. It sends the headers that threads need in a browser
(Cross-Origin-Opener-Policy and -Embedder-Policy), and a policy that forbids the page to speak to any other server.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kd_utils.common.errors import UsageError
from kd_utils.common.npm import ONNXRUNTIME_WEB, fetch_package
from kd_utils.models import student
from kd_utils.models.onnx_graph import graph
from kd_utils.models.shipped import DEFAULTS, find_student, shipped_names
from kd_utils.own_files import ASSETS

PAGE = ASSETS / "demo"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".jpg": "image/jpeg",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
    "worker-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# What the choice says of a student that ships, by its size.
SIZE_NAMES = {"s": "small", "m": "medium", "l": "large"}


@dataclass
class Shelf:
    """The students that the page offers. Their ONNX files are made when they are asked for, and kept in memory."""

    paths: dict[str, Path]  # by the name in the URL, models/NAME.onnx
    made: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listing(self) -> list[dict[str, str]]:
        """What the page shows: name, label and URL of each student. It begins with the first."""
        return [{"name": name, "label": label(name), "url": f"models/{name}.onnx"} for name in self.paths]

    def onnx(self, name: str) -> bytes:
        with self.lock:
            if name not in self.made:
                self.made[name] = graph(student.load(self.paths[name])).SerializeToString()
            return self.made[name]


def label(name: str) -> str:
    """student_x4_photo_m as words: "photo m (medium), 4 times larger"."""
    parts = re.fullmatch(r"student_x([421])_((?:[a-z]+_)*)([sml])", name)
    if not parts:
        return name
    scale, family, size = parts.groups()
    result = "same size" if scale == "1" else f"{scale} times larger"
    return f"{family.replace('_', ' ')}{size} ({SIZE_NAMES[size]}), {result}"


def find_students(more: list[str]) -> Shelf:
    """The students that ship, and those of `more`, by path or name. Raises ConfigError, CheckpointError."""
    paths = {}
    for scale in (4, 2, 1):
        for name in sorted(shipped_names(scale), key=lambda name: name != DEFAULTS[scale]):
            path = find_student(name, scale)
            paths[path.stem] = path

    for model in more:
        path = find_student(model)
        student.load(path)  # so that a file that is no student is refused now, and not in the browser
        paths[path.stem] = path
    return Shelf(paths)


# ---- the server


class Handler(BaseHTTPRequestHandler):
    """Gives out the files of the page, of the runtime and of the students, and nothing else."""

    protocol_version = "HTTP/1.1"

    def __init__(self, shelf: Shelf, runtime: Path, *args):
        self.shelf, self.runtime = shelf, runtime
        super().__init__(*args)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        body = self.find(path)
        self.send_response(200 if body is not None else 404)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        body = f"There is no {path} here.".encode() if body is None else body
        self.send_header("Content-Type", TYPES.get(Path(path).suffix, "text/plain; charset=utf-8"))
        self.send_header("Content-Length", str(len(body)))
        try:
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:  # the page was closed, or the photo cancelled, while a file was under way
            self.close_connection = True

    do_HEAD = do_GET

    def find(self, path: str) -> bytes | None:
        """The bytes of a path that is among those we give out."""
        if path == "models.json":
            return json.dumps(self.shelf.listing()).encode()
        folder, _, name = path.rpartition("/")
        if folder == "models" and name.removesuffix(".onnx") in self.shelf.paths:
            return self.shelf.onnx(name.removesuffix(".onnx"))
        here = {"": PAGE, "ort": self.runtime}.get(folder)
        # a name of the folder's own listing, so no path leads out of it
        if here and name in {file.name for file in here.iterdir() if file.suffix in TYPES}:
            return (here / name).read_bytes()
        return None

    def log_message(self, *args) -> None:
        """Say nothing: each photo would fill the terminal."""


def serve(host: str = "127.0.0.1", port: int = 8008, models: list[str] | None = None) -> ThreadingHTTPServer:
    """A server that is ready for `serve_forever`; port 0 takes a free one.

    Raises SourceError where the runtime cannot be had, UsageError for a port that is taken, and as `find_students`.
    """
    import onnx as onnx  # the students' files are made with it: if it lacks, say so now and not in the browser

    shelf = find_students(models or [])
    runtime = fetch_package(ONNXRUNTIME_WEB)
    try:
        server = ThreadingHTTPServer((host, port), partial(Handler, shelf, runtime))
    except (OSError, OverflowError) as e:
        raise UsageError(f"the page cannot be served at {host}:{port} ({e}): choose another --port") from e
    server.daemon_threads = True
    return server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=8008, help="the page is at http://127.0.0.1:PORT/ (default: 8008; 0: a free one)")
    add("--host", default="127.0.0.1", help="the address to listen at (default: 127.0.0.1, only this machine)")
    add("--model", nargs="+", action="extend", default=[], metavar="STUDENT", help="students of your own to offer")
    add("--setup", action="store_true", help="only fetch onnxruntime-web into the cache, for later without a network")


def main(args: argparse.Namespace) -> int:
    if args.setup:
        print(fetch_package(ONNXRUNTIME_WEB))
        return 0
    with serve(args.host, args.port, args.model) as server:
        print(f"http://{args.host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
