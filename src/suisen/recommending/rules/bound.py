"""Rules bound to a catalogue: which items lists may hold, what caps count, which items are pinned, what is boosted."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suisen.data.durations import duration
from suisen.errors import InputError
from suisen.recommending.engine import Open
from suisen.recommending.rules.columns import Bools, Coded, Columns
from suisen.recommending.rules.declared import Boost, Pin, Rules, said, tree_of
from suisen.recommending.rules.filling import Floats, Ints
from suisen.recommending.rules.language import Request, operands
from suisen.recommending.rules.predicates import Asked, Fixed, Predicate, bind
from suisen.recommending.store import Store

KEPT_BYTES = 64 << 20
"""Memory for what lists may hold by what requests bring, 9 bytes per item each; ``LEAST_KEPT`` are kept in any case."""
LEAST_KEPT = 8
NEW, OLD = np.inf, -np.inf
"""First events of an item that nobody took, and of one that only guests took: a bundle does not keep their events."""


class Required(NamedTuple):
    """An expression bound to the catalogue."""

    name: str
    predicate: Predicate
    names: tuple[str, ...]
    """What it asks a request for."""
    needed: tuple[str, ...]
    """Names that a request must bring: those that the expression never asks to be null."""


class Opened(NamedTuple):
    """What lists may hold under the rules, for requests that bring the same."""

    open: Open
    refused: tuple[int, ...]
    """Items that each expression refuses, of those that lists may hold without rules."""
    pins: Bools
    """(pins,) whether each pinned item is allowed."""


@dataclass(frozen=True, eq=False)
class Boosted:
    """A boost and what it needs of each item."""

    rule: Boost
    weights: Floats
    """(n_items,) float32: 1 where the expression is true, else 0."""
    since: npt.NDArray[np.float64] | None
    """(n_items,) float64 microseconds since 1970; None: age does not matter."""
    half_life: float
    """Microseconds."""

    def of(self, items: Ints, at: Ints) -> Floats:
        """(B, n) float32: what the boost of each of (B, n) items is to be multiplied with, at (B,) times."""
        weights: Floats = self.weights[items]
        if self.since is None:
            return weights
        age = np.maximum(at[:, None] - self.since[items], 0.0)
        return (weights * np.exp2(-age / self.half_life)).astype(np.float32)


class BoundRules:
    """Rules over one catalogue.  Any thread may ask.

    Raises InputError naming the rule for a column or a pinned item that the catalogue does not have, and for an
    expression over the catalogue alone that no item meets.
    """

    def __init__(self, rules: Rules, store: Store) -> None:
        self.rules, self.names = rules, tuple(rule.name for rule in rules.all)
        columns = Columns(store)
        self.required = tuple(_required(rules, columns))
        self.caps: tuple[Coded, ...] = tuple(columns.of(cap.column, said(cap)) for cap in rules.cap)
        self.pinned = torch.from_numpy(np.array([_item(store, pin) for pin in rules.pin], dtype=np.int64))
        self.boosts = tuple(_boosted(boost, columns) for boost in rules.boost)
        self.request = frozenset(name for one in self.required for name in one.names)
        """Names of what requests are asked for."""
        self._size, self._store = len(store.trained_items), store
        self._base: Open | None = None
        self._kept: OrderedDict[Hashable, Opened] = OrderedDict()
        self._lock = Lock()
        self._most = max(LEAST_KEPT, KEPT_BYTES // (9 * self._size))
        _check_some_are_left(self.required, self._size)

    def __bool__(self) -> bool:
        return bool(self.rules)

    # -- expressions ------------------------------------------------------------------------------------------------

    def key(self, asked: Asked) -> Hashable:
        """What a request's allowed items depend on.  Raises InputError where it lacks what a rule needs."""
        for one in self.required:
            for name in one.needed:
                if asked[name] is None:
                    raise InputError(
                        f"rule {one.name!r} needs request.{name}, and neither the query nor the user table has it; "
                        f"give {name} in context=, or let the rule say what holds where request.{name} is null"
                    )
        return tuple(one.predicate.key(asked) for one in self.required)

    def opened(self, key: Hashable, open_: Open) -> Opened:
        """What lists may hold for requests of a key, where they may hold ``open_`` without rules.

        Kept by key: a pass over the items per expression where it is missed, else a look-up.
        """
        with self._lock:
            if self._base is not open_:
                self._kept.clear()
                self._base = open_
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = self._made(key, open_)
        with self._lock:
            if self._base is open_:
                self._kept[key] = made
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return made

    def always(self, open_: Open) -> Tensor:
        """(n_items,) bool: what lists may hold whatever a request brings: by expressions over the catalogue alone."""
        fixed = [one.predicate.fixed.yes for one in self.required if isinstance(one.predicate, Fixed)]
        return torch.from_numpy(np.logical_and.reduce([open_.mask.numpy(), *fixed])) if fixed else open_.mask

    def _made(self, key: Hashable, open_: Open) -> Opened:
        base, fits, refused = open_.mask.numpy(), np.ones(self._size, dtype=np.bool_), []
        for one, part in zip(self.required, key, strict=True):  # type: ignore[call-overload]
            yes = one.predicate.truth(part).yes
            refused.append(int((base & ~yes).sum()))
            fits &= yes
        opened = self._open(base & fits, open_) if any(refused) else open_
        free = fits[self.pinned.numpy()]
        if open_.blocked is not None:
            free &= ~torch.isin(self.pinned, open_.blocked).numpy()
        return Opened(opened, tuple(refused), free)

    def _open(self, mask: Bools, base: Open) -> Open:
        """What lists may hold of ``base`` where ``mask`` is true."""
        kept = torch.from_numpy(mask)
        popular = self._store.popular if base.popular is None else base.popular
        return Open(kept, int(mask.sum()), popular[kept[popular]], base.blocked)


