"""Rules as a file, a bundle or a caller states them: checked as far as they can be without a catalogue."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints

from suisen.arguments import shown
from suisen.data.durations import duration
from suisen.errors import InputError, unknown
from suisen.parameters import parameters
from suisen.recommending.rules.language import Expression, parse

MOST_RULES, MOST_BYTES = 32, 1 << 20
"""Of one set of rules: each is a label of metrics; of their file."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\n\r\t]+$")]
Whole = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Text = Annotated[str, StringConstraints(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@parameters
class Require:
    """A list holds only items for which an expression is true (``suisen.recommending.rules.language``)."""

    name: Name
    """What errors, answers, the funnel and metrics call the rule."""
    expression: Text
    """Over columns of the item table and ``request.NAME``."""


@parameters
class Boost:
    """Items move up: all, or those for which an expression over the catalogue is true; the less, the older they are.

    An item of age a weighs w = 2^(−a / half_life), 1 without a half-life.  ``add``: its score grows by add · w.
    ``ranks``: it goes to the place that its rank less ranks · w has among the other ranks; equal ones keep their order.
    """

    name: Name
    """What errors, answers, the funnel and metrics call the rule."""
    expression: Text | None = None
    """Over columns of the item table alone; none: all items."""
    add: Finite | None = None
    """Added to the last stage's score."""
    ranks: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Places that an item moves up at most."""
    half_life: Text | None = None
    """Age at which a boost is half as large, like 7d; none: age does not matter."""
    since: Text | None = None
    """Column of times that ages are counted from, an item without one is not boosted; none: the item's first event in
    train, an item without one is new."""

    def __post_init__(self) -> None:
        if (self.add is None) == (self.ranks is None):
            raise InputError("give add or ranks, one of them")
        if self.since is not None and self.half_life is None:
            raise InputError("since needs half_life, like '7d'")
        if self.half_life is not None and duration("half_life", self.half_life) <= 0:
            raise InputError(f"half_life = {self.half_life!r} must be above 0")


@parameters
class Cap:
    """At most so many items of one value of a column; an item of several values counts for each of them."""

    name: Name
    """What errors, answers, the funnel and metrics call the rule."""
    column: Text
    """Of the item table; items without a value are not capped."""
    most: Whole
    """Items of one value."""
    first: Whole | None = None
    """Of the first so many places; none: of the whole list."""


@parameters
class Pin:
    """An item stands at a place of every list, unless the list may not hold it."""

    name: Name
    """What errors, answers, the funnel and metrics call the rule."""
    item: Annotated[int, Field(strict=True)] | Text
    """Its raw id."""
    position: Whole
    """Its place, from 1; the last one where the list is shorter, and none where fewer items are asked for."""


Rule = Require | Boost | Cap | Pin
KINDS: dict[str, type[Any]] = {"require": Require, "boost": Boost, "cap": Cap, "pin": Pin}
"""In the order in which they work; what a file calls them."""


@dataclass(frozen=True)
class Rules:
    """All rules of a recommender; false where there are none.  Raises InputError where two have one name, and for what
    an expression cannot say.

    >>> rules = Rules.of({"cap": [{"name": "two per artist", "column": "artist", "most": 2}]})
    >>> rules.cap[0].first is None, bool(rules), bool(Rules())
    (True, True, False)
    """

    require: tuple[Require, ...] = ()
    boost: tuple[Boost, ...] = ()
    cap: tuple[Cap, ...] = ()
    pin: tuple[Pin, ...] = ()

    def __post_init__(self) -> None:
        for kind in KINDS:
            object.__setattr__(self, kind, tuple(getattr(self, kind)))
        names = [rule.name for rule in self.all]
        if len(names) > MOST_RULES:
            raise InputError(f"rules: {len(names)} are more than {MOST_RULES}; join some with and, or leave some out")
        places, items = [str(pin.position) for pin in self.pin], [str(pin.item) for pin in self.pin]
        for what, given in (("the name", names), ("the position", places), ("the item", items)):
            twice = [one for one in given if given.count(one) > 1]
            if twice:
                raise InputError(f"rules: {what} {twice[0]!r} stands twice; give each rule its own")
        for rule in self.all:
            if isinstance(rule, Require | Boost) and rule.expression is not None:
                tree_of(rule)

    @property
    def all(self) -> tuple[Rule, ...]:
        """Every rule, in the order in which they work."""
        return tuple(rule for kind in KINDS for rule in getattr(self, kind))

    def __bool__(self) -> bool:
        return bool(self.require or self.boost or self.cap or self.pin)

    @property
    def kinds(self) -> dict[str, str]:
        """Name → kind of each."""
        return {rule.name: kind for kind in KINDS for rule in getattr(self, kind)}

    def reserve(self, k: int, candidates: int) -> int:
        """Items that a list of k is made from."""
        return max(k, candidates) if self.cap or self.boost else k

    @classmethod
    def of(cls, given: Any) -> Self:
        """From a .toml or .json file, a mapping like theirs, or Rules; None: no rules.  Raises InputError."""
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        if isinstance(given, str | Path):
            return cls._made(_read(Path(given)), f"rules = {str(given)!r}")
        if isinstance(given, Mapping):
            return cls._made(given, "rules")
        raise InputError(f"rules = {shown(given)} are none; give a .toml or .json file, or {{'cap': [{{…}}]}}")

    @classmethod
    def _made(cls, tables: Mapping[str, Any], where: str) -> Self:
        made: dict[str, list[Any]] = {}
        for kind, rows in tables.items():
            if kind not in KINDS:
                raise unknown(f"{where}: kind of rule", kind, KINDS)
            if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
                raise InputError(f"{where}: {kind} = {shown(rows)} must be a list of rules, [[{kind}]] in TOML")
            made[kind] = [_rule(kind, row, f"{where}: {kind} {number}") for number, row in enumerate(rows, 1)]
        return cls(**{kind: tuple(rows) for kind, rows in made.items()})

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Plain data that ``of`` reads."""
        out: dict[str, list[dict[str, Any]]] = {}
        for kind in KINDS:
            for rule in getattr(self, kind):
                values = {field.name: getattr(rule, field.name) for field in fields(rule)}
                out.setdefault(kind, []).append({name: one for name, one in values.items() if one is not None})
        return out


def tree_of(rule: Require | Boost) -> Expression:
    """The tree of a rule's expression.  Raises InputError for one that cannot be read."""
    return parse(rule.expression or "", said(rule))


def said(rule: Rule) -> str:
    """How messages name a rule."""
    return f"rule {rule.name!r}"


def _rule(kind: str, row: Mapping[str, Any], where: str) -> Any:
    """One rule; ``where`` opens the message."""
    cls = KINDS[kind]
    where = f"{where} ({row['name']})" if isinstance(row.get("name"), str) else where
    for field in fields(cls):
        if field.default is MISSING and field.default_factory is MISSING and field.name not in row:
            raise InputError(f"{where} lacks {field.name}; give {', '.join(one.name for one in fields(cls))}")
    try:
        return cls(**row)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{cls.__name__}: ')}") from None


def _read(path: Path) -> dict[str, Any]:
    """The tables of a file."""
    said = f"rules = {str(path)!r}"
    try:
        content = path.read_bytes()
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{said} cannot be read ({error.strerror}); give a .toml or .json file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{said} cannot be read ({error}); write TOML, or JSON in a .json file") from None
    if not isinstance(tables, dict):
        raise InputError(f"{said} holds {shown(tables)}, not an object; write {{'cap': [{{…}}]}}")
    return tables
