"""Expressions bound to a catalogue: what depends on the items alone is computed once, the rest per kind of request.

A predicate answers in two steps.  ``key`` makes of a request what its answer depends on: where a column is compared
with what the request brings, the codes that pass, found by a binary search.  ``truth`` makes of a key where it is true,
one look-up per item.  Requests of one key share that, so that it is kept by key.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np

from suisen.arguments import shown
from suisen.errors import InputError
from suisen.recommending.rules.columns import Bools, Coded, Columns, Truth, as_number, listed
from suisen.recommending.rules.language import (
    And,
    Column,
    Comparison,
    Expression,
    IsNull,
    Not,
    Operand,
    Or,
    Request,
    Sign,
    Value,
)

Asked = Mapping[str, Any]
"""Name → what a request brings under it; None: nothing."""
FLIPPED: dict[Sign, Sign] = {"==": "==", "<": ">", "<=": ">=", ">": "<", ">=": "<=", "in": "in"}
NOT_KNOWN = Truth(np.zeros((), dtype=np.bool_), np.zeros((), dtype=np.bool_))


class Predicate(Protocol):
    """An expression, or a part of one, over one catalogue."""

    def key(self, asked: Asked) -> Hashable:
        """What its truth depends on, of a request.  Raises InputError for a value of another type."""

    def truth(self, key: Any) -> Truth:
        """Where it is true and where it is false."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """Of the catalogue alone."""

    fixed: Truth

    def key(self, asked: Asked) -> Hashable:
        """The same for all."""
        return ()

    def truth(self, key: Hashable) -> Truth:
        """Known since it was bound."""
        return self.fixed


@dataclass(frozen=True, eq=False)
class Lookup:
    """A column compared with what the request brings."""

    column: Coded
    sign: Sign
    name: str
    where: str

    def key(self, asked: Asked) -> Hashable:
        """The codes that pass; None where the request brings nothing."""
        value = asked[self.name]
        return None if value is None else self.column.key(self.sign, value, f"{self.where}: request.{self.name}")

    def truth(self, key: Any) -> Truth:
        """One look-up per item."""
        return NOT_KNOWN if key is None else self.column.truth(key)


@dataclass(frozen=True, eq=False)
class Said:
    """Values of the request compared with each other or with one of the rule: all items are alike."""

    left: Operand
    sign: Sign
    right: Operand
    where: str

    def key(self, asked: Asked) -> Hashable:
        """True, False, or None where the request brings nothing."""
        left, right = (one.value if isinstance(one, Value) else asked[_named(one)] for one in (self.left, self.right))
        return None if left is None or right is None else _compared(left, self.sign, right, self.where)

    def truth(self, key: Any) -> Truth:
        """Of all items."""
        return Truth(np.asarray(key is True), np.asarray(key is False))


@dataclass(frozen=True, eq=False)
class Missing:
    """Whether the request brings nothing under a name."""

    name: str

    def key(self, asked: Asked) -> Hashable:
        """True or False."""
        return asked[self.name] is None

    def truth(self, key: Any) -> Truth:
        """Of all items."""
        return Truth(np.asarray(key), np.asarray(not key))


@dataclass(frozen=True, eq=False)
class Negated:
    """The opposite of a part."""

    part: Predicate

    def key(self, asked: Asked) -> Hashable:
        """That of the part."""
        return self.part.key(asked)

    def truth(self, key: Any) -> Truth:
        """True and false change places."""
        yes, no = self.part.truth(key)
        return Truth(no, yes)


@dataclass(frozen=True, eq=False)
class Joined:
    """Parts joined by and, or by or."""

    parts: Sequence[Predicate]
    every: bool

    def key(self, asked: Asked) -> Hashable:
        """Those of the parts."""
        return tuple(part.key(asked) for part in self.parts)

    def truth(self, key: Any) -> Truth:
        """A pass over the items per part."""
        found = [part.truth(one) for part, one in zip(self.parts, key, strict=True)]
        return reduce(_both if self.every else _either, found)


def _both(a: Truth, b: Truth) -> Truth:
    return Truth(a.yes & b.yes, a.no | b.no)


def _either(a: Truth, b: Truth) -> Truth:
    return Truth(a.yes | b.yes, a.no & b.no)


# -- binding -----------------------------------------------------------------------------------------------------------


def bind(tree: Expression, columns: Columns, where: str) -> Predicate:
    """An expression over a catalogue.  ``where`` opens the messages.

    Raises InputError for a column that does not exist and for comparisons of types that do not go together.
    """
    match tree:
        case Not(part):
            bound = bind(part, columns, where)
            negated = Negated(bound)
            return Fixed(negated.truth(())) if isinstance(bound, Fixed) else negated
        case And(parts) | Or(parts):
            return _joined([bind(part, columns, where) for part in parts], isinstance(tree, And))
        case IsNull(Column(name)):
            known = columns.of(name, where).known
            return Fixed(Truth(~known, known))
        case IsNull(Request(name)):
            return Missing(name)
        case Comparison(left, "in", right):
            return _member(left, right, columns, where)
        case Comparison(left, sign, right):
            if not isinstance(left, Column):
                left, sign, right = right, FLIPPED[sign], left
            if not isinstance(left, Column):
                return Said(right, FLIPPED[sign], left, where)
            column = columns.of(left.name, where)
            column.check(sign, where)
            if isinstance(right, Column):
                return Fixed(_column_by_column(column, sign, columns.of(right.name, where), where))
            return _of_column(column, sign, right, where)
    raise TypeError(f"{tree!r} is no expression")


def _joined(parts: Sequence[Predicate], every: bool) -> Predicate:
    """Those parts that are fixed become one."""
    fixed = [part.fixed for part in parts if isinstance(part, Fixed)]
    others = [part for part in parts if not isinstance(part, Fixed)]
    if not fixed:
        return Joined(others, every)
    one = Fixed(reduce(_both if every else _either, fixed))
    return Joined([one, *others], every) if others else one


def _member(left: Operand, right: Operand, columns: Columns, where: str) -> Predicate:
    """``left in right``."""
    if isinstance(right, Column):
        column = columns.of(right.name, where)
        if isinstance(left, Column):
            raise InputError(f"{where}: {left.name} in {right.name}: no rule looks one column up in another")
        if not column.several:
            raise InputError(f"{where}: {right.name} holds one value per item; write == in place of in")
        return _of_column(column, "==", left, where)
    if isinstance(left, Column):
        return _of_column(columns.of(left.name, where), "in", right, where)
    return Said(left, "in", right, where)


def _of_column(column: Coded, sign: Sign, other: Operand, where: str) -> Predicate:
    """A column compared with a value of the rule, now, or with one of the request, later."""
    if isinstance(other, Value):
        return Fixed(column.truth(column.key(sign, other.value, f"{where}: the value beside {column.name}")))
    return Lookup(column, sign, _named(other), where)


def _column_by_column(a: Coded, sign: Sign, b: Coded, where: str) -> Truth:
    """Where one column compares so with the other, item by item."""
    if a.several or b.several or a.kind != b.kind:
        kinds = [f"{one.name} holds {'several values' if one.several else one.kind}" for one in (a, b)]
        raise InputError(f"{where}: {' and '.join(kinds)}; compare columns of one kind with one value per item")
    known = a.known & b.known
    if a.kind == "texts":
        other = np.array([a.texts.get(text, -2) for text in b.texts] + [-2])
        holds: Bools = a.codes == other[b.codes]
    else:
        left, right = (np.append(one.values, 0.0)[one.codes] for one in (a, b))
        compare = {"==": np.equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
        holds = compare[sign](left, right)
    return Truth(known & holds, known & ~holds)


def _named(operand: Operand) -> str:
    """The name of a column or of what a request brings."""
    if isinstance(operand, Value):
        raise TypeError(f"{operand!r} has no name")
    return operand.name


def _compared(left: Any, sign: Sign, right: Any, where: str) -> bool:
    """Two values compared.  Raises InputError where their types do not go together."""
    if sign == "in":
        return any([_compared(left, "==", one, where) for one in listed(right, f"{where}: what stands behind in")])
    if isinstance(left, str) != isinstance(right, str):
        left, right = as_number(left), as_number(right)
    said = f"{where}: {shown(left)} {sign} {shown(right)}"
    kinds = {float if type(one) is int else type(one) for one in (left, right)}
    if len(kinds) > 1 or not kinds <= {bool, float, str}:
        raise InputError(f"{said} compares different kinds; give values of one kind")
    if sign != "==" and kinds != {float}:
        raise InputError(f"{said}: only numbers have an order here; use == or in")
    by_sign = {"==": left == right, "<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}
    return bool(by_sign[sign])
