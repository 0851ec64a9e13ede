"""Files that are whole or absent: atomic writes, checksums, and named uint8 arrays in safetensors shards.

A shard's header carries its provenance as JSON under the key ``kd``, and the sha256 of its data, so that a shard
cut short or altered is found out. Nothing here writes a time, so that equal inputs give equal bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_utils.common.errors import StoreError

# Temporary files: ours with host and pid, images with the pid alone, and those of older versions with the file's name.
PART = re.compile(
    r"\.kd-(.+)-(\d+)-\d+\.part|\.(\d+)-\d+\.part|\..+\.(?:safetensors|json|pth?|png|html|onnx|param|bin)\.(\d+)\.part"
)
DAY = 86_400  # seconds; no file is being written for so long
_numbers = itertools.count()


def temporary(path: Path) -> Path:
    """A name beside `path` that is this process's alone, and short, as a name of 255 bytes leaves no room for more."""
    return path.with_name(f".kd-{socket.gethostname()[:40]}-{os.getpid()}-{next(_numbers)}.part")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`."""
    for path in folder.glob(".*.part"):
        name = PART.fullmatch(path.name)
        with suppress(OSError):  # what cannot be removed now is removed the next time
            if name and not _is_being_written(path, name[1], int(name[2] or name[3] or name[4])):
                path.unlink()


def _is_being_written(path: Path, host: str | None, pid: int) -> bool:
    is_ours = host in (None, socket.gethostname()[:40])
    if is_ours and os.name == "posix" and not is_running(pid):
        return False
    return time.time() - path.stat().st_mtime < DAY


def is_running(pid: int) -> bool:
    """Whether there is such a process on this machine (POSIX)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    return True


def write_bytes(path: str | Path, data: bytes | memoryview) -> Path:
    """Write a file so that a reader, or a restart, sees the old one or the whole new one."""
    path = Path(path)
    part = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        except BaseException:  # Ctrl-C, too
            with suppress(OSError):
                part.unlink()
            raise
    except OSError as e:
        raise StoreError(f"{path} cannot be written ({e.strerror}): {_remedy(e)}") from e
    return path


def _remedy(e: OSError) -> str:
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space or choose another folder"
    return "choose another folder, or make this one writable"


def write_json(path: str | Path, obj: Any) -> Path:
    """Sorted and indented; NaN and infinity are refused (ValueError), they are not JSON."""
    return write_bytes(path, (json.dumps(obj, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: str | Path, kind: type = object) -> Any:
    """A file of ours, whose outermost value is of `kind`. Raises StoreError."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("it is no regular file")
        value = json.loads(Path(path).read_text())
        if not isinstance(value, kind):
            raise ValueError(f"it holds no {kind.__name__}")
        return value
    except (OSError, ValueError, RecursionError) as e:
        raise StoreError(f"{path} cannot be read ({e}): delete it and run the step that makes it again") from e


def write_torch(path: str | Path, obj: Any) -> Path:
    """`torch.save` through a buffer: given a path it writes the file's name into the bytes."""
    import torch  # no other function here needs it, and it takes seconds to import

    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return write_bytes(path, buffer.getbuffer())


def sha256(source: str | Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(obj: Any) -> str:
    """A short name of a JSON-able object: equal objects, equal digests."""
    return sha256(json.dumps(obj, sort_keys=True).encode())[:16]


def save_arrays(path: str | Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Path:
    """Named uint8 arrays of any shape into one safetensors file, with `meta` in its header."""
    header: dict[str, Any] = {}
    parts = []
    offset = 0
    for name in sorted(arrays):
        a = arrays[name]
        if a.dtype != np.uint8:
            raise TypeError(f"array {name!r} is {a.dtype}, not uint8")
        header[name] = {"dtype": "U8", "shape": list(a.shape), "data_offsets": [offset, offset + a.nbytes]}
        parts.append(np.ascontiguousarray(a).tobytes())
        offset += a.nbytes
    data = b"".join(parts)

    # we write the header ourselves, because the library orders its metadata at random and our bytes must repeat
    header["__metadata__"] = {"kd": json.dumps(meta, sort_keys=True), "sha256": sha256(data)}
    head = json.dumps(header, sort_keys=True).encode()
    head += b" " * (-len(head) % 8)
    return write_bytes(path, struct.pack("<Q", len(head)) + head + data)


@dataclass
class _Header:
    """What a shard's header says, all of it checked."""

    start: int  # of the data, in bytes
    sha256: str  # of the data
    meta: dict[str, Any]
    arrays: dict[str, tuple[slice, list[int]]]  # bytes and shape of each


# what parsing the header of a damaged shard can raise
BAD_HEADER = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error)


def _header(path: Path) -> _Header:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with open(path, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            fields = json.loads(f.read(min(length, 1 << 27)))

        info = fields.pop("__metadata__")
        meta = json.loads(info["kd"])
        arrays, end = {}, 0
        for name, field in fields.items():
            first, last = field["data_offsets"]
            shape = field["shape"]
            whole = all(type(n) is int and n >= 0 for n in [first, *shape])
            if not whole or field["dtype"] != "U8" or last - first != math.prod(shape):
                raise ValueError(f"its array {name!r} does not fit together")
            arrays[name] = slice(first, last), shape
            end = max(end, last)

        if path.stat().st_size != 8 + length + end:
            raise ValueError("it is cut short")
        if not isinstance(meta, dict):
            raise ValueError("its header is not ours")
        return _Header(8 + length, info["sha256"], meta, arrays)
    except BAD_HEADER as e:
        raise StoreError(f"shard {path} is damaged or missing ({e}): delete it and run its step again") from e


def read_meta(path: str | Path) -> dict[str, Any]:
    """The `meta` of `save_arrays`; checks the file's length, not its data."""
    return _header(Path(path)).meta


def load_arrays(path: str | Path, verify: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, memory-mapped read-only, and the `meta`. `verify` also checks the data's sha256.

    Raises StoreError for a damaged file.
    """
    path = Path(path)
    header = _header(path)

    raw = np.empty(0, np.uint8)
    if path.stat().st_size > header.start:  # an empty file cannot be mapped
        raw = np.memmap(path, np.uint8, "r", offset=header.start)
    if verify and hashlib.sha256(raw.data).hexdigest() != header.sha256:
        raise StoreError(f"shard {path} is damaged (its checksum differs): delete it and run its step again")

    arrays = {name: raw[place].reshape(shape) for name, (place, shape) in header.arrays.items()}
    return arrays, header.meta


def is_made(path: Path, **meta: Any) -> bool:
    """Whether a whole shard is there that was made with this `meta`; a damaged one is not, and is made again."""
    try:
        return path.exists() and meta.items() <= load_arrays(path, verify=True)[1].items()
    except StoreError:
        return False


def delete_stale_shards(folder: Path, names: set[str]) -> None:
    """Remove the shards that are not among `names`: of an earlier run, under another configuration."""
    for path in folder.glob("*.safetensors"):
        if path.name not in names:
            path.unlink()


def write_png(path: str | Path, image: Any) -> Path:
    """A PIL image as PNG, atomically."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return write_bytes(path, buffer.getbuffer())
