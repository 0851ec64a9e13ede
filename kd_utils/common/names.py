"""Names of files as people and other programs can take them: photos may be called anything that a disk allows."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 40  # characters of a name that is shown
LONGEST_STEM = 100  # bytes of a name that becomes part of a file's name: a file system takes 255


def escape(name: str) -> str:
    """The name with control characters and bytes that are not UTF-8 written as escapes, such as ``\\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def display_name(name: str) -> str:
    """A file's name for a page, a picture or a line of text: escaped, and without the middle of a long one."""
    shown = escape(name)
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST - 16]}…{shown[-15:]}"


def safe_stem(name: str) -> str:
    """The stem of a file's name as a part of another file's name that every system takes. Ordinary names stay."""
    stem = re.sub(r'[\\/:*?"<>|]', "_", Path(escape(name)).stem)
    return stem.encode()[:LONGEST_STEM].decode(errors="ignore").strip(" .") or "photo"
