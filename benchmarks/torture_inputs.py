"""Inputs that try to spoil work: mutated files, evil pickles, servers that break and lie. For benchmarks.torture."""

from __future__ import annotations

import http.server
import io
import os
import pickle
import random
import shutil
import socket
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from kd_utils.common import downloads, files, sources
from kd_utils.common.errors import KDError
from kd_utils.data import photos
from kd_utils.data.crops import CropIndex
from kd_utils.imaging import reading
from kd_utils.models import student, teacher, vgg
from kd_utils.training import checkpoints


@dataclass
class Row:
    """One kind of fault: how often it was tried, and what must stay 0."""

    kind: str
    tried: int = 0
    lost: int = 0  # work that was done and is not there
    silent: int = 0  # a result that differs, without a word
    foreign: int = 0  # an error that is not ours
    litter: int = 0  # temporary files that stay

    @property
    def ok(self) -> bool:
        return not (self.lost or self.silent or self.foreign or self.litter)

    @contextmanager
    def errors_counted(self, log: Path) -> Iterator[None]:
        """Errors of ours are as they should be; another one is counted, and told in the log."""
        try:
            yield
        except KDError:
            pass
        except Exception:
            self.foreign += 1
            with open(log, "a") as out:
                traceback.print_exc(file=out)


# ---- mutated files


def fuzz(whole: Path, folder: Path, log: Path, count: int, rng: random.Random) -> Row:
    """Mutated shards, indexes, students, zips and pictures: read as they were, or refused by an error of ours."""
    row = Row("mutated inputs")
    picture = next((Path(photos.__file__).parents[2] / "assets").rglob("*.png"), None)
    seeds: list[tuple[Path, Callable[[Path], object]]] = [
        (whole / "crops" / "valid-00000.safetensors", _shard_bytes),
        (whole / "crops" / "index.json", CropIndex.read),
        (whole / "student_model.pth", _weights),
        (_small_zip(folder / "photos.zip"), _zip_bytes),
    ]
    if picture and picture.stat().st_size < 300_000:
        seeds.append((picture, lambda path: reading.read(path) and None))

    inputs = [(path, path.read_bytes(), read, read(path)) for path, read in seeds]
    for n in range(count):
        path, data, read, want = inputs[n % len(inputs)]
        target = folder / f"mutated{path.suffix}"
        target.write_bytes(_mutate(data, rng))
        row.tried += 1
        before = row.foreign
        with row.errors_counted(log):
            if read(target) != want:
                row.silent += 1
                shutil.copy(target, folder / f"silent-{n}{path.suffix}")
        if row.foreign > before:
            shutil.copy(target, folder / f"foreign-{n}{path.suffix}")
    return row


def _mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(len(out), rng.choice((64, 2000, len(out)))))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            del out[at : at + rng.randrange(1, 40)]
        out = out or bytearray(b"\0")
    return bytes(out)


def _shard_bytes(path: Path) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in files.load_arrays(path, verify=True)[0].items()}


def _weights(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in student.load(path).state_dict().items()}


def _zip_bytes(path: Path) -> list[bytes] | None:
    for photo in photos.find_photos(str(path)):
        photo.bytes()
    return None


def _small_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for n, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)):
            z.writestr(f"{n}.png", os.urandom(300) * 3, method)
    return path


# ---- evil pickles


class _Evil:
    """Unpickled without care, it calls `call` with `args`."""

    def __init__(self, call: Callable, *args: object):
        self.reduced = call, args

    def __reduce__(self):
        return self.reduced


