"""Facts of a data set for people: counts, times, sparsity, the long tail, and the schema that models see."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from suisen.data.dataset import Dataset
from suisen.data.durations import spelt
from suisen.data.encode import Column
from suisen.data.ordered import OrderedLog
from suisen.pages.report import DataFacts
from suisen.pages.report_charts import tail_share
from suisen.pages.words import span
from suisen.pipeline.recommender import Recommender
from suisen.recommending.sources import stages_of

HEAD = 0.1
"""Share of the items that is the head of the tail."""
POINTS = 50
"""Points of the curve of the long tail."""
EARLY = 2
"""A best epoch up to this one is suspiciously early."""
CALMER = {"dropout": "more", "l2": "more", "dim": "a smaller"}
"""Settings that keep a model from learning by heart, and which way to turn them."""
LOSSES = (" dropped", " repeat another")
"""Words of reading's notes on rows that are lost or doubtful."""
STRETCHES = 60
"""Equal stretches of time that events are counted in."""
SHOWN = 4
"""Values of a vocabulary that are shown."""


def data_facts(data: OrderedLog) -> dict[str, Any]:
    """Counts of a data set, as JSON holds them."""
    events = data.events
    users, items = int(data.trained_users.sum()), int(data.trained_items.sum())
    guests = int((events.offsets.diff()[len(data.users) :] > 0).sum())
    lengths = events.offsets.diff()
    lengths = lengths[lengths > 0].float()
    per_user = {"mean": float(lengths.mean()), "median": float(lengths.median()), "most": int(lengths.max())}
    return {
        "events": len(events),
        "positives": int(data.positive.sum()),
        "users": users,
        "users_declared": len(data.users) - 1,
        "guest_sessions": guests,
        "items": items,
        "items_declared": len(data.items) - 1,
        "first": spelt(int(events.time.min())) if data.has_time else None,
        "last": spelt(int(events.time.max())) if data.has_time else None,
        "repeats": repeats(data),
        "density": len(events) / max(1, (users + guests) * items),
        "events_per_user": per_user,
        "head_share": tail_share(data.item_counts[data.item_counts > 0], HEAD),
        "tail": tail(data),
        "fingerprint": fingerprint(data),
    }


def repeats(data: OrderedLog) -> int:
    """Events of a user (or guest) and an item that have an earlier event: what a rule that hides seen items hides."""
    events = data.events
    return len(events) - pl.Series((events.visitor * len(data.items) + events.item).numpy()).n_unique()


def facts_of(name: str, data: OrderedLog, parts: Mapping[str, Any], seen_excluded: bool = True) -> DataFacts:
    """The same for a page, with what the split made of the log (``Split.facts``)."""
    facts, events = data_facts(data), data.events
    lengths = events.offsets.diff()
    return DataFacts(
        name=name,
        users=facts["users"],
        items=facts["items"],
        events=facts["events"],
        guests=facts["guest_sessions"],
        first=facts["first"] or "",
        last=facts["last"] or "",
        timeline=tuple(_histogram(events.time)) if data.has_time else (),
        item_counts=torch.bincount(events.item, minlength=len(data.items))[1:].tolist(),
        history_lengths=lengths[lengths > 0].tolist(),
        repeats=facts["repeats"],
        seen_excluded=seen_excluded,
        losses=tuple(note for note in data.log.notes if any(word in note for word in LOSSES)),
        parts={part.replace("_", " "): int(value) for part, value in parts.items()},
    )


def _histogram(times: Tensor) -> list[int]:
    """Events in equal stretches of time."""
    since = (times - times.min()).double()
    place_of = (since / since.max().clamp(min=1) * STRETCHES).long().clamp(max=STRETCHES - 1)
    counts: list[int] = torch.bincount(place_of, minlength=STRETCHES).tolist()
    return counts


def tail(data: OrderedLog) -> list[tuple[float, float]]:
    """The long tail as a curve: (share of the items, most popular first; share of the positives on them)."""
    counts = data.item_counts[data.item_counts > 0].sort(descending=True).values.double()
    total = counts.cumsum(0) / counts.sum()
    at = torch.linspace(0, max(0, counts.numel() - 1), min(POINTS, counts.numel())).long().tolist()
    return [(0.0, 0.0), *(((i + 1) / counts.numel(), float(total[i])) for i in sorted(set(at)))]


