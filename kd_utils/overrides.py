"""Settings as a dataclass of dataclasses: dotted keys, typed values, ranges, and errors that name the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kd_utils.common.errors import ConfigError

T = TypeVar("T")

# A range is a function of a value that returns what is wrong with it, or "" where the value fits.
Range = Callable[[Any], str]

LARGEST_INT = 2**63 - 1  # torch and numpy hold no larger one
LARGEST_FLOAT = 1e30  # float32 ends at 3.4e38, and settings are multiplied
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


# ---- fields and their ranges


def setting(default: Any, *ranges: Range) -> Any:
    """A dataclass field with the ranges that its value must lie in."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"ranges": ranges})
    return dataclasses.field(default=default, metadata={"ranges": ranges})


def expect(fits: Callable[[Any], bool], otherwise: str) -> Range:
    """The range of the values that `fits` accepts; an error puts `otherwise` behind the key and its value."""
    return lambda value: "" if fits(value) else otherwise


def above(low: float) -> Range:
    return expect(lambda value: value > low, f" must be greater than {low}")


def at_least(low: float) -> Range:
    return expect(lambda value: value >= low, f" must not be below {low}")


def at_most(high: float) -> Range:
    return expect(lambda value: value <= high, f" must be at most {high:,}")


def one_of(*choices: Any) -> Range:
    names = list(map(str, choices))

    def check(value: Any) -> str:
        if value in choices:
            return ""
        return f": choose one of {', '.join(names)}{did_you_mean(str(value), names)}"

    return check


def is_path(value: str) -> str:
    """The range of strings that can name a file. Whether the file exists is not asked."""
    if "\0" in value:
        return " holds a NUL character: write the path out"
    try:
        Path(value).expanduser().exists()
    except RuntimeError:
        return ": there is no such user's home folder: write the path out"
    except OSError as e:
        return f" cannot be used as a path ({e.strerror}): choose another"
    return ""


def require_in_range(cfg: Any) -> None:
    """Raise ConfigError for the first setting of `cfg` that lies outside the ranges of its field."""
    for key, field, value in _fields(cfg):
        for wrong in field.metadata.get("ranges", ()):
            message = wrong(value)
            if message:
                raise ConfigError(f"{key}={_shown(value)}{message}")

        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ConfigError(f"{key}={_shown(value)} must be below 2^63")
        if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
            raise ConfigError(f"{key}={value!r} must be at most {LARGEST_FLOAT:g}")


def _fields(cfg: Any, prefix: str = "") -> Iterable[tuple[str, dataclasses.Field, Any]]:
    """(dotted key, field, value) of every setting."""
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{field.name}.")
        else:
            yield prefix + field.name, field, value


def flatten(cfg: Any) -> dict[str, Any]:
    """All settable keys, dotted, with their values in `cfg`."""
    return {key: value for key, _, value in _fields(cfg)}


# ---- overrides


def override(cfg: T, changes: str | list[str] | Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> T:
    """Set dotted keys in place, from a mapping, a list of ``key=value`` or one string of them.

    `renamed` maps the old names of settings to those of today; both are understood.
    Raises ConfigError for an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    if isinstance(changes, str):
        changes = _split(changes)
    if not isinstance(changes, Mapping):
        changes = _pairs(changes)

    known = [key for key in flatten(cfg) if key != "preset"]
    for key, value in changes.items():
        key = (renamed or {}).get(key, key)
        if key == "preset":
            raise ConfigError("preset is no setting, it is what settings change: use --preset, or the form")
        if key not in known:
            raise ConfigError(unknown_key(key, known))

        *section, name = key.split(".")
        owner = getattr(cfg, section[0]) if section else cfg
        setattr(owner, name, _typed(key, value, get_type_hints(type(owner))[name]))
    return cfg


def _split(text: str) -> list[str]:
    """The ``key=value`` items of one string, which may be quoted as in a shell."""
    try:
        return shlex.split(text)
    except ValueError as e:
        raise ConfigError(f"overrides {text!r} cannot be read ({e}): write key=value pairs between spaces") from e


def _pairs(items: list[str]) -> dict[str, str]:
    """{key: value} of ``key=value`` items."""
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"{key!r} is not key=value; for example train.steps=500")
        pairs[key.strip()] = value
    return pairs


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a misspelt key: the nearest valid one by its whole or its last part."""
    near = difflib.get_close_matches(key, known, 1, 0.6)
    if not near:
        by_last_part = {k.rsplit(".", 1)[-1]: k for k in known}
        found = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last_part, 1, 0.5)
        near = [by_last_part[name] for name in found]

    if near:
        return f"unknown key {key!r}: did you mean {near[0]!r}?"
    return f"unknown key {key!r}; valid keys: {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``: did you mean 'quick'?`` where a known name is near to the one that was given, else ``""``."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f": did you mean {near[0]!r}?" if near else ""


# ---- values


def _typed(key: str, value: Any, kind: Any) -> Any:
    """`value`, a string from a command line or a Python value, as the field's type `kind`."""
    if kind == list[float]:
        if isinstance(value, str):
            value = [part for part in value.strip("[]()").split(",") if part]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}={value!r} is not a list of numbers")
        return [_typed(key, part, float) for part in value]

    result = _READERS[kind](value)
    if result is not None:
        return result

    wanted = "a finite number" if kind is float else f"of type {kind.__name__}"
    raise ConfigError(f"{key}={_shown(value)} is not {wanted}")


def _read_str(value: Any) -> str | None:
    if isinstance(value, (str, Path)):
        return str(value)
    return None


def _read_bool(value: Any) -> bool | None:
    word = str(value).lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    return None


def _read_float(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return number


def _read_int(value: Any) -> int | None:
    """An integer, also from text such as 2e4. A float would not hold a long integer, so digits are read as such."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if re.fullmatch(r"\s*[+-]?\d{1,400}\s*", str(value)):
        return int(value)
    number = _read_float(value)
    if number is None or not number.is_integer():
        return None
    return int(number)


_READERS = {str: _read_str, bool: _read_bool, float: _read_float, int: _read_int}


def _shown(value: Any) -> str:
    """`value` for an error message; Python refuses to print integers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
