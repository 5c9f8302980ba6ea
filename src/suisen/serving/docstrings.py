"""What the source says under the fields of Structs, for the description of the server: msgspec keeps none of it."""

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import msgspec
from msgspec import Struct


def describe(schemas: dict[str, dict[str, Any]], kinds: Iterable[type[Struct]]) -> None:
    """Gives the fields of ``schemas``, JSON schemas by the name of their Struct, the docstrings under them in the
    source as descriptions, where they have none.  ``kinds``: Structs that the schemas are of, those inside them apart.

    A source that is not there describes nothing.  Cost: each file is parsed once, some milliseconds.
    """
    for struct in _all_of(kinds):
        fields = schemas.get(struct.__name__, {}).get("properties", {})
        for kind in struct.__mro__:
            for name, said in _written(kind.__module__).get(kind.__name__, {}).items():
                if name in fields:
                    fields[name].setdefault("description", said)


def _all_of(kinds: Iterable[Any]) -> set[type[Struct]]:
    """The Structs, and those that their fields hold."""
    found: set[type[Struct]] = set()
    left = list(kinds)
    while left:
        kind = left.pop()
        if not (isinstance(kind, type) and issubclass(kind, Struct)):
            left += get_args(kind)
        elif kind not in found:
            found.add(kind)
            left += [field.type for field in msgspec.structs.fields(kind)]
    return found


@cache
def _written(module: str) -> dict[str, dict[str, str]]:
    """Class → field → what stands under it, of a file."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError):
        return {}
    return {part.name: dict(_under_fields(part)) for part in tree.body if isinstance(part, ast.ClassDef)}


def _under_fields(kind: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(kind.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                yield name, " ".join(said.split())
