"""Every feature of the pair by its definition, in loops over Python lists; and small logs to try them on."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from tests.helpers import make_log

ITEMS = 8
"""Items 1 to 8 of the item table; events take 1 to 6."""
QUARTER = 6 * 60 * 60 * 1_000_000
"""Six hours in microseconds."""
DAY = 4 * QUARTER
KINDS = {"colour": "categorical", "tags": "multi", "price": "numeric"}


def item_table(draw) -> dict:
    maybe = lambda values: draw(st.lists(st.none() | values, min_size=ITEMS, max_size=ITEMS))  # noqa: E731
    words = st.lists(st.sampled_from("xyz"), max_size=3).map("|".join)
    prices = st.sampled_from([1.0, 2.5, 9.0, math.nan])
    return {
        "item": list(range(1, ITEMS + 1)),
        "colour": maybe(st.sampled_from(["red", "blue"])),
        "tags": maybe(words),
        "price": maybe(prices),
    }


@st.composite
def shops(draw, times=None, most=25, users="abc"):
    """A log of a few users and items, with an item table of three kinds of columns; ties in time, labels, repeats."""
    n = draw(st.integers(1, most))
    column = lambda values: draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    columns = {"user": column(st.sampled_from(users)), "item": column(st.integers(1, 6))}
    if draw(st.booleans()) if times is None else times:
        columns["time"] = [quarter * QUARTER for quarter in column(st.integers(1, 300) | st.sampled_from([7, 8, 9]))]
    if draw(st.booleans()):
        columns["label"] = column(st.integers(0, 1))
    return make_log(items=item_table(draw), kinds=KINDS, **columns)


def weights(data: Dataset, window: int, shrinkage: float) -> dict:
    """(a, b) → w_ab of the co-visits, whole."""
    together, taken = Counter(), Counter()
    for row in data.histories.tolist():
        for at, a in enumerate(row):
            taken[a] += 1
            for behind in range(1, window + 1):
                if at + behind < len(row):
                    b = row[at + behind]
                    together[a, b] += 1 / behind
                    if not data.has_order:
                        together[b, a] += 1 / behind
    return {(a, b): c / (math.sqrt(taken[a] * taken[b]) + shrinkage) for (a, b), c in together.items()}


def covisit(table: dict, history: list, item: int, span: int) -> float:
    return sum(table.get((h, item), 0.0) / j for j, h in enumerate(reversed(history), start=1) if j <= span)


def standard(values: list, known: list) -> list:
    """Each less the mean of the known ones, over their standard deviation; from −8 to 8."""
    held = [value for value, there in zip(values, known) if there]
    if not held:
        return [0.0] * len(values)
    mean = sum(held) / len(held)
    spread = math.sqrt(sum((value - mean) ** 2 for value in held) / len(held))
    scaled = [(value - mean) / max(spread, 1e-6) for value in values]
    return [max(-8.0, min(8.0, value)) if there else 0.0 for value, there in zip(scaled, known)]


class Shop:
    """What the definitions read, as lists and dicts."""

    def __init__(self, data: Dataset, past: Dataset | None = None) -> None:
        frame = data.frames["item"]
        self.data = data
        self.colours = {i: {value} for i, value in enumerate(frame["colour"].to_list()) if value}
        self.tags = {
            i: {word for word in value.split("|") if word} for i, value in enumerate(frame["tags"].to_list()) if value
        }
        known = {i for i, value in enumerate(frame["price"].to_list()) if value is not None and not math.isnan(value)}
        self.prices = {i: float(data.item_features.numeric[i, 0]) for i in known}
        # values that train does not know are no categories of the vocabulary
        for column, codes in (("colour", self.colours), ("tags", self.tags)):
            (encoder,) = [one for one in data.encoders["item"].columns if one.name == column]
            for i in codes:
                codes[i] &= set(encoder.vocabulary)
        past = past or data
        self.takes = list(zip(past.histories.values.tolist(), past.history_times.tolist()))
        self.newest = max((time for _, time in self.takes), default=None)

    def before(self, item: int, time: int) -> int:
        return sum(one == item and at < time for one, at in self.takes)

    def met(self, codes: dict, history: list, item: int) -> tuple[float, float]:
        """``last`` and ``share`` of a column."""
        mine, last, shares = codes.get(item, set()), 0.0, []
        for code in mine:
            holding = [j for j, h in enumerate(reversed(history), start=1) if code in codes.get(h, set())]
            if holding:
                last = max(last, 1 / math.log2(1 + holding[0]))
            shares.append(len(holding) / len(history) if history else 0.0)
        return last, sum(shares) / len(shares) if shares else 0.0

    def difference(self, history: list, item: int) -> float:
        past = [self.prices[h] for h in history if h in self.prices]
        if item not in self.prices or not past:
            return 0.0
        return max(-8.0, min(8.0, self.prices[item] - sum(past) / len(past)))

    def dated(self, item: int, time: int) -> dict:
        now = time if self.newest is None else min(time, self.newest + 1)
        taken = self.before(item, now)
        first = min((at for one, at in self.takes if one == item and at < now), default=now)
        out = {"popularity": math.log2(1 + taken) / 8, "age": math.log2(1 + (now - first) / DAY) / 8 if taken else 0.0}
        for name, days in (("trend_day", 1), ("trend_week", 7), ("trend_month", 30)):
            lately = taken - self.before(item, now - days * DAY)
            earlier = self.before(item, now - days * DAY) - self.before(item, now - 2 * days * DAY)
            out[name] = math.log2((1 + lately) / (1 + earlier)) / 4
        return out

    def session(self, times: list, time: int) -> int:
        count, following = 0, time
        for at in reversed(times):
            if following - at > 30 * 60 * 1_000_000:
                break
            count, following = count + 1, at
        return count

    def features(self, table: dict, history: list, times: list, time: int, ids: list) -> dict:
        """Name → one number per candidate of a list; 0 pads."""
        rows = []
        for item in ids:
            row = {"difference:price": self.difference(history, item)}
            row["last:colour"], row["share:colour"] = self.met(self.colours, history, item)
            row["last:tags"], row["share:tags"] = self.met(self.tags, history, item)
            row |= self.dated(item, time) if self.data.has_time else {}
            row["history_length"] = math.log2(1 + len(history)) / 8
            if self.data.has_time:
                row["session_position"] = math.log2(1 + self.session(times, time)) / 8
            rows.append(row if item else dict.fromkeys(row, 0.0))
        out = {name: [row[name] for row in rows] for name in rows[0]}
        for span in (1, 5, 20):
            out[f"covisit_{span}"] = standard([covisit(table, history, i, span) for i in ids], [i > 0 for i in ids])
        return out
