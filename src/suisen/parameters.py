"""Parameters that are written once: frozen dataclasses validated by Pydantic, complaining in the house's voice."""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from suisen.errors import InputError, unknown

T = TypeVar("T")
A = TypeVar("A")
S = TypeVar("S")
Options_co = TypeVar("Options_co", covariant=True)
R = TypeVar("R")
P = ParamSpec("P")


@dataclass(frozen=True)
class Search:
    """Where tuning looks for a parameter, written in its annotation: ``Annotated[float, Field(gt=0), Search(1e-4, 1e-2,
    log=True)]``, or ``Search(choices=(32, 64, 128))``.  A parameter without one is not searched.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.choices and not self.low < self.high:
            raise InputError(f"{self}: low must be below high, or give choices")
        if not self.choices and self.log and self.low <= 0:
            raise InputError(f"{self}: a logarithmic range must begin above 0")

    def __contains__(self, value: Any) -> bool:
        return value in self.choices if self.choices else self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            rows = [each if isinstance(each, tuple) else (each,) for each in self.choices]
            return " | ".join(", ".join(map(str, row)) for row in rows)
        return f"{self.low:g} … {self.high:g}{', log' if self.log else ''}"


@dataclass(frozen=True)
class After:
    """Where a field of a subclass stands in ``--help``, the manifest and ``repr``: behind the inherited field named
    here, or first (``After("")``).  The fields declared under it follow it, up to the next ``After``; without any they
    stand behind all inherited ones.
    """

    name: str


def searches_of(cls: type) -> dict[str, tuple[Any, Search]]:
    """Parameter → (its type, where tuning looks for it), of those that have a ``Search`` in their annotation."""
    out = {}
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        hint = hints[field.name]
        value_type, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        found = [note for note in notes if isinstance(note, Search)]
        if found:
            out[field.name] = (value_type, found[0])
    return out


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def parameters(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, validated, keyword-only dataclass.

    A field is written once, with its bounds (``Annotated[int, Field(ge=1)]``) and its docstring underneath; from that
    come validation, ``--help``, the documentation table and the bundle's manifest.  Mistakes raise InputError.

    Inherited fields keep their docstrings.  A subclass that only moves a default or a bound writes the field again
    without one; where its new fields stand is said with ``After``.
    """
    config = ConfigDict(extra="forbid", use_attribute_docstrings=True, json_schema_extra=_inherited_descriptions)
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    made.__dataclass_fields__ = _in_order(made)
    made.__repr__ = _repr  # the generated one has the order in which the bases come
    validated = made.__init__

    def __init__(self: Any, *args: Any, **values: Any) -> None:
        if args:
            raise InputError(f"{cls.__name__} takes its parameters by name, like {_example(cls)}")
        try:
            validated(self, **values)
        except ValidationError as error:
            raise _as_input_error(made, error) from None

    made.__init__ = __init__
    out: type[T] = made
    return out


def _inherited_descriptions(schema: dict[str, Any], cls: type) -> None:
    """Fills the JSON schema's descriptions in: Pydantic reads the docstrings of the class's own body alone."""
    for base in cls.__mro__:
        for name, field in base.__dict__.get("__pydantic_fields__", {}).items():
            if field.description and name in schema.get("properties", {}):
                schema["properties"][name].setdefault("description", field.description)


def _in_order(cls: Any) -> dict[str, Any]:
    """The dataclass's fields with the class's own new ones where ``After`` wants them."""
    order = list(dict.fromkeys(name for base in cls.__bases__ for name in getattr(base, "__dataclass_fields__", ())))
    place = len(order)
    for name in [name for name in cls.__dataclass_fields__ if name not in order]:
        field = cls.__pydantic_fields__.get(name)  # none: a ClassVar
        for note in () if field is None else field.metadata:
            if isinstance(note, After):
                place = order.index(note.name) + 1 if note.name else 0
        order.insert(place, name)
        place += 1
    return {name: cls.__dataclass_fields__[name] for name in order}


def _repr(self: Any) -> str:
    values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{type(self).__qualname__}({values})"


def _example(cls: type) -> str:
    """A call with the first field's default."""
    first = next(iter(fields(cls)), None)
    return f"{cls.__name__}()" if first is None else f"{cls.__name__}({first.name}={first.default!r})"


def _as_input_error(cls: type, error: ValidationError) -> InputError:
    """Pydantic's first complaint: the class, the field, the value and the bound."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        return unknown(f"{cls.__name__} parameter", name, [field.name for field in fields(cls)])
    reason = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    said = f"{name} = {first['input']!r} " if name else ""  # a validator over several fields names them itself
    return InputError(f"{cls.__name__}: {said}{reason}")


class KeywordsOf(Protocol[P, Options_co]):
    """What ``keywords_of`` returns: a decorator of methods with one or two parameters in front of the options."""

    @typing.overload
    def __call__(self, method: Callable[[S, Options_co], R]) -> Callable[Concatenate[S, P], R]: ...

    @typing.overload
    def __call__(self, method: Callable[[S, A, Options_co], R]) -> Callable[Concatenate[S, A, P], R]: ...


def keywords_of(options: Callable[P, Options_co]) -> KeywordsOf[P, Options_co]:
    """Decorator of a method whose last parameter is an instance of the dataclass ``options``: callers give the fields.

    The fields are written once, in the dataclass; type checkers, ``help()`` and tab completion see each of them as a
    parameter of the method, with its type and default.  A keyword that does not exist raises InputError with the
    nearest one that does.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Style:
    ...     colour: str = "red"
    >>> class Pen:
    ...     @keywords_of(Style)
    ...     def draw(self, style: Style) -> str:
    ...         return style.colour
    >>> Pen().draw(colour="blue")
    'blue'
    >>> Pen().draw(color="blue")
    Traceback (most recent call last):
    suisen.errors.UnknownName: option = 'color' is unknown; did you mean 'colour'?
    """

    def decorate(method: Any) -> Any:
        signature = inspect.signature(method)
        *leading, last = signature.parameters.values()
        accepted = inspect.signature(options).parameters
        in_front = {parameter.name for parameter in leading}

        @wraps(method)
        def call(*values: Any, **keywords: Any) -> Any:
            named = {name: keywords.pop(name) for name in in_front & keywords.keys()}
            for name in keywords:
                if name not in accepted:
                    raise unknown("option", name, accepted)
            count = len(leading) - len(named)
            return method(*values[:count], **named, **{last.name: options(*values[count:], **keywords)})

        call.__signature__ = signature.replace(parameters=[*leading, *accepted.values()])  # type: ignore[attr-defined]
        return call

    return decorate
