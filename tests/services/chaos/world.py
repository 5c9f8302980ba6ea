"""Two versions of a bundle, one that is corrupt, and what each must answer offline."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import suisen as su
from suisen.recommending import bundle
from suisen.recommending.answering import answer
from suisen.recommending.queries import RawQueries, RecommendOptions

K = 10
LISTS = 256
"""Lists that are computed together offline."""
USERS, ITEMS = 300, 800
ACTING = 40
"""Users whose events are sent."""
NEAR = 1e-4
"""Scores this near, relative to the largest of a list, may stand in either order: sums of floats in another order."""


@dataclass(frozen=True)
class Asked:
    """A query whose answer is known offline."""

    user: str
    events: tuple[str, ...] = ()
    """Items of the user's events since the bundle was made, in the order of their times."""
    precise: bool = False


Ranked = tuple[tuple[str, float], ...]


class Version:
    """One bundle, and its offline answers."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.system = bundle.load(place)
        self.name = self.system.version
        self._history = lru_cache(None)(self._stored)
        self._lists: dict[Asked, Ranked] = {}

    def _stored(self, user: str) -> list[str]:
        dense = self.system.store.users.dense_one(user)
        if not dense:
            return []
        stored = self.system.store.histories
        values = stored.values[int(stored.offsets[dense]) : int(stored.offsets[dense + 1])]
        return [str(raw) for raw in self.system.store.items.raw(values.numpy()).to_list()]

    def learn(self, asked: Sequence[Asked]) -> None:
        """Computes the lists that are not known yet."""
        new = list(dict.fromkeys(one for one in asked if one not in self._lists))
        for precise in (False, True):
            mine = [one for one in new if one.precise == precise]
            for start in range(0, len(mine), LISTS):
                self._compute(mine[start : start + LISTS], precise)

    def _compute(self, asked: list[Asked], precise: bool) -> None:
        histories = [[*self._history(one.user), *one.events] if one.events else None for one in asked]
        queries = RawQueries([one.user for one in asked], history=histories if any(histories) else None)
        found = answer(self.system, queries, RecommendOptions(k=K, unknown="popular", precise=precise))
        for one, ids, scores in zip(asked, found.items, found.scores.tolist(), strict=True):
            raw = self.system.store.items.raw(ids.numpy()).to_list()
            self._lists[one] = tuple((str(item), score) for item, score in zip(raw, scores, strict=True))

    def agrees(self, asked: Asked, items: Sequence[str]) -> bool:
        """Whether a served list is the offline one, up to the order of scores that are equal but for rounding."""
        expected = self._lists[asked]
        if tuple(item for item, _ in expected) == tuple(items):
            return True
        size = max(1.0, *(abs(score) for _, score in expected))
        at = dict(expected)
        if len(items) != len(expected):
            return False
        last = expected[-1][1]
        return all(abs(at.get(item, last) - score) <= NEAR * size for item, (_, score) in zip(items, expected))


def make(folder: Path, seed: int) -> tuple[list[Path], Path]:
    """(two sound bundles, a corrupt one) in a folder; made where they are missing."""
    places = [folder / "a", folder / "b"]
    if not all((place / "manifest.json").exists() for place in places):
        log = su.World(users=USERS, items=ITEMS, sessions=6, repeats=False, seed=seed).generate().log
        data = su.Dataset.of(log)
        for number, place in enumerate(places):
            rec = su.Recommender(
                su.TwoTower(dim=24 + 8 * number, epochs=2), su.FM(dim=8, epochs=1), candidates=100, seed=seed + number
            )
            rec.fit(data).save(place)
    corrupt = folder / "corrupt"
    shutil.rmtree(corrupt, ignore_errors=True)
    shutil.copytree(places[1], corrupt)
    weights = corrupt / "retriever.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    return places, corrupt


def people(place: Path) -> tuple[list[str], list[str], list[str]]:
    """(users who do nothing, users who act, items that they may take) of a bundle."""
    store = bundle.load(place).store
    users = [str(raw) for raw in store.users.raw_ids.to_list()]
    items = [str(raw) for raw in store.items.raw_ids.to_list()]
    return users[ACTING:], users[:ACTING], items