def _required(rules: Rules, columns: Columns) -> list[Required]:
    out = []
    for rule in rules.require:
        tree = tree_of(rule)
        found = [(one.name, null) for one, null in operands(tree) if isinstance(one, Request)]
        names = {name for name, _ in found}
        needed = names - {name for name, null in found if null}
        out.append(Required(rule.name, bind(tree, columns, said(rule)), tuple(sorted(names)), tuple(sorted(needed))))
    return out


def _check_some_are_left(required: Sequence[Required], size: int) -> None:
    """Raises InputError where an expression over the catalogue alone refuses every item: no list would hold any."""
    for one in required:
        if isinstance(one.predicate, Fixed) and not np.any(one.predicate.fixed.yes[1:]):
            raise InputError(f"rule {one.name!r} is true of none of {size - 1:,} items; mend its expression or drop it")


def _item(store: Store, pin: Pin) -> int:
    """The dense id of a pinned item."""
    dense = int(store.items.dense([pin.item])[0])
    if not dense:
        raise InputError(f"{said(pin)}: item {pin.item!r} is unknown; items are those of train and of the item table")
    return dense


def _boosted(boost: Boost, columns: Columns) -> Boosted:
    store = columns.store
    weights = np.ones(len(store.trained_items), dtype=np.float32)
    if boost.expression is not None:
        predicate = bind(tree_of(boost), columns, said(boost))
        if not isinstance(predicate, Fixed):
            raise InputError(f"{said(boost)}: a boost reads the catalogue alone; leave request.NAME out")
        weights = predicate.fixed.yes.astype(np.float32)
    if boost.half_life is None:
        return Boosted(boost, weights, None, 1.0)
    since = _first_events(store, boost) if boost.since is None else _since(columns, boost, boost.since)
    return Boosted(boost, weights, since, float(duration("half_life", boost.half_life)))


def _since(columns: Columns, boost: Boost, name: str) -> npt.NDArray[np.float64]:
    """(n_items,) the times of a column; the earliest of all where an item has none."""
    column = columns.of(name, said(boost))
    if column.kind != "times" or column.several:
        held = "several values" if column.several else column.kind
        raise InputError(f"{said(boost)}: since = {name!r} holds {held}; name a column of times, one per item")
    return np.append(column.values, OLD)[column.codes]


def _first_events(store: Store, boost: Boost) -> npt.NDArray[np.float64]:
    """(n_items,) the time of each item's first event among those of users.  One pass over the events."""
    if not store.has_time:
        raise InputError(f"{said(boost)}: the events have no times, so no item has an age; name a column with since=")
    first = torch.full((len(store.trained_items),), NEW, dtype=torch.float64)
    first.scatter_reduce_(0, store.histories.values, store.history_times.double(), "amin")
    first[(first == NEW) & (store.item_counts > 0)] = OLD
    return first.numpy()
