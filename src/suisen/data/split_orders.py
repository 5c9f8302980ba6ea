"""Which positives of a visitor a rule holds out: the last by time, the last by the order of rows, or any, drawn.

A log without times has no last events; the order of its rows may be that of a warehouse.  It is therefore not used
unless it is asked for by name or the format promises it (``Log.ordered``): otherwise a draw is made, and said.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import polars as pl
import torch
from torch import Tensor

from suisen.data.dataset import Order, Split
from suisen.data.ordered import OrderedLog, tensor_of
from suisen.data.split_checks import By
from suisen.data.split_parts import Parts, visitor_split
from suisen.errors import InputError


@dataclass(frozen=True)
class Way:
    """How a rule goes through the positives of a visitor."""

    log: OrderedLog
    by: Literal["time", "order", "rows", "random", "drawn"]
    """What it goes by in truth; ``order``: the rows, as the format promises; ``drawn``: chance, for want of times."""
    order: Order
    seed: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: str, log: OrderedLog, by: By, seed: int) -> Self:
        """The way that ``by`` asks for.  Raises InputError for ``rows`` in a log with times, which are its order."""
        if by == "random":
            return cls(log, "random", "random", seed)
        if log.has_time:
            if by == "rows":
                raise InputError(f"{rule}: by = 'rows' needs a log without times; leave it out, or read with time=None")
            return cls(log, "time", "user", seed)
        if by == "rows" or log.log.ordered:
            ordered = replace(log, log=replace(log.log, ordered=True))
            return cls(ordered, "rows" if by == "rows" else "order", "place", seed)
        note = f"the log has no times: what is held out was drawn at random, seed {seed} (by='rows': by row order)"
        return cls(log, "drawn", "random", seed, (note,))

    @property
    def said(self) -> str:
        """How it is told in the protocol, behind the rule's name."""
        words = {"time": "by time", "order": "by the order of the file", "rows": "by the order of rows"}
        words |= {"random": "by random", "drawn": f"(no times: drawn at random, seed {self.seed})"}
        return f" {words[self.by]}"

    def split(self, test: Tensor, valid: Tensor, rule: str, notes: tuple[str, ...], tested: bool) -> Split:
        """``test`` and ``valid`` (n_visitors,): how many positives of each visitor go there.  ``rule``: in words.
        ``tested``: whether test is to hold something.
        """
        random = self.order == "random"
        part = drawn(self.log, test, valid, self.seed) if random else last(self.log, test, valid)
        return visitor_split(self.log, Parts(part, self.order, rule, notes=(*notes, *self.notes), tested=tested))


def last(log: OrderedLog, test: Tensor, valid: Tensor) -> Tensor:
    """(n,) parts: the last ``test`` positives of each visitor (of the target types), the ``valid`` before them, and
    what lies between.

    ``test`` and ``valid`` are (n_visitors,).
    """
    visitor = log.events.visitor
    place = log.asked_left + (~log.asked).long()  # what is not asked for stands with what is, in front of it
    held = test[visitor]
    return (place <= held).long() + (place <= held + valid[visitor]).long()


def drawn(log: OrderedLog, test: Tensor, valid: Tensor, seed: int) -> Tensor:
    """(n,) parts: of each visitor's positives ``test`` and ``valid`` (n_visitors,) drawn at random."""
    visitor, n, name = log.events.visitor, len(log.events), names_of(log)
    draw = torch.empty(n, dtype=torch.int64)
    draw[torch.argsort(name[visitor], stable=True)] = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = torch.argsort(draw)
    order = order[
        torch.argsort((visitor * 2 + (~log.asked).long())[order], stable=True)
    ]  # what may be asked for in front
    place = torch.arange(n) - log.events.offsets[visitor]  # ``order`` leaves every visitor's span where it was
    part = torch.empty(n, dtype=torch.int64)
    part[order] = (place < test[visitor]).long() + (place < (test + valid)[visitor]).long()
    return part


def names_of(log: OrderedLog) -> Tensor:
    """(n_visitors,) rank of each visitor's own id, whatever the order of the file; guests behind."""
    name = torch.arange(log.n_visitors)
    name[1 : len(log.users)] = tensor_of(log.users.raw_ids.rank("ordinal").cast(pl.Int64))
    return name
