"""Settings: what a dataclass's fields become on the command line and in a TOML file.

A field is written once, in its class.  From its name, type, bounds, default and docstring come the flag, the key of the
file, the conversion of both and the line of ``--help``.
"""

import ast
import contextlib
import dataclasses
import inspect
import re
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
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""How a bool may be written."""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """One value that can be set."""

    section: str
    key: str
    hint: Any
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
        section = self.section.replace(".", "__").replace("-", "_")
        return f"{section}__{self.key}"

    @property
    def several(self) -> bool:
        """Whether the flag may be given more than once: lists and mappings."""
        return any(_is(each, Mapping) or _is(each, Sequence) for each in _alternatives(self.hint))

    def read(self, value: Any) -> Any:
        """The value of a flag's text or of a file, as the class wants it.  Raises InputError naming it."""
        return convert(self.name, value, self.hint)

    @property
    def help(self) -> str:
        """Docstring, bounds and default in one line."""
        facts = [self.bounds, f"default: {spelt(self.default)}" if self.default not in (None, "", (), {}) else ""]
        said = "; ".join(fact for fact in facts if fact)
        return f"{self.doc} [{said}]" if said else self.doc

    @property
    def metavar(self) -> str:
        """What stands for the value in ``--help``."""
        return _word(self.hint)


def settings_of(cls: type, section: str, prefix: str, skip: Iterable[str] = ()) -> list[Setting]:
    """The settings of a dataclass's fields, pydantic's or plain; ``prefix`` opens the flags ("--retriever.")."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = attribute_docs(cls)
    out = []
    for field in dataclasses.fields(cls):
        if field.name in skip or not field.init:
            continue
        key = field.name
        flag = prefix + key.replace("_", "-")
        doc = " ".join(texts.get(key, "").split())
        out.append(Setting(section, key, hints[key], _default(field), doc, _bounds(cls, key), flag))
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
    notes = [] if known is None else known.metadata
    found = [(sign, getattr(each, word)) for each in notes for word, sign in SIGNS.items() if hasattr(each, word)]
    return ", ".join(f"{sign} {bound:g}" for sign, bound in found)


# -- values ------------------------------------------------------------------------------------------------------------

NoneType = type(None)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, the narrowest first: unions opened, notes such as bounds left out."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _alternatives(args[0])
    if origin not in (typing.Union, types.UnionType):
        return (hint,)
    found = [each for arg in args for each in _alternatives(arg)]
    order: list[Any] = [NoneType, bool, int, float]
    return tuple(sorted(found, key=lambda each: order.index(each) if each in order else len(order)))


def _is(hint: Any, cls: type) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, cls)


def convert(where: str, value: Any, hint: Any) -> Any:
    """``value`` (text of a flag, or of a TOML file) as the annotation wants it, the narrowest of several types that
    fits; bounds are the class's own business.  Raises InputError naming ``where``.
    """
    *narrower, last = _alternatives(hint)
    if NoneType in narrower and (value is None or value == NONE):
        return None
    for each in narrower:
        if each is not NoneType:
            with contextlib.suppress(InputError):
                return _as(where, value, each)
    return _as(where, value, last)


def _as(where: str, value: Any, hint: Any) -> Any:
    """``value`` as one type."""
    args = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in args:
            raise unknown(where, value, args)
        return value
    if _is(hint, Mapping):
        return _mapping(where, value, args[1])
    if _is(hint, Sequence):
        return tuple(convert(where, each, args[0]) for each in _listed(value))
    return _scalar(where, value, hint)


def _listed(value: Any) -> list[Any]:
    """Texts are split at commas; what is a list already stays one, its texts split too where they come from flags."""
    parts = list(value) if isinstance(value, list | tuple) else [value]
    out: list[Any] = []
    for part in parts:
        out += [word.strip() for word in part.split(",") if word.strip()] if isinstance(part, str) else [part]
    return out


def _mapping(where: str, value: Any, hint: Any) -> dict[str, Any]:
    """Names with values: a table of a file, or texts like ``age=numeric``."""
    pairs: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, Mapping) else []
    texts = [] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    parts = (part for text in texts for part in re.split(r",(?=[^,=]+=)", str(text)))  # not inside a value: delimiter=,
    for part in parts:
        key, sign, text = part.partition("=")
        if not sign:
            raise InputError(f"{where} = {part!r} names no value; write name=value, several with commas between")
        pairs.append((key.strip(), text.strip()))
    return {str(key): convert(f"{where}: {key}", each, hint) for key, each in pairs}


def _scalar(where: str, value: Any, cls: Any) -> Any:
    if cls is bool:
        found = value if isinstance(value, bool) else TRUTHS.get(str(value).lower())
        return _fail(where, value, "true or false") if found is None else found
    if cls in (int, float):
        if isinstance(value, bool):
            _fail(where, value, "a number")
        try:
            if cls is int and not isinstance(value, str) and value != int(value):
                raise ValueError(value)
            return cls(value)
        except (ValueError, TypeError):
            return _fail(where, value, "a whole number" if cls is int else "a number")
    return cls(value) if cls in (str, Path) and not isinstance(value, cls) else value


def _fail(where: str, value: Any, wanted: str) -> typing.NoReturn:
    raise InputError(f"{where} = {value!r} must be {wanted}")


def _word(hint: Any) -> str:
    """What stands for a value of this annotation in ``--help``."""
    words = sorted(map(_word_of, _alternatives(hint)), key=lambda word: word == NONE)
    return "|".join(dict.fromkeys(words))


def _word_of(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return "|".join(map(str, args))
    if _is(hint, Mapping):
        return "NAME=VALUE"
    if _is(hint, Sequence):
        return f"{_word(args[0])},…"
    return {NoneType: NONE, int: "INT", float: "NUMBER", bool: "true|false"}.get(hint, "TEXT")


def spelt(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(spelt, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