def evil_pickles(folder: Path, log: Path, rng: random.Random) -> Row:
    """Code in the pickles of checkpoints of every kind: it must not run, and the file is refused."""
    row = Row("evil pickles")
    proof = folder / "it-ran"
    touch = f"open({str(proof)!r}, 'w').close()"
    calls = [_Evil(exec, touch), _Evil(eval, touch), _Evil(os.system, f"touch '{proof}'"), _Evil(open, str(proof), "w")]
    checkpoint = folder / "evil"
    readers: list[Callable[[Path], object]] = [student.load, teacher.load_network, vgg.load_vgg, _latest]

    for read in readers:
        for call in calls:
            for within in (call, {"params": call}, {"params": {"body.0.weight": call}}, [torch.ones(2), call]):
                for data in _as_files(within, rng):
                    shutil.rmtree(checkpoint, ignore_errors=True)
                    path = checkpoint / f"step-00000001-{files.sha256(data)[:12]}.pt"
                    files.write_bytes(path, data)
                    row.tried += 1
                    with row.errors_counted(log):
                        row.silent += read(path) is not None
                    row.silent += proof.exists()
                    proof.unlink(missing_ok=True)
    return row


def _latest(path: Path) -> object:
    return checkpoints.latest(path.parent, quiet=True)


def _as_files(value: object, rng: random.Random) -> list[bytes]:
    """As torch saves it, in its older way too, and as a bare pickle of some protocol."""
    out = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
        out.append(buffer.getvalue())
    try:
        out.append(pickle.dumps(value, rng.choice((2, 3, 4, 5))))
    except (pickle.PicklingError, AttributeError):
        pass  # tensors need torch.save
    return out


# ---- servers


BODY = random.Random(0).randbytes(200_000)
FAULTS = ("break", "flip", "longer", "shorter", "html", "403", "404", "416", "429", "500", "503", "no range", "lie",
          "no header", "loop", "hang up", "nothing")  # fmt: skip


class _Server(http.server.ThreadingHTTPServer):
    """Answers each request by the next of `faults`, and with the whole file when there are none left."""

    def __init__(self, rng: random.Random):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[str] = []
        self.rng = rng

    def handle_error(self, request, client_address) -> None:
        pass  # a client that hangs up


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            return self.send_error(int(fault))
        if fault == "hang up":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if fault == "no header":
            self.wfile.write(self.server.rng.randbytes(300))
            return None
        if fault == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            return self.end_headers()

        asked = self.headers.get("Range", "")
        start = int(asked[6:-1]) if asked and fault != "no range" else 0
        body = b"<html>quota</html>" if fault == "html" else BODY[start:]
        if fault == "flip" and body:
            at = self.server.rng.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if fault == "longer":
            body += b"more"
        if fault == "shorter":
            body = body[:-100]

        told = start + 5 if fault == "lie" else start
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {told}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        if fault == "nothing":
            return None
        end = self.server.rng.randrange(len(body)) if fault == "break" and body else len(body)
        self.wfile.write(body[:end])
        if end < len(body):
            self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def log_message(self, *args: object) -> None:
        pass


def server_faults(folder: Path, log: Path, count: int, rng: random.Random) -> Row:
    """Downloads from a server with one to four faults in a row: the right bytes or an error of ours, then the file."""
    row = Row("servers that break")
    server = _Server(rng)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    before = sources.SOURCES, downloads.PAUSES, os.environ.pop("KD_MIRROR", None)
    sources.SOURCES = {"tortured": sources.Source("tortured", url, len(BODY), files.sha256(BODY), "")}
    downloads.PAUSES = (0.001, 0.001)
    try:
        for n in range(count):
            cache = folder / f"cache-{n}"
            server.faults = [rng.choice(FAULTS) for _ in range(rng.randint(1, 4))]
            row.tried += 1
            with row.errors_counted(log):
                row.silent += sources.fetch("tortured", cache).read_bytes() != BODY

            server.faults = []  # it is well again
            try:
                row.lost += sources.fetch("tortured", cache).read_bytes() != BODY
            except KDError:
                row.lost += 1
            row.litter += len(list(cache.rglob("*.part")))
            shutil.rmtree(cache)
    finally:
        sources.SOURCES, downloads.PAUSES = before[:2]
        if before[2]:
            os.environ["KD_MIRROR"] = before[2]
        server.shutdown()
        server.server_close()
    return row
