"""Brings what a server serves: a System as it is, or that of a bundle, its parity fixture replayed."""

from pathlib import Path

from suisen.recommending import bundle, parity
from suisen.recommending.system import System


def loaded(source: Path | System, held: bool = False) -> System:
    """The System, its parity fixture replayed where it comes from a bundle; ``held``: a copy that was verified."""
    if isinstance(source, System):
        return source
    system = bundle.load(source, held=held)
    parity.check(system, bundle.fixture(source))
    return system
