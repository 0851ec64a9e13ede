"""Strict overrides of a dataclass of dataclasses: dotted keys, typed values, and an error that names the near match."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kd_utils.common.errors import ConfigError

T = TypeVar("T")


def flatten(cfg: Any) -> dict[str, Any]:
    """All settable keys, dotted, with their values in `cfg`."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if dataclasses.is_dataclass(value):
            out |= {f"{f.name}.{g.name}": getattr(value, g.name) for g in dataclasses.fields(value)}
        else:
            out[f.name] = value
    return out


def override(cfg: T, changes: str | list[str] | dict[str, Any]) -> T:
    """Set dotted keys in place, from a dict, a list of ``key=value`` or one string of them.

    Raises ConfigError for an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    if isinstance(changes, str):
        try:
            changes = shlex.split(changes)
        except ValueError as e:
            raise ConfigError(
                f"overrides {changes!r} cannot be read ({e}): write key=value pairs between spaces"
            ) from e
    if not isinstance(changes, dict):
        pairs = [c.partition("=") for c in changes]
        for key, eq, _ in pairs:
            if not eq:
                raise ConfigError(f"{key!r} is not key=value; for example train.steps=500")
        changes = {k.strip(): v for k, _, v in pairs}
    known = flatten(cfg)
    for key, value in changes.items():
        if key == "preset":
            raise ConfigError("preset is no setting, it is what settings change: use --preset, or the form")
        if key not in known:
            raise ConfigError(unknown_key(key, [k for k in known if k != "preset"]))
        owner, name = cfg, key
        if "." in key:
            head, name = key.split(".")
            owner = getattr(cfg, head)
        setattr(owner, name, _typed(key, value, get_type_hints(type(owner))[name]))
    return cfg


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a misspelt key: the nearest valid one by its whole or its last part."""
    near = difflib.get_close_matches(key, known, 1, 0.6)
    if not near:
        last = {k.rsplit(".", 1)[-1]: k for k in known}
        near = [last[n] for n in difflib.get_close_matches(key.rsplit(".", 1)[-1], last, 1, 0.5)]
    return f"unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(known)}")


def _typed(key: str, value: Any, want: type) -> Any:
    """`value`, a string from a command line or a Python literal, as the field's type."""
    shown = repr(value)
    if want == list[float]:
        if isinstance(value, str):
            value = [v for v in value.strip("[]()").split(",") if v]
        return [_typed(key, v, float) for v in value]
    if want is str:
        if isinstance(value, (str, Path)):
            return str(value)
    elif want is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "1", "yes", "on"):
            return True
        if str(value).lower() in ("false", "0", "no", "off"):
            return False
    elif not isinstance(value, bool):
        try:
            if want is float:
                number = float(value)
                if number == number and abs(number) != float("inf"):
                    return number
            elif isinstance(value, int) or re.fullmatch(r"\s*[+-]?\d+\s*", str(value)):
                return int(value)
            elif float(value) == int(float(value)):  # 2e4
                return int(float(value))
        except (TypeError, ValueError, OverflowError):
            pass
    raise ConfigError(f"{key}={shown} is not {'a finite number' if want is float else 'of type ' + want.__name__}")
