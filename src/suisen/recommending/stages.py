"""Who wants to know how long stages of an answer take, and what each made, is told without an argument through all
functions.

    with listening(told): answer(…)      # told("retrieve", 0.0012), told("rank", 0.0031), …
    with watching(seen): answer(…)       # seen("retrieve", ids, scores), seen("rank", ids, scores), …

A stage costs 0.1 µs where nobody listens, and as much where nobody watches.  Each thread has its own of both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

from torch import Tensor

Told = Callable[[str, float], object]
"""Called with a stage's name and its seconds."""
Seen = Callable[[str, Tensor, Tensor], object]
"""Called with a stage's name, the (B, C) dense ids that it made, 0 = none, and their (B, C) scores, in its order."""
_listener: ContextVar[Told | None] = ContextVar("stages", default=None)
_watcher: ContextVar[Seen | None] = ContextVar("lists", default=None)


@contextmanager
def listening(told: Told | None) -> Iterator[None]:
    """``told`` hears of the stages in this block."""
    token = _listener.set(told)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def watching(seen: Seen | None) -> Iterator[None]:
    """``seen`` is given what the stages of ``Engine.lists`` make in this block, a chunk of contexts at a time."""
    token = _watcher.set(seen)
    try:
        yield
    finally:
        _watcher.reset(token)


def ended(stage: str, began: float) -> float:
    """Tells that a stage which began at ``began`` (``perf_counter``) is over; returns the time: the next begins."""
    now = perf_counter()
    told = _listener.get()
    if told is not None:
        told(stage, now - began)
    return now


def made(stage: str, ids: Tensor, scores: Tensor) -> None:
    """Shows what a stage made; see ``Seen``."""
    seen = _watcher.get()
    if seen is not None:
        seen(stage, ids, scores)
