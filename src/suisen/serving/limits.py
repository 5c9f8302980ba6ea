"""Rates: a bucket of tokens per key, or per address, which all workers of a server draw from.

Each worker writes how much it has taken into its own cells of a mapped file and reads those of the others, so that no
two write the same cell, nobody waits for a lock, and a worker that was killed has still taken what it took.
"""

import mmap
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from suisen.serving.problems import Refusal
from suisen.serving.siblings import Group

CELLS, OF_KEYS = 1 << 16, 1 << 12
"""Cells of a worker, and how many of them are keys'; of addresses, two in 61,000 share one by chance."""
ADDRESSES = 1 << 16
"""Most addresses that are remembered; who was longest not heard of has a full bucket again."""


@dataclass(slots=True)
class Bucket:
    """What one worker knows of a bucket."""

    cell: int
    level: float
    """Tokens that were left at ``at``."""
    at: float
    seen: float
    """What all workers had taken by then."""


class Limits:
    """The buckets of one worker.  All runs in its event loop; 3 µs a request, 0.3 more per further worker."""

    def __init__(self, group: Group | None = None) -> None:
        """``group``: the workers that share the buckets."""
        workers = 1 if group is None else group.workers
        if group is None:
            self._map = mmap.mmap(-1, 8 * CELLS)
        else:
            with (group.folder / "limits").open("a+b") as file:
                file.truncate(8 * CELLS * workers)
                self._map = mmap.mmap(file.fileno(), 8 * CELLS * workers)
        self._cells = memoryview(self._map).cast("d")
        self._own = 0 if group is None else CELLS * group.number
        self._all = range(0, CELLS * workers, CELLS)
        self._seed = 0 if group is None else zlib.crc32(str(group.folder).encode())
        self._keys: dict[str, Bucket] = {}
        self._addresses: dict[str, Bucket] = {}

    def know(self, names: Iterable[str]) -> None:
        """Gives each key a cell of its own, the same one in every worker that knows the same names."""
        taken: set[int] = set()
        for name in sorted(names):
            cell = zlib.crc32(name.encode()) % OF_KEYS
            while cell in taken and len(taken) < OF_KEYS:
                cell = (cell + 1) % OF_KEYS
            taken.add(cell)
            if name not in self._keys or self._keys[name].cell != cell:
                self._keys[name] = Bucket(cell, float("inf"), time.monotonic(), self._taken(cell))

    def key(self, name: str, rate: float, burst: float) -> tuple[tuple[bytes, bytes], ...]:
        """Takes a token of a key's; returns the headers that tell of the bucket.  Refuses (429) where none is left."""
        return self._take(self._keys[name], f"the key {name!r}", rate, burst)

    def address(self, address: str, rate: float, burst: float) -> tuple[tuple[bytes, bytes], ...]:
        """Takes a token of an address's, as ``key`` does."""
        bucket = self._addresses.pop(address, None)
        if bucket is None:
            cell = OF_KEYS + zlib.crc32(address.encode(), self._seed) % (CELLS - OF_KEYS)
            bucket = Bucket(cell, burst, time.monotonic(), self._taken(cell))
            if len(self._addresses) >= ADDRESSES:
                del self._addresses[next(iter(self._addresses))]
        self._addresses[address] = bucket
        return self._take(bucket, f"the address {address}", rate, burst)

    def _taken(self, cell: int) -> float:
        cells = self._cells
        return sum([cells[first + cell] for first in self._all])

    def _take(self, bucket: Bucket, who: str, rate: float, burst: float) -> tuple[tuple[bytes, bytes], ...]:
        now, taken = time.monotonic(), self._taken(bucket.cell)
        level = min(burst, bucket.level + rate * (now - bucket.at)) - (taken - bucket.seen)
        allowed = level >= 1
        if allowed:
            self._cells[self._own + bucket.cell] += 1
            level, taken = level - 1, taken + 1
        bucket.level, bucket.at, bucket.seen = level, now, taken
        told = (
            (b"ratelimit-limit", b"%d" % burst),
            (b"ratelimit-remaining", b"%d" % max(0, level)),
            (b"ratelimit-reset", b"%d" % ceil((burst - level) / rate)),
        )
        if not allowed:
            wait = b"%d" % max(1, ceil((1 - level) / rate))
            limit = f"{rate:g} requests a second, {burst:g} at once"
            raise Refusal("rate_limited", f"{who} is allowed {limit}; send fewer", (*told, (b"retry-after", wait)))
        return told
