"""Who wants to know how long the stages of an answer take is told, without an argument through every function.

    with listening(told): answer(…)      # told("retrieve", 0.0012), told("rank", 0.0031), …

A stage costs 0.1 µs where nobody listens.  Each thread has a listener of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

Told = Callable[[str, float], object]
"""Called with a stage's name and its seconds."""
_listener: ContextVar[Told | None] = ContextVar("stages", default=None)


@contextmanager
def listening(told: Told | None) -> Iterator[None]:
    """``told`` hears of the stages in this block."""
    token = _listener.set(told)
    try:
        yield
    finally:
        _listener.reset(token)


def ended(stage: str, began: float) -> float:
    """Tells that a stage which began at ``began`` (``perf_counter``) is over; returns the time: the next begins."""
    now = perf_counter()
    told = _listener.get()
    if told is not None:
        told(stage, now - began)
    return now
