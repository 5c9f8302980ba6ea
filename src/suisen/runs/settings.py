"""Settings: what a dataclass's fields become on the command line and in a TOML file.

A field is written once, in its class.  From its name, type, bounds, default and docstring come the flag, the key of the
file, the conversion of both and the line of ``--help``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from suisen.errors import InputError, unknown

NONE = "none"
"""How None is written on a command line and in TOML, which have no word for it."""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """One value that can be set."""

    section: str
    key: str
    kind: Any
    """Its annotation."""
    default: Any
    doc: str = ""
    bounds: str = ""
    flag: str = ""

    @property
    def name(self) -> str:
        """What messages call it: the key with its section, as in a file."""
        return f"{self.section}.{self.key}"

    @property
    def parameter(self) -> str:
        """The name under which the command receives it."""
        return f"{self.section}__{self.key}"

    @property
    def several(self) -> bool:
        """Whether the flag may be given more than once: lists and mappings."""
        return _holds(self.kind, (tuple, list, Sequence, dict, Mapping))

    def read(self, value: Any, where: str = "") -> Any:
        """The value of a flag's text or of a file, as the class wants it.  Raises InputError naming it."""
        return convert(where or self.name, value, self.kind)

    @property
    def help(self) -> str:
        """Docstring, bounds and default in one line."""
        facts = [self.bounds, f"default: {_spelt(self.default)}" if self.default not in (None, "", (), {}) else ""]
        said = "; ".join(fact for fact in facts if fact)
        return f"{self.doc} [{said}]" if said else self.doc

    @property
    def metavar(self) -> str:
        """What stands for the value in ``--help``."""
        return _metavar(self.kind)


def settings_of(cls: type, section: str, prefix: str, skip: Iterable[str] = ()) -> list[Setting]:
    """The settings of a dataclass's fields, pydantic's or plain; ``prefix`` opens the flags ("--retriever.")."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = attribute_docs(cls)
    out = []
    for field in dataclasses.fields(cls):
        if field.name in skip or not field.init:
            continue
        default = _default(field)
        flag = prefix + field.name.replace("_", "-")
        doc = " ".join(texts.get(field.name, "").split())
        out.append(Setting(section, field.name, hints[field.name], default, doc, _bounds(cls, field.name), flag))
    return out


def plain(value: Any) -> Any:
    """A setting's value as JSON and TOML hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def values_of(instance: Any, settings: Sequence[Setting]) -> dict[str, Any]:
    """Every setting's value in an instance, for a file: None is left out where it is the default, else ``none``."""
    out = {}
    for setting in settings:
        value = plain(getattr(instance, setting.key))
        if value is None and setting.default is not None:
            value = NONE
        if value is not None and value != {}:
            out[setting.key] = value
    return out


# -- reading a class ---------------------------------------------------------------------------------------------------


@cache
def attribute_docs(cls: type) -> dict[str, str]:
    """The docstrings under a class's fields, those of its bases included."""
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if inspect.get_annotations(base):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            out |= _docs_in(body.body if isinstance(body, ast.ClassDef) else [])
    return out


def _docs_in(lines: list[ast.stmt]) -> dict[str, str]:
    out = {}
    for line, after in pairwise(lines):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            value = after.value if isinstance(after, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                out[line.target.id] = value.value
    return out


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    default = field.default
    if type(default).__name__ == "FieldInfo":  # pydantic's Field(…) in the place of the default
        return default.default  # type: ignore[union-attr]
    return None if default is dataclasses.MISSING else default


def _bounds(cls: type, name: str) -> str:
    """The bounds of a validated field, as signs."""
    known: Any = getattr(cls, "__pydantic_fields__", {}).get(name)
    if known is None:
        return ""
    said = [
        f"{sign} {getattr(each, word):g}"
        for each in known.metadata
        for word, sign in SIGNS.items()
        if hasattr(each, word)
    ]
    return ", ".join(said)


# -- values ------------------------------------------------------------------------------------------------------------


def convert(where: str, value: Any, kind: Any) -> Any:
    """``value`` (text of a flag, or of a TOML file) as ``kind``; bounds are the class's own business."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return convert(where, value, args[0])
    if origin in (typing.Union, types.UnionType):
        return _one_of(where, value, args)
    if origin is Literal:
        if value not in args:
            raise unknown(where, value, args)
        return value
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(where, value, args[1] if args else str)
    if origin is not None and issubclass(origin, Sequence):
        return tuple(convert(where, each, args[0] if args else str) for each in _listed(value))
    return _scalar(where, value, kind)


def _one_of(where: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """The narrowest of several types that fits."""
    if type(None) in kinds and (value is None or value == NONE):
        return None
    order: list[Any] = [bool, int, float]
    ranked = sorted((k for k in kinds if k is not type(None)), key=lambda k: order.index(k) if k in order else 9)
    for kind in ranked[:-1]:
        try:
            return convert(where, value, kind)
        except InputError:
            continue
    return convert(where, value, ranked[-1])


def _listed(value: Any) -> list[Any]:
    """Texts are split at commas; what is a list already stays one, its texts split too where they come from flags."""
    parts = list(value) if isinstance(value, list | tuple) else [value]
    out: list[Any] = []
    for part in parts:
        out += [word.strip() for word in part.split(",") if word.strip()] if isinstance(part, str) else [part]
    return out


def _mapping(where: str, value: Any, kind: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): convert(f"{where}: {key}", each, kind) for key, each in value.items()}
    out = {}
    for part in _listed(value):
        key, sign, text = str(part).partition("=")
        if not sign:
            raise InputError(f"{where} = {part!r} names no value; write name=value, several with commas between")
        out[key.strip()] = convert(f"{where}: {key.strip()}", text.strip(), kind)
    return out


def _scalar(where: str, value: Any, kind: Any) -> Any:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool) or str(value).lower() not in words:
            return value if isinstance(value, bool) else _fail(where, value, "true or false")
        return words[str(value).lower()]
    if kind in (int, float):
        if isinstance(value, bool):
            _fail(where, value, "a number")
        try:
            return kind(value) if isinstance(value, str) else _number(value, kind)
        except (ValueError, TypeError):
            return _fail(where, value, "a whole number" if kind is int else "a number")
    if kind in (str, Path) and not isinstance(value, kind):
        return kind(value)
    return value


def _number(value: Any, kind: Any) -> Any:
    if kind is int and value != int(value):
        raise ValueError(value)
    return kind(value)


def _fail(where: str, value: Any, wanted: str) -> typing.NoReturn:
    raise InputError(f"{where} = {value!r} must be {wanted}")


def _holds(kind: Any, wanted: tuple[Any, ...]) -> bool:
    origin = get_origin(kind)
    if origin is typing.Annotated:
        return _holds(get_args(kind)[0], wanted)
    if origin in (typing.Union, types.UnionType):
        return any(_holds(each, wanted) for each in get_args(kind))
    return isinstance(origin, type) and any(issubclass(origin, each) for each in wanted)


def _metavar(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return _metavar(args[0])
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(NONE if each is type(None) else _metavar(each) for each in args))
    if origin is Literal:
        return "|".join(map(str, args))
    if _holds(kind, (dict, Mapping)):
        return "NAME=VALUE"
    if _holds(kind, (tuple, list, Sequence)):
        return f"{_metavar(args[0])},…" if args else "TEXT,…"
    return {int: "INT", float: "NUMBER", bool: "true|false"}.get(kind, "TEXT")


def _spelt(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
