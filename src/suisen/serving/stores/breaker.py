"""A circuit breaker: a store that fails is left alone for a while, then tried by one probe and not by everybody."""

import random
from collections.abc import Callable

FAILURES = 3
"""Failures in a row that open it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Seconds before the first probe, doubled after each that fails."""


class Breaker:
    """Open from the start: the first probe closes it.  M. Nygard, *Release It!* (2007), "Circuit Breaker"."""

    def __init__(self, on_change: Callable[[bool], None], drawn: Callable[[], float] = random.random) -> None:
        """``on_change`` is told whether it is closed now; ``drawn`` gives a number from 0 to 1."""
        self.closed = False
        self._on_change, self._drawn = on_change, drawn
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        on_change(False)

    def succeeded(self) -> None:
        """The store answered."""
        self._failures = 0

    def failed(self) -> None:
        """The store did not answer; the third time in a row opens the breaker."""
        self._failures += 1
        if self.closed and self._failures >= FAILURES:
            self.closed = False
            self._on_change(False)

    def close(self) -> None:
        """A probe was answered."""
        self._failures, self._pause_s = 0, FIRST_PAUSE_S
        self.closed = True
        self._on_change(True)

    def pause(self) -> float:
        """Seconds until the next probe, half to one and a half times what is due: servers must not probe in step."""
        due = self._pause_s
        self._pause_s = min(2 * due, LONGEST_PAUSE_S)
        return due * (0.5 + self._drawn())
