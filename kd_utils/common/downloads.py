"""The bytes of one file into a growing part file. What they should be is not known here: sources.py verifies them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import requests
from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte
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


def get(url: str, part: Path, total: int, bar: tqdm) -> None:
    """Download into `part`, from where it ends, through any number of breaks as long as each attempt gets further.

    `total` is the file's size in bytes. Raises Failed, or OSError where `part` cannot be written.
    """
    best, idle, why = size(part), 0, ""
    while size(part) < total:
        if idle > len(PAUSES):
            raise Failed(f"{why} ({idle} attempts)")
        time.sleep((0, *PAUSES)[idle])
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
    headers |= {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as r:
        if r.status_code == 416:  # our part is no beginning of what is there
            part.unlink(missing_ok=True)
        if r.status_code in (408, 416, 429) or r.status_code >= 500:
            raise requests.HTTPError(f"the server answered {r.status_code} {r.reason}")
        if r.status_code not in (200, 206):
            raise Failed(f"the server answered {r.status_code} {r.reason}")
        if r.headers.get("Content-Type", "").startswith("text/html"):
            raise Failed("the server sent a web page (an error, sign-in or quota page) instead of the file")
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
            for chunk in r.iter_content(CHUNK):
                f.write(chunk)
                bar.update(len(chunk))
                if f.tell() > total:
                    break  # the caller's hash says the rest
            f.flush()
            os.fsync(f.fileno())


def reason(e: Exception) -> str:
    """The short cause in requests' long connection errors."""
    if isinstance(e, requests.ConnectionError) and e.args and hasattr(e.args[0], "reason"):
        return f"no connection: {str(e.args[0].reason).rsplit(': ', 1)[-1]}"
    return " ".join(str(e).split())
