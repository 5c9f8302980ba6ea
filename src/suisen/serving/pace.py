"""How long what is held will take, learnt from how long it took; beyond a bound of time nothing more is taken in.

A queue bounded by a number of rows is too long for a slow model and too short for a fast one.  Here each job has a
price (``serving.pricing``), and a moving estimate says how long a call of the model takes on this machine under this
load: a part that every call has, and a part per unit of price.  With one part alone, calls of few units, which are all
that comes where much is refused, would make units look dear, and nothing would be taken in any more.
"""

from __future__ import annotations

import math

from suisen.serving.problems import Refusal

UNIT_S = 1e-6
"""Seconds per unit of price before any was measured."""
LEARNT = 0.1
"""Weight of the newest call of the model in the estimate."""
JUMP = 10.0
"""A call changes the estimate as if it had taken at most so many times as long as expected, and at least 1 / JUMP."""
FORGOT = 0.01
"""By this share the largest call is forgotten with every call."""
SPREAD = 0.2
"""Standard deviation of the calls' prices, as a share of their mean, from which the two parts are told apart."""
LEAST = 0.01
"""Least share of the time of a mean call that is due to its units."""


class Pace:
    """What one worker holds.  Everything is called in the event loop but ``took``; a job costs 0.3 µs."""

    def __init__(self, name: str, max_rows: int, deadline_s: float = math.inf, share: float = 1.0) -> None:
        """``share``: of the deadline, the most that what is held may take where something more is to be taken in."""
        self.name, self.rows, self.units = name, 0, 0.0
        self.call_s, self.unit_s = 0.0, UNIT_S
        """Seconds of a call beside its units, and per unit: the estimate."""
        self._units = self._seconds = self._spread = self._slope = 0.0
        """Moving means of the calls, variance of their units and covariance with their seconds."""
        self._largest = math.inf
        """Units of the largest call of late."""
        self._max_rows, self._deadline_s, self._most_s = max_rows, deadline_s, deadline_s * share

    @property
    def wait_s(self) -> float:
        """Seconds until what is held is done."""
        return self.lasts(self.units) if self.rows else 0.0

    def lasts(self, units: float) -> float:
        """Seconds of so many units, in as many calls as they are, if each is as large as the largest of late."""
        return self.call_s * max(1.0, units / self._largest) + units * self.unit_s

    def take(self, rows: int, units: float) -> None:
        """Holds a job.  Refuses it (503) where it would wait too long, or end too late; a job alone is taken."""
        if self.rows:
            late = self.lasts(self.units + units) > self._deadline_s
            if late or self.wait_s > self._most_s or self.rows + rows > self._max_rows:
                raise self.refusal()
        self.rows += rows
        self.units += units

    def check(self) -> None:
        """Refuses what is not read yet, where not even a row could be taken."""
        if self.rows and (self.wait_s > self._most_s or self.rows >= self._max_rows):
            raise self.refusal()

    def gave(self, rows: int, units: float) -> None:
        """Lets go of what is done, or was given up."""
        self.rows -= rows
        self.units = max(0.0, self.units - units) if self.rows else 0.0  # floats do not add up to nothing

    def took(self, units: float, seconds: float) -> None:
        """Learns from a call of the model."""
        if units <= 0:
            return
        expected = self.lasts(units)
        seconds = min(max(seconds, expected / JUMP), expected * JUMP)
        if not self._units:
            self._units, self._seconds, self._largest = units, seconds, units
        self._largest = max(units, self._largest * (1 - FORGOT))
        more, longer = units - self._units, seconds - self._seconds
        self._units += LEARNT * more
        self._seconds += LEARNT * longer
        self._spread = (1 - LEARNT) * (self._spread + LEARNT * more * more)
        self._slope = (1 - LEARNT) * (self._slope + LEARNT * more * longer)
        mean = self._seconds / self._units
        told_apart = self._spread > (SPREAD * self._units) ** 2
        self.unit_s = min(mean, max(LEAST * mean, self._slope / self._spread if told_apart else self.unit_s))
        self.call_s = max(0.0, self._seconds - self.unit_s * self._units)

    def refusal(self) -> Refusal:
        """What the caller is told: how much waits, and when it should be done."""
        wait = self.wait_s
        about = f" for about {wait:.2g} s" if math.isfinite(self._most_s) else ""
        again = "in a second" if wait <= 1 else f"in {math.ceil(wait)} seconds"
        return Refusal(
            "overloaded", f"{self.rows} queries are waiting{about} for {self.name}; try again {again}", retry_s=wait
        )


def late(deadline_s: float) -> Refusal:
    """The refusal of what would be answered too late."""
    return Refusal("deadline_exceeded", f"no answer within {deadline_s:g} s; ask for less, or later")


def gone() -> Refusal:
    """The answer to a client that left; nobody reads it, and the metrics do not take it for a failure of the server."""
    return Refusal("malformed_request", "the client left before its answer")
