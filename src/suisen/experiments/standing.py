"""Where an analysis stands: the look that it is, looks that were taken, and what forbids a verdict."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Look:
    """Where a sequential plan stands."""

    kind: Literal["fixed", "always-valid", "group"]
    fraction: float | None
    """Units (or time) seen as a share of what was planned; None: nothing was planned."""
    said: str
    """In words, for the report."""
    named: str = ""
    """group: which look it is, in words, without how alpha is spent."""
    early: bool = False
    """Looked at before the end without a sequential plan."""
    reached: bool = False
    """One look, at what was planned."""
    number: int = 0
    """group: which look, from 1; 0: before the first."""
    of: int = 0
    bound: float | None = None
    """group: the bound on |z| at this look."""
    spent: float | None = None
    """group: alpha spent on this look and those before it."""
    unplanned: bool = False
    """group: one more than was planned until here."""
    barred: str = ""
    """group: why these data give no new chance to find an effect; empty: they do."""
    order: int = 1
    """Which look was taken, from 1, as far as it is known."""
    units: int = 0
    sample: int | None = None
    """Units that were seen, and that were planned."""
    until: str = ""
    """Moment of the look, ISO 8601 UTC."""

    @property
    def doubt(self) -> str:
        """What a reader has to know of a look that was not planned, in words; else empty."""
        if self.early or (self.kind == "fixed" and self.order > 1):
            return f"looks: {self.said}, so significance is overstated"
        return f"looks: {self.said}" if self.unplanned and not self.barred else ""


@dataclass(frozen=True)
class Taken:
    """A look that was taken, as it is kept for the next one."""

    kind: Literal["fixed", "always-valid", "group"]
    share: float | None
    """Units (or time) seen as a share of what was planned."""
    units: int
    until: str
    """The data's moment, ISO 8601 UTC."""
    number: int
    """group: which planned look it was, from 1; 0: it was before the first."""
    spent: float | None
    """group: alpha spent until then."""
    bound: float | None
    """group: the bound on |z|; None: it gave no chance to find an effect."""
    verdict: str
    when: str
    """By the clock, ISO 8601 UTC."""
    judged: bool = True
    """False: something blocked its verdict, so it gave no chance to find an effect and counts as none."""

    def __str__(self) -> str:
        share = "" if self.share is None else f", {100 * self.share:.3g} % of what was planned"
        spent = "" if self.spent is None else f", alpha {self.spent:.3g} spent until then"
        return f"{self.when}: {self.units:,} units{share}{spent}: {self.verdict}"


@dataclass(frozen=True)
class Block:
    """Why there is no verdict."""

    why: Literal["sample ratio", "contamination", "no new look", "too early"]
    said: str
    """What is the case, in words."""
    todo: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"No verdict{' yet' * (self.why == 'too early')}: {self.said}; {self.todo}"
