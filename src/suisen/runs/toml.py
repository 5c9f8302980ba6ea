"""Writing TOML: tables of plain values (the standard library reads it and does not write it)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suisen.errors import InputError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(tables: Mapping[str, Mapping[str, Any]], head: str = "") -> str:
    """Tables of strings, numbers, booleans, lists and mappings of them, as TOML.

    >>> print(dumps({"data": {"k_core": 5, "kinds": {"age": "numeric"}}}), end="")
    [data]
    k_core = 5
    kinds = {age = "numeric"}
    """
    parts = [f"# {line}" for line in head.splitlines()]
    for name, table in tables.items():
        parts += ["", f"[{name}]"] if parts else [f"[{name}]"]
        parts += [f"{_key(key)} = {_value(value)}" for key, value in table.items()]
    return "\n".join(parts) + "\n"


def load(path: Path) -> dict[str, Any]:
    """A TOML file.  Raises InputError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a TOML file such as a run's config.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """JSON's escapes are TOML's, but for DEL, which TOML wants escaped, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    raise TypeError(f"{value!r} has no form in TOML")