def fingerprint(data: OrderedLog) -> str:
    """What two runs on the same data share: its size and the sums of its events."""
    events = data.events
    place = torch.arange(1, len(events) + 1) % 65_521
    mix = int(((events.visitor * 31 + events.item * 17 + events.time % 1_000_003) * place).sum())
    return f"{len(events)}-{len(data.users) - 1}-{len(data.items) - 1}-{mix & 0xFFFFFFFFFFFFFFFF:016x}"


def schema_rows(data: Dataset) -> list[tuple[str, str, str, str]]:
    """(of what, field, kind, values) of every column that the data set knows."""
    ids = [("user", data.users), ("item", data.items)]
    types = {owner: "integers" if of.raw_ids.dtype.is_integer() else "texts" for owner, of in ids}
    out = [(owner, owner, "id", f"{len(of) - 1:,} {types[owner]}") for owner, of in ids]
    columns = [name for name in ("time", "label", "weight", "session") if name in data.log.events.columns]
    out += [("event", name, name, _of_event(data, name)) for name in columns]
    for owner, encoder in data.encoders.items():
        out += [(owner, column.name, column.kind, _values(column)) for column in encoder.columns]
    return out


def _of_event(data: Dataset, name: str) -> str:
    if name == "time":
        return f"{spelt(int(data.events.time.min()))} to {spelt(int(data.events.time.max()))}"
    column = data.log.events[name]
    if name == "label":
        return f"{int(data.positive.sum()):,} positives of {column.len():,}"
    if name == "weight":
        return f"{column.min()!s} to {column.max()!s}"
    return f"{column.n_unique():,} different"


def _values(column: Column) -> str:
    if column.kind == "text":
        return "shown to people, not to models"
    if column.kind == "numeric":
        return f"mean {column.mean:g}, spread {column.scale:g}"
    shown = ", ".join(column.vocabulary[:SHOWN])
    return f"{len(column.vocabulary):,}: {shown}{', …' if len(column.vocabulary) > SHOWN else ''}"


def advice(recommender: Recommender) -> list[str]:
    """What to try where a model was at its best after an epoch or two and then only got worse."""
    out = []
    stages = {**stages_of(recommender.retriever), "ranker": recommender.ranker}
    for stage, model in stages.items():
        section = stage.replace("-", ".", 1)  # as flags call it: retriever.ease
        for curve in recommender.curves.get(stage, ()):
            if curve.best_metric is not None and curve.best_epoch <= EARLY < len(curve.rows):
                best = f"the best of {len(curve.rows)} epochs was epoch {curve.best_epoch}"
                out.append(
                    f"{section}: {best}: it learns too fast, or by heart; try {', '.join(_tries(section, model))}"
                )
    return out


def _tries(section: str, model: Any) -> list[str]:
    """Settings of the model against learning too fast or by heart."""
    rate = getattr(model, "learning_rate", None)
    slower = [] if rate is None else [f"--{section}.learning-rate {rate / 3:.1g}"]
    more = [f"{word} --{section}.{key}" for key, word in CALMER.items() if hasattr(model, key)]
    return [*slower, *more] or ["a simpler model"]


def fact_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, value) lines of ``data_facts`` for a terminal."""
    each, declared = facts["events_per_user"], facts["items_declared"] - facts["items"]
    guests = f" and {facts['guest_sessions']:,} guest sessions" if facts["guest_sessions"] else ""
    unseen = f" and {declared:,} without events" if declared else ""
    when = f"{span(facts['first'], facts['last'])} (UTC)" if facts["first"] else "none: the log has no order"
    again = (
        f"{facts['repeats'] / facts['events']:.1%} of the events ({facts['repeats']:,}) repeat an earlier one of the "
    )
    return [
        ("events", f"{facts['events']:,}, of which {facts['positives']:,} positives"),
        ("users", f"{facts['users']:,}{guests}"),
        ("items", f"{facts['items']:,}{unseen}"),
        ("time", when),
        ("repeats", f"{again}same user and item"),
        ("events per user", f"mean {each['mean']:.1f}, median {each['median']:.0f}, most {each['most']:,}"),
        ("density", f"{facts['density']:.4%} of all pairs; {1 - facts['density']:.4%} are empty"),
        ("long tail", f"{facts['head_share']:.1%} of the positives fall on the top {HEAD:.0%} of the items"),
    ]
